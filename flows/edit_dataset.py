"""The main flows: from a folder of videos and prompts to an edited dataset, one wave of batches after the other."""

from __future__ import annotations

import time
from typing import Any, Literal

from httpx import TransportError
from prefect import flow, get_run_logger
from prefect.exceptions import PrefectHTTPStatusError

from cogvideo_core.dataset.outcomes import Records, added
from cogvideo_core.errors import BadSpec, HopelessRun
from cogvideo_core.planning.tables import Planned, read_planned
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from flows.collecting import placing_by
from flows.engines import engine_of
from flows.report import finish, run_name
from flows.waves import LastStage, refused_counts, run_wave
from tasks import work
from tasks.settings import Settings

Record = dict[str, Any]
SERVER_WAITS_S = (60, 300, 900)  # each after Prefect's own tries, which take a minute or two


@flow(name="edit-dataset", flow_run_name=run_name, validate_parameters=True)
def edit_dataset(
    dataset: DatasetSpec = DatasetSpec(),  # noqa: B008 - frozen, and Prefect's form reads its defaults here
    model: ModelSpec = ModelSpec(),  # noqa: B008
    inversion: InversionSpec = InversionSpec(),  # noqa: B008
    recipe: RecipeSpec = RecipeSpec(),  # noqa: B008
    output: OutputSpec = OutputSpec(),  # noqa: B008
    engine: EngineSpec = EngineSpec(),  # noqa: B008
    judge: JudgeSpec = JudgeSpec(),  # noqa: B008
    mask: MaskSpec = MaskSpec(),  # noqa: B008
    screen: ScreenSpec = ScreenSpec(),  # noqa: B008
) -> Record:
    """Edits every clip of a dataset for every prompt; what is committed already is reused."""
    groups: Record = {"dataset": dataset, "model": model, "inversion": inversion, "recipe": recipe}
    settings = Settings(**groups, output=output, engine=engine, judge=judge, mask=mask, screen=screen)
    return run(settings, "edit")


@flow(name="invert-dataset", flow_run_name=run_name, validate_parameters=True)
def invert_dataset(
    dataset: DatasetSpec = DatasetSpec(),  # noqa: B008
    model: ModelSpec = ModelSpec(),  # noqa: B008
    inversion: InversionSpec = InversionSpec(),  # noqa: B008
    output: OutputSpec = OutputSpec(),  # noqa: B008
    engine: EngineSpec = EngineSpec(),  # noqa: B008
    screen: ScreenSpec = ScreenSpec(),  # noqa: B008
) -> Record:
    """Encodes and inverts every clip, so that later runs of edit-dataset on the same output only edit."""
    if inversion.save_steps == "window":
        raise BadSpec("field inversion.save_steps: window follows from a recipe, which this run has none of; use all")
    groups: Record = {"dataset": dataset, "model": model, "inversion": inversion, "recipe": RecipeSpec()}
    settings = Settings(**groups, output=output, engine=engine, screen=screen)
    return run(settings, "invert")


@flow(name="edit-wave", flow_run_name=run_name, validate_parameters=True)
def edit_wave(
    dataset: DatasetSpec = DatasetSpec(),  # noqa: B008
    model: ModelSpec = ModelSpec(),  # noqa: B008
    inversion: InversionSpec = InversionSpec(),  # noqa: B008
    recipe: RecipeSpec = RecipeSpec(),  # noqa: B008
    output: OutputSpec = OutputSpec(),  # noqa: B008
    engine: EngineSpec = EngineSpec(),  # noqa: B008
    judge: JudgeSpec = JudgeSpec(),  # noqa: B008
    mask: MaskSpec = MaskSpec(),  # noqa: B008
    screen: ScreenSpec = ScreenSpec(),  # noqa: B008
    wave: int = 0,
    plan: str = "",
    last_stage: Literal["edit", "invert"] = "edit",
    plan_folder: Literal["plan", "plan/retry"] = "plan",
) -> Record:
    """One wave of a plan that lies under the output's root; `plan` is the hash it must have. Returns its counts.

    Args:
        plan_folder: Where the plan lies: plan, or plan/retry for clips that failed before.
    """
    groups: Record = {"dataset": dataset, "model": model, "inversion": inversion, "recipe": recipe}
    settings = Settings(**groups, output=output, engine=engine, judge=judge, mask=mask, screen=screen, plan=plan_folder)
    if (found := read_planned(output.root, plan_folder)["plan"]) != plan:
        raise BadSpec(
            f"field plan: under {output.root!r} lies plan {found[:12]} and not {plan[:12]}; start the run anew"
        )
    with engine_of(settings.engine) as submit:
        return run_wave(settings, submit, wave, plan, last_stage)


def run(settings: Settings, last_stage: LastStage, only: list[list[Any]] | None = None) -> Record:
    """Plan, fan out wave by wave, collect, report. Returns the counts; raises when too few clips succeed, or when the
    first ones all fail for one reason."""
    gave_up = None
    try:
        with engine_of(settings.engine) as submit:
            planned: Planned = submit(work.discover_clips, settings, last_stage == "edit", only=only).result()
            get_run_logger().info("%(clips)d clips in %(batches)d batches, %(edits)d edits planned", planned)
            counts = refused_counts(planned)
            if planned["waves"] == 1:
                counts = added(counts, run_wave(settings, submit, 0, planned["plan"], last_stage))
        if planned["waves"] > 1:
            for wave in range(planned["waves"]):
                counts = added(counts, _as_flow_run(settings, planned, wave, last_stage))
    except HopelessRun as error:  # raised by a wave; what it has done is collected all the same
        gave_up = error
    collected = work.collect_dataset(settings, planned["waves"], last_stage, placing_by(settings.engine))
    records = Records(settings.output.root, planned["waves"], settings.plan)
    return finish(settings, records, counts, collected, gave_up)


def _as_flow_run(settings: Settings, planned: Planned, wave: int, last_stage: LastStage) -> Record:
    """Runs a wave as its own flow run, so that none grows beyond what Prefect shows and stores well. If the server does
    not answer, the wave is run again, and what is committed is reused."""
    groups: Record = {name: getattr(settings, name) for name in Settings.model_fields if name != "plan"}
    groups |= {"wave": wave, "plan": planned["plan"], "last_stage": last_stage, "plan_folder": settings.plan}
    counts: Any
    for wait_s in SERVER_WAITS_S:
        try:
            counts = edit_wave(**groups)
            return dict(counts)
        except (PrefectHTTPStatusError, TransportError) as error:
            if _refused(error):
                raise
            get_run_logger().warning("wave %d: no answer from the server; once more in %d s: %s", wave, wait_s, error)
            time.sleep(wait_s)
    counts = edit_wave(**groups)
    return dict(counts)


def _refused(error: Exception) -> bool:
    """Whether the server answered with a refusal: neither away nor overloaded."""
    return isinstance(error, PrefectHTTPStatusError) and error.response.status_code not in (408, 429, *range(500, 600))
