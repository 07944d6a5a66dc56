"""Runs in waves, runs of what failed, runs that are stopped: what each does again and what it leaves alone."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pyarrow.parquet as pq
import pytest
from prefect import flow, task

from cogvideo_core.dataset.outcomes import Records, Spool, finished, parked
from cogvideo_core.errors import BadSpec
from cogvideo_core.models import model
from cogvideo_core.planning.tables import write_plan
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.shapes.make import make_clips
from flows import edit_dataset, resuming, wave_runs
from flows.engines import engine_of
from flows.fan_out import in_window
from tasks import stopping
from tasks.settings import Settings

Record = dict[str, Any]
ENGINE = {"batches_per_wave": 1, "retries": 0}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three short clips with two prompts each, and their manifest."""
    return make_clips(tmp_path_factory.mktemp("made"), 3, prompts=2).parent


@pytest.fixture
def clips(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "in"))


@pytest.fixture
def groups(prefect_harness: None, tiny_pipeline_folder: Path, clips: Path, tmp_path: Path) -> Record:
    return {
        "dataset": DatasetSpec(source=str(next(clips.glob("manifest*")))),
        "model": ModelSpec(path=str(tiny_pipeline_folder)),
        "inversion": InversionSpec(method="fixed_point", steps=4, gate="off"),
        "recipe": RecipeSpec(),
        "output": OutputSpec(root=str(tmp_path / "run")),
        "engine": EngineSpec(**ENGINE),
    }


def evaluations(groups: Record, run: Any, **more: Any) -> tuple[Record, int]:
    """What a flow returns, and the evaluations that the model really made for it."""
    loaded = model.loaded(groups["model"])
    before = loaded.evaluations
    return run(**more), loaded.evaluations - before


def errors(root: str) -> list[Record]:
    return pq.read_table(f"{root}/tables/errors.parquet").to_pylist()


def test_waves_then_only_what_failed(groups: Record, clips: Path) -> None:
    """Three waves of one clip each give one dataset. A clip that failed is run again alone: the others are not even
    looked at, and their plan stays; what is mended leaves the table; with nothing failed nothing is done."""
    broken, root = sorted(clips.glob("*.mp4"))[1], groups["output"].root
    good = broken.read_bytes()
    broken.write_bytes(b"no video")
    counts, whole = evaluations(groups, edit_dataset.edit_dataset, **groups)
    assert (counts["clips"], counts["failed"], counts["edits_made"], counts["dataset_edits"]) == (3, 1, 4, 4)
    assert sorted(path.name for path in Path(root, "plan/waves").iterdir()) == [f"{n:05d}.jsonl" for n in range(3)]
    assert [(row["clip"], row["attempts"], row["parked"]) for row in errors(root)] == [(broken.name, 1, False)]
    counts, spent = evaluations(groups, resuming.retry_failed, root=root)
    assert (counts["clips"], counts["failed"], spent) == (1, 1, 0)
    assert [row["attempts"] for row in errors(root)] == [2]
    broken.write_bytes(good)
    counts, spent = evaluations(groups, resuming.retry_failed, root=root)
    assert (counts["clips"], counts["failed"], counts["edits_made"], counts["edits_reused"]) == (1, 0, 2, 0)
    assert spent == whole / 2 and counts["dataset_edits"] == 6 and errors(root) == []
    assert len(pq.read_table(f"{root}/plan/clips.parquet")) == 3
    counts, spent = evaluations(groups, resuming.retry_failed, root=root)
    assert (counts["clips"], counts["dataset_edits"], spent) == (0, 6, 0)


def test_a_clip_that_keeps_failing_is_parked(groups: Record, clips: Path) -> None:
    """After `park_after` attempts over all runs it is not opened again, stays in the table as parked, and only a retry
    that asks for it tries once more. A changed file is another clip and is tried at once."""
    broken, root = sorted(clips.glob("*.mp4"))[1], groups["output"].root
    good = broken.read_bytes()
    broken.write_bytes(b"no video")
    groups["engine"] = EngineSpec(park_after=2)
    attempts = []
    for _ in range(3):
        counts = edit_dataset.edit_dataset(**groups)
        (row,) = errors(root)
        attempts.append((row["attempts"], row["parked"], counts["parked"]))
    assert attempts == [(1, False, 0), (2, False, 0), (2, True, 1)]
    assert resuming.retry_failed(root)["clips"] == 0
    assert (resuming.retry_failed(root, include_parked=True)["failed"], errors(root)[0]["attempts"]) == (1, 3)
    broken.write_bytes(good)
    assert edit_dataset.edit_dataset(**groups)["failed"] == 0 and errors(root) == []


def test_retrying_where_nothing_was_run_is_refused(prefect_harness: None, tmp_path: Path) -> None:
    """One sentence about the root."""
    (tmp_path / "tables").mkdir()
    table = {name: [value] for name, value in {"clip": "a", "window": 0, "parked": False, "source_id": ""}.items()}
    import pyarrow as pa

    pq.write_table(pa.table(table), tmp_path / "tables/errors.parquet")
    with pytest.raises(BadSpec, match="keeps no settings"):
        resuming.retry_failed(str(tmp_path))


def deployment_here(monkeypatch: pytest.MonkeyPatch, lost: set[int]) -> list[int]:
    """The worker of edit-wave is this process, here and now, except that it dies on some waves; what it was asked."""
    asked = []

    def run_deployment(name: str, parameters: Record, timeout: float, tags: list[str]) -> Any:
        assert (name, timeout) == ("edit-wave/edit-wave", 0) and json.loads(json.dumps(parameters)) == parameters
        asked.append(parameters["wave"])
        if parameters["wave"] not in lost:
            edit_dataset.edit_wave(**parameters)
        return SimpleNamespace(id=uuid4())

    monkeypatch.setattr(wave_runs, "run_deployment", run_deployment)
    monkeypatch.setattr(wave_runs, "ended", list)
    return asked


def test_a_campaign_resumes_where_it_was(groups: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each wave is asked of the deployment once; one whose run dies is missing, and the next campaign asks for that
    one alone and gives the dataset of an undisturbed run."""
    lost = {1}
    asked = deployment_here(monkeypatch, lost)
    with pytest.raises(resuming.CampaignUnfinished, match=r"waves \[1\] of 3 did not come to their end"):
        resuming.run_campaign(**groups)
    lost.clear()
    counts, spent = evaluations(groups, resuming.run_campaign, **groups)
    assert asked == [0, 1, 2, 1]
    assert (counts["clips"], counts["failed"], counts["dataset_edits"]) == (3, 0, 6)
    other = groups | {"output": OutputSpec(root=groups["output"].root + "-other")}
    _, undisturbed = evaluations(groups, edit_dataset.edit_dataset, **other)
    assert spent == undisturbed / 3
    names = (
        "dataset/metadata.jsonl",
        *(f"dataset/videos/{p.name}" for p in Path(f"{counts['root']}/dataset/videos").iterdir()),
    )
    for name in names:
        assert Path(counts["root"], name).read_bytes() == Path(other["output"].root, name).read_bytes()
    with pytest.raises(BadSpec, match="field plan: under"):
        edit_dataset.edit_wave(**groups, wave=0, plan="0" * 64)
    asked.clear()
    assert resuming.run_campaign(**groups)["edits_made"] == 6 and asked == []  # counts of what was found
    changed = groups | {"recipe": RecipeSpec(guidance_scale=3.0)}
    counts, spent = evaluations(changed, resuming.run_campaign, **changed)
    assert asked == [0, 1, 2] and (counts["edits_made"], counts["dataset_edits"]) == (6, 12) and spent > 0


@pytest.mark.parametrize(
    ("changed", "same"),
    [
        ({"recipe": RecipeSpec(guidance_scale=3.0)}, False),
        ({"inversion": InversionSpec(steps=4)}, False),
        ({"model": ModelSpec(lora="x")}, False),
        ({"model": ModelSpec(weights="int8")}, False),
        ({"model": ModelSpec(text_device="cpu", fit="auto")}, True),
        ({"dataset": DatasetSpec(fit="pad")}, False),
        ({"output": OutputSpec(crf=20)}, False),
        ({"output": OutputSpec(root="elsewhere", gallery=False)}, True),
        ({"engine": EngineSpec(clips_per_batch=4)}, True),
    ],
)
def test_settings_that_change_results_change_their_hash(changed: Record, same: bool) -> None:
    """Place and spread of the work do not; and what is sent to a wave as JSON has the hash it had."""
    kinds = {"dataset": DatasetSpec, "model": ModelSpec, "inversion": InversionSpec, "recipe": RecipeSpec}
    groups = {name: kind() for name, kind in kinds.items()} | {"output": OutputSpec(), "engine": EngineSpec()}
    one, other = Settings(**groups), Settings(**(groups | changed))
    assert (one.results == other.results) == same
    assert Settings(**json.loads(json.dumps(other.as_json()))).results == other.results
    seed = Settings(**(groups | {"recipe": RecipeSpec(preset="seed")}))
    assert Settings(**json.loads(json.dumps(seed.as_json()))).results == seed.results != one.results


def test_a_judge_is_part_of_results_where_it_decides_what_is_made() -> None:
    """With a ladder or early stops another judge makes other edits; without them it only decides which are kept."""
    kinds = (DatasetSpec, ModelSpec, InversionSpec, RecipeSpec, OutputSpec, EngineSpec)
    groups = dict(
        zip(("dataset", "model", "inversion", "recipe", "output", "engine"), (k() for k in kinds), strict=True)
    )
    strict, ladder = JudgeSpec(preset="strict"), {"recipe": RecipeSpec(ladder=["fast"])}

    def results(**changed: Any) -> str:
        return Settings(**groups | changed).results

    assert results() == results(judge=strict)
    assert results(**ladder) != results(**ladder, judge=strict)
    assert results(judge=JudgeSpec(early_stop="on")) != results()


def test_more_failures_than_a_wave_holds_are_tried_again(groups: Record, clips: Path) -> None:
    """Two failed clips in waves of one clip each: both are run again, each wave from the retry's own plan, and the
    settings of the root stay those of its run."""
    broken, root = sorted(clips.glob("*.mp4"))[:2], groups["output"].root
    good = [path.read_bytes() for path in broken]
    for path in broken:
        path.write_bytes(b"no video")
    groups["engine"] = EngineSpec(**ENGINE, min_success_ratio=0.1)
    assert edit_dataset.edit_dataset(**groups)["failed"] == 2
    kept = Path(root, "plan/settings.json").read_text()
    for path, data in zip(broken, good, strict=True):
        path.write_bytes(data)
    counts = resuming.retry_failed(root, include_parked=True)
    assert (counts["clips"], counts["failed"], counts["edits_made"], counts["dataset_edits"]) == (2, 0, 4, 6)
    assert errors(root) == [] and Path(root, "plan/settings.json").read_text() == kept
    assert sorted(path.name for path in Path(root, "plan/retry/waves").iterdir()) == ["00000.jsonl", "00001.jsonl"]


def test_a_retry_goes_as_far_as_the_run_went(groups: Record, clips: Path) -> None:
    """After a run that only inverts, what failed is inverted and not edited."""
    broken, root = sorted(clips.glob("*.mp4"))[0], groups["output"].root
    good = broken.read_bytes()
    broken.write_bytes(b"no video")
    inverted = {name: group for name, group in groups.items() if name != "recipe"}
    assert edit_dataset.invert_dataset(**inverted)["failed"] == 1
    broken.write_bytes(good)
    counts, spent = evaluations(groups, resuming.retry_failed, root=root)
    assert (counts["clips"], counts["failed"], counts["edits"], spent) == (1, 0, 0, 4 * 2) and errors(root) == []


def test_a_retry_takes_back_what_stopped_the_run_before() -> None:
    """The event on the cluster outlives the flow, and the flow's name: set by the one that was stopped, it is cleared
    by the one that follows."""
    event = threading.Event()
    with pytest.raises(KeyboardInterrupt), stopping.stopping_with_the_body(event):
        raise KeyboardInterrupt
    assert event.is_set()
    with stopping.stopping_with_the_body(event):
        assert not event.is_set()
        stopping.check()
    assert not event.is_set()


def test_retry_in_the_ui_does_what_is_missing(groups: Record, clips: Path) -> None:
    """The same flow run, failed and then set to run again as the UI's Retry does: committed edits are counted as
    reused, the mended clip's are made, and the model works for that clip alone."""
    from prefect.client.orchestration import get_client
    from prefect.flow_engine import run_flow
    from prefect.states import AwaitingRetry

    broken = sorted(clips.glob("*.mp4"))[1]
    good = broken.read_bytes()
    broken.write_bytes(b"no video")
    groups["engine"] = EngineSpec(min_success_ratio=1.0)
    state = edit_dataset.edit_dataset(**groups, return_state=True)
    assert state.is_failed()
    broken.write_bytes(good)
    run_id = state.state_details.flow_run_id
    with get_client(sync_client=True) as client:
        client.set_flow_run_state(run_id, AwaitingRetry(), force=True)
        flow_run = client.read_flow_run(run_id)
    counts, spent = evaluations(groups, run_flow, flow=edit_dataset.edit_dataset, flow_run=flow_run, parameters=groups)
    assert (counts["edits_made"], counts["edits_reused"], counts["failed"]) == (2, 4, 0)
    assert spent == counts["evaluations"] > 0
    with get_client(sync_client=True) as client:
        again_run = client.read_flow_run(run_id)
    assert again_run.run_count == 2 and again_run.state.is_completed()


def limit_on_server(name: str) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate

    with get_client(sync_client=True) as client:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=name, limit=2))


@pytest.mark.parametrize("run", [edit_dataset.edit_dataset, resuming.run_campaign])
def test_a_concurrency_limit_that_is_missing_is_one_sentence(groups: Record, run: Any) -> None:
    """Said before anything is planned, and not as a failure of each clip."""
    groups["engine"] = EngineSpec(concurrency_limit="nowhere")
    sentence = r"^field engine\.concurrency_limit: the server has no global concurrency limit 'nowhere'"
    with pytest.raises(BadSpec, match=sentence):
        run(**groups)
    assert not Path(groups["output"].root).exists()


def test_a_campaign_plans_without_the_model(groups: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine may have no GPU, and keeps no weights: it reads the configuration, and waits."""
    deployment_here(monkeypatch, {0, 1, 2})

    def load(spec: ModelSpec) -> Any:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(model, "load", load)
    groups["model"] = groups["model"].model_copy(update={"device": "cuda"})
    with model.unloaded(), pytest.raises(resuming.CampaignUnfinished, match=r"waves \[0, 1, 2\] of 3"):
        resuming.run_campaign(**groups)
    assert len(pq.read_table(f"{groups['output'].root}/plan/clips.parquet")) == 3


def test_a_concurrency_limit_is_held_while_the_model_works(groups: Record, monkeypatch: pytest.MonkeyPatch) -> None:
    """Inverting and editing each hold a slot of the named limit, and give it back; encoding holds none."""
    held: list[str] = []

    @contextlib.contextmanager
    def concurrency(name: str, strict: bool) -> Iterator[None]:
        assert (name, strict) == ("gpu-0", True)
        held.append("taken")
        yield
        held.append("given back")

    limit_on_server("gpu-0")
    monkeypatch.setattr("prefect.concurrency.sync.concurrency", concurrency)
    groups["engine"] = EngineSpec(concurrency_limit="gpu-0", clips_per_batch=3)
    assert edit_dataset.edit_dataset(**groups)["edits_made"] == 6
    assert held == ["taken", "given back"] * 2


def test_a_stopped_flow_stops_its_tasks_at_their_next_step(prefect_harness: None) -> None:
    """A task that would take a thousand steps ends at the one it is in when the flow is left by Ctrl-C; a flow that
    follows in the same process is not stopped."""
    steps, running = [], threading.Event()

    @task(persist_result=False)
    def work() -> int:
        for step in range(1_000):
            stopping.check()
            steps.append(step)
            running.set()
            threading.Event().wait(0.02)
        return len(steps)

    @flow
    def outer(stop: bool) -> None:
        with engine_of(EngineSpec()) as submit:
            submit(work)
            assert running.wait(60)
            if stop:
                steps.clear()
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        outer(True)
    assert len(steps) <= 2
    stopping._asked.clear()
    stopping.check()


def test_the_stop_of_a_real_cluster_is_taken_back() -> None:
    """A worker sees the event of the flow that was stopped, and no longer once the flow runs again."""
    distributed = pytest.importorskip("distributed")
    name = stopping.event_name(uuid4())

    def seen() -> bool:
        return bool(distributed.Event(name).is_set())

    options = {"n_workers": 1, "threads_per_worker": 1, "processes": False, "dashboard_address": None}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        event = distributed.Event(name, client=client)
        with pytest.raises(KeyboardInterrupt), stopping.stopping_with_the_body(event):
            assert not client.submit(seen, pure=False).result()
            raise KeyboardInterrupt
        assert client.submit(seen, pure=False).result()
        with stopping.stopping_with_the_body(event):
            assert not client.submit(seen, pure=False).result()


def test_a_wait_for_another_try_ends_with_the_flow() -> None:
    """Of a minute's pause nothing is left once the flow has asked to stop."""
    stopping._asked.clear()
    timer = threading.Timer(0.2, stopping._asked.set)
    timer.start()
    try:
        with pytest.raises(stopping.Stopped):
            stopping.pause(60)
    finally:
        timer.join(1)
        stopping._asked.clear()
    stopping.pause(0.01)


class Done:
    """A future that is finished."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        return self.value


def test_the_parents_memory_stays_flat_over_20_000_batches() -> None:
    """Windowing and writing down what became of 20,000 batches takes no more memory at the end than in the middle."""

    def batches() -> Iterator[list[Record]]:
        for n in range(20_000):
            yield [{"clip": f"{n}.mp4", "target_prompts": ["x" * 1_000] * 4, "timings": [], "edits": []}]

    tracemalloc.start()
    held = []
    with Spool("edit") as spool:
        for done in in_window(batches(), lambda batch: [[Done([batch[0] | {"edits": []}])]], 16):
            spool.add(done)
            if spool.counts["clips"] % 10_000 == 0:
                held.append(tracemalloc.get_traced_memory()[0])
    tracemalloc.stop()
    assert spool.counts["succeeded"] == 20_000
    assert held[1] - held[0] < 1_000_000 and held[1] < 100_000_000


def test_records_of_waves_are_read_as_often_as_one_likes(tmp_path: Path) -> None:
    """Refused rows first, then each wave's; a wave that was never run is missing and not finished; one with something
    to try again is not finished either."""
    root = str(tmp_path)
    write_plan(root, [{"clip": "gone", "error": "MissingClip", "stage": "discover"}], RecipeSpec(), EngineSpec())
    failed = {"clip": "b", "error": "StorageError", "retryable": True}
    for wave, rows in ((0, [{"clip": "a"}]), (2, [failed])):
        with Spool("edit") as spool:
            spool.add(rows)
            spool.publish(root, wave, {"plan": "p", "settings": "s"})
    records, of = Records(root, 3), {"plan": "p", "settings": "s", "stage": "edit"}
    assert [[record["clip"] for record in records] for _ in range(2)] == [["gone", "a", "b"]] * 2
    assert [bool(finished(root, wave, of)) for wave in range(3)] == [True, False, False]
    assert finished(root, 2, of, retryable=True)["failed"] == 1  # type: ignore[index]
    others = {"plan": "other", "settings": "other", "stage": "invert"}
    assert not any(finished(root, 0, of | {name: value}) for name, value in others.items())


def test_attempts_of_earlier_runs_are_added_up() -> None:
    """A clip unknown to the error table stays as it is; a known one brings its attempts; then it is parked."""
    record = {"source_id": "s", "window": 0, "clip": "a", "name": "a"}
    row = {"stage": "edit", "error": "E", "kind": "bug", "message": "m", "attempts": 3, "retryable": False}
    assert parked(record, {}, 3) is record
    assert parked(record, {("s", 0): row}, 4) == record | {"attempts_before": 3}
    assert parked(record, {("s", 0): row}, 3) == record | row | {"parked": True, "timings": []}
