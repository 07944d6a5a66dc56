"""Waves as flow runs: which are waited for, which are asked for, and what ends them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import httpx
import pytest
from prefect import flow
from prefect.client.orchestration import get_client
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Cancelling, Completed, Failed, Running, Scheduled

from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from flows import edit_dataset, wave_runs
from tasks.settings import Settings

Record = dict[str, Any]


def flow_run_of_wave(wave: int, tag: str, state: Any) -> Any:
    """A flow run on the server as a campaign has asked for it."""

    @flow(name="edit-wave")
    def edit_wave(wave: int) -> None: ...

    with get_client(sync_client=True) as client:
        return client.create_flow_run(edit_wave, parameters={"wave": wave}, tags=[tag], state=state).id


def state_of(run_id: Any) -> str:
    with get_client(sync_client=True) as client:
        return str(client.read_flow_run(run_id).state.type.value)


def in_a_flow(call: Any, *args: Any) -> Any:
    return flow(name="campaign", validate_parameters=False)(lambda: call(*args))()


def test_waves_at_work_are_waited_for_and_not_asked_again(
    prefect_harness: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A campaign that was killed finds the runs it has asked for, of its own tag alone, over several pages; those that
    are over are asked for again."""
    monkeypatch.setattr(wave_runs, "PAGE", 1)
    tag = f"campaign {uuid4()}"
    states = {0: Running(), 1: Scheduled(), 2: Failed(), 3: Cancelling()}
    at_work = {wave: flow_run_of_wave(wave, tag, state) for wave, state in states.items()}
    flow_run_of_wave(4, "another", Running())
    assert wave_runs.at_work(tag) == {wave: at_work[wave] for wave in (0, 1)}
    asked = []

    def run_deployment(name: str, parameters: Record, timeout: float, tags: list[str]) -> Any:
        assert tags == [tag, f"wave {parameters['wave']}"]
        asked.append(parameters["wave"])
        with get_client(sync_client=True) as client:  # by then the two have come to their end
            for wave in (0, 1):
                client.set_flow_run_state(at_work[wave], Completed(), force=True)
        return SimpleNamespace(id=flow_run_of_wave(parameters["wave"], tag, Completed()))

    monkeypatch.setattr(wave_runs, "run_deployment", run_deployment)
    in_a_flow(wave_runs.run_waves, "edit-wave/edit-wave", {}, tag, [0, 1, 2, 3, 4], 3)
    assert asked == [2, 3, 4]


def test_a_server_that_does_not_answer_ends_no_wave(prefect_harness: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again until it answers. Cancelling a campaign cancels its waves; an error of its own does not."""
    tag, down = f"campaign {uuid4()}", [OSError("away")] * 3
    (over, going) = flow_run_of_wave(0, tag, Completed()), flow_run_of_wave(1, tag, Running())

    def hiccup(**given: Any) -> Any:
        if down:
            raise down.pop()
        return get_client(**given)

    monkeypatch.setattr(wave_runs, "POLL_S", 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(wave_runs, "get_client", hiccup)
        assert in_a_flow(wave_runs.ended, {0: over, 1: going}) == [0] and down == []

    def stop(error: BaseException) -> str:
        def ended(running: Record) -> list[int]:
            raise error

        monkeypatch.setattr(wave_runs, "ended", ended)
        with pytest.raises(type(error)):
            in_a_flow(wave_runs.run_waves, "edit-wave/edit-wave", {}, tag, [1], 1)
        return state_of(going)

    assert [stop(RuntimeError("a bug")), stop(KeyboardInterrupt())] == ["RUNNING", "CANCELLING"]


def http_error(status: int) -> PrefectHTTPStatusError:
    request = httpx.Request("POST", "http://127.0.0.1/api/task_runs/")
    return PrefectHTTPStatusError("no", request=request, response=httpx.Response(status, request=request))


def test_a_run_of_several_waves_waits_for_its_server(prefect_harness: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between waves a server may be away or overloaded for a while: the wave is asked for again. What the server
    refuses is raised at once, and a server that stays away in the end."""
    given: Record = {"dataset": DatasetSpec(), "model": ModelSpec(), "inversion": InversionSpec()}
    settings = Settings(**given, recipe=RecipeSpec(), output=OutputSpec(), engine=EngineSpec())
    asked: list[int] = []

    def run(*errors: Exception) -> Any:
        coming = list(errors)

        def edit_wave(wave: int, **given: Any) -> Record:
            asked.append(wave)
            if coming:
                raise coming.pop()
            return {"clips": 1}

        monkeypatch.setattr(edit_dataset, "edit_wave", edit_wave)
        return in_a_flow(edit_dataset._as_flow_run, settings, {"plan": "p"}, 7, "edit")

    monkeypatch.setattr(edit_dataset, "SERVER_WAITS_S", (0, 0, 0))
    assert run(httpx.ConnectError("away"), http_error(503), http_error(429)) == {"clips": 1} and asked == [7] * 4
    asked.clear()
    with pytest.raises(PrefectHTTPStatusError):
        run(http_error(404))
    assert asked == [7]
    with pytest.raises(httpx.ReadTimeout):
        run(*(httpx.ReadTimeout("away") for _ in range(9)))
    assert asked == [7] * 5
