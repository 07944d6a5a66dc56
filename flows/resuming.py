"""Runs that continue earlier ones: only the failed clips, or only the missing waves."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, get_run_logger
from pydantic import Field, ValidationError

from cogvideo_core.dataset.outcomes import Records, added, finished
from cogvideo_core.dataset.tables import kept_settings, read_table
from cogvideo_core.errors import BadSpec, EditError
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import (
    DatasetSpec,
    EngineSpec,
    InversionSpec,
    ModelSpec,
    OutputSpec,
    RecipeSpec,
    fingerprint,
)
from cogvideo_core.stages.failures import STAGES
from flows.collecting import placing_by
from flows.edit_dataset import run
from flows.engines import check_limit
from flows.report import finish, run_name
from flows.wave_runs import run_waves
from flows.waves import LastStage, refused_counts
from tasks import work
from tasks.settings import Settings

Record = dict[str, Any]
Root = Annotated[str, Field(min_length=1)]


@flow(name="retry-failed", flow_run_name=run_name, validate_parameters=True)
def retry_failed(root: Root = "out/demo", include_parked: bool = False) -> Record:
    """Runs again what stands in tables/errors.parquet, with the settings of the root's last run, and nothing else.

    Args:
        root: Folder or fsspec URL of the run whose failed clips are tried again.
        include_parked: Also clips that were tried too often.
    """
    settings, last_stage = last_settings(root)
    reached = {*STAGES[: STAGES.index(last_stage) + 1], "collect"}
    rows = [row for row in read_table(root, "errors") if row["stage"] in reached]
    rows = [row for row in rows if include_parked or not row.get("parked")]
    if not rows:
        get_run_logger().info("nothing to do: no clip in %s/tables/errors.parquet is to be tried again", root)
        return added({}, {}) | {
            "root": root,
            "dataset_edits": sum(row.get("kept") is not False for row in read_table(root, "edits")),
        }
    engine = {"min_success_ratio": 0.0} | ({"park_after": 1000} if include_parked else {})
    again = {"plan": "plan/retry", "engine": settings.engine.model_copy(update=engine)}
    only = [[row["clip"], row["window"]] for row in rows]
    return run(settings.model_copy(update=again), last_stage, only)


def last_settings(root: str) -> tuple[Settings, LastStage]:
    """The groups of the root's last run, and how far it went. Raises BadSpec where none are kept, or they are of
    another version."""
    kept = kept_settings(root, {})
    last_stage: LastStage = "invert" if kept.pop("last_stage", "edit") == "invert" else "edit"
    try:
        return Settings(**(kept | {"output": kept.get("output", {}) | {"root": root}})), last_stage
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
    judge: JudgeSpec = JudgeSpec(),  # noqa: B008
    mask: MaskSpec = MaskSpec(),  # noqa: B008
    screen: ScreenSpec = ScreenSpec(),  # noqa: B008
    deployment: str = "edit-wave/edit-wave",
    waves_in_flight: Annotated[int, Field(ge=1, le=1024)] = 1,
) -> Record:
    """Plans, then runs each wave through a deployment of edit-wave; waves of the same plan that are finished stay.

    Args:
        deployment: Of the flow edit-wave, as flow/name.
        waves_in_flight: Waves that are asked for at a time; as many as there are workers.
    """
    groups: Record = {"dataset": dataset, "model": model, "inversion": inversion, "recipe": recipe}
    settings = Settings(**groups, output=output, engine=engine, judge=judge, mask=mask, screen=screen)
    check_limit(engine)
    planned = work.discover_clips(settings)
    about = {"plan": planned["plan"], "settings": settings.results, "stage": "edit"}
    done = {wave: finished(output.root, wave, about) for wave in range(planned["waves"])}
    todo = [wave for wave, found in done.items() if found is None]
    get_run_logger().info("%d of %d waves are not finished", len(todo), planned["waves"])
    groups = {name: group for name, group in settings.as_json().items() if name != "plan"}
    tag = f"cogvideo-edit campaign {fingerprint([output.root, about])[:16]}"
    run_waves(deployment, groups | {"plan": planned["plan"]}, tag, todo, waves_in_flight)
    counts, lost = refused_counts(planned), list[int]()
    for wave, found in done.items():
        reported = found or finished(output.root, wave, about, retryable=True)
        counts = added(counts, reported or {})
        lost += [] if reported else [wave]
    collected = work.collect_dataset(settings, planned["waves"], placing=placing_by(engine))
    if lost:
        raise CampaignUnfinished(
            f"waves {lost} of {planned['waves']} did not come to their end; run the campaign again"
        )
    return finish(settings, Records(output.root, planned["waves"]), counts, collected)
