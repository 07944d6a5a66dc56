"""Runs that go on from what others left: only the failed clips, or the waves that are missing."""

from __future__ import annotations

import time
from collections import deque
from typing import Annotated, Any
from uuid import UUID

from prefect import flow, get_run_logger
from prefect.client.orchestration import get_client
from prefect.deployments import run_deployment
from prefect.states import Cancelling
from pydantic import Field, ValidationError

from cogvideo_core.errors import BadSpec, EditError
from cogvideo_core.outcomes import Records, added, finished
from cogvideo_core.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.tables import kept_settings, read_table
from flows.edit_dataset import run
from flows.report import finish, run_name
from flows.waves import refused_counts
from tasks import work
from tasks.settings import Settings

Record = dict[str, Any]
Root = Annotated[str, Field(min_length=1)]
POLL_S = 5.0


@flow(name="retry-failed", flow_run_name=run_name, validate_parameters=True)
def retry_failed(root: Root = "out/demo", include_parked: bool = False) -> Record:
    """Runs again what stands in tables/errors.parquet, with the settings of the root's last run, and nothing else.

    Args:
        root: Folder or fsspec URL of the run whose failed clips are tried again.
        include_parked: Also clips that were tried too often.
    """
    settings = last_settings(root)
    rows = [row for row in read_table(root, "errors") if include_parked or not row.get("parked")]
    if not rows:
        get_run_logger().info("nothing to do: no clip in %s/tables/errors.parquet is to be tried again", root)
        return added({}, {}) | {"root": root, "dataset_edits": len(read_table(root, "edits"))}
    engine = {"min_success_ratio": 0.0} | ({"park_after": 1000} if include_parked else {})
    again = {"plan": "plan/retry", "engine": settings.engine.model_copy(update=engine)}
    only = [[row["clip"], row["window"]] for row in rows]
    return run(settings.model_copy(update=again), "edit", only)


def last_settings(root: str) -> Settings:
    """The six groups of the root's last run. Raises BadSpec where none are kept, or they are of another version."""
    kept = kept_settings(root, {})
    try:
        return Settings(**(kept | {"output": kept.get("output", {}) | {"root": root}}))
    except ValidationError as error:
        raise BadSpec(
            f"field root: {root!r} keeps no settings that can be used again; run it with cogvideo-edit run"
        ) from error


class CampaignUnfinished(EditError):
    """A wave did not come to its end."""

    ran = True
    retryable = True


@flow(name="run-campaign", flow_run_name=run_name, validate_parameters=True)
def run_campaign(
    dataset: DatasetSpec = DatasetSpec(),  # noqa: B008
    model: ModelSpec = ModelSpec(),  # noqa: B008
    inversion: InversionSpec = InversionSpec(),  # noqa: B008
    recipe: RecipeSpec = RecipeSpec(),  # noqa: B008
    output: OutputSpec = OutputSpec(),  # noqa: B008
    engine: EngineSpec = EngineSpec(),  # noqa: B008
    deployment: str = "edit-wave/edit-wave",
    waves_in_flight: Annotated[int, Field(ge=1, le=1024)] = 1,
) -> Record:
    """Plans, then runs each wave through a deployment of edit-wave; waves of the same plan that are finished stay.

    Args:
        deployment: Of the flow edit-wave, as flow/name.
        waves_in_flight: Waves that are asked for at a time; as many as there are workers.
    """
    settings = Settings(dataset=dataset, model=model, inversion=inversion, recipe=recipe, output=output, engine=engine)
    planned = work.discover_clips(settings)
    counts, lost = refused_counts(planned), list[int]()
    done = {wave: finished(output.root, wave, planned["plan"], "edit") for wave in range(planned["waves"])}
    todo = deque(wave for wave, found in done.items() if found is None)
    get_run_logger().info("%d of %d waves are to be run", len(todo), planned["waves"])
    running: dict[int, UUID] = {}
    groups = {name: group for name, group in settings.as_json().items() if name != "plan"}
    try:
        while todo or running:
            while todo and len(running) < waves_in_flight:
                asked = groups | {"wave": todo[0], "plan": planned["plan"]}
                started: Any = run_deployment(deployment, parameters=asked, timeout=0)
                running[todo.popleft()] = started.id
            for wave in _ended(running):
                del running[wave]
    except BaseException:
        _cancel(running)
        raise
    for wave, found in done.items():
        reported = found or finished(output.root, wave, planned["plan"], "edit", retryable=True)
        counts = added(counts, reported or {})
        lost += [] if reported else [wave]
    collected = work.collect_dataset(settings, planned["waves"])
    if lost:
        raise CampaignUnfinished(
            f"waves {lost} of {planned['waves']} did not come to their end; run the campaign again"
        )
    return finish(settings, Records(output.root, planned["waves"]), counts, collected)


def _ended(running: dict[int, UUID]) -> list[int]:
    """The waves whose flow runs are over, as soon as there is one."""
    while True:
        with get_client(sync_client=True) as client:
            states = {wave: client.read_flow_run(run_id).state for wave, run_id in running.items()}
        if ended := [wave for wave, state in states.items() if state and state.is_final()]:
            return ended
        time.sleep(POLL_S)


def _cancel(running: dict[int, UUID]) -> None:
    with get_client(sync_client=True) as client:
        for run_id in running.values():
            client.set_flow_run_state(run_id, Cancelling())
