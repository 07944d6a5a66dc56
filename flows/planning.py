"""Planning without running: the work written down, and what it will cost."""

from __future__ import annotations

from typing import Any

from prefect import flow
from prefect.artifacts import create_markdown_artifact

from cogvideo_core.dataset.gallery import markdown_table
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from flows.engines import workers_of
from flows.report import run_name
from tasks import work
from tasks.settings import Settings

Record = dict[str, Any]


@flow(name="plan-dataset", flow_run_name=run_name, validate_parameters=True)
def plan_dataset(
    dataset: DatasetSpec = DatasetSpec(),  # noqa: B008
    model: ModelSpec = ModelSpec(),  # noqa: B008
    inversion: InversionSpec = InversionSpec(),  # noqa: B008
    recipe: RecipeSpec = RecipeSpec(),  # noqa: B008
    output: OutputSpec = OutputSpec(),  # noqa: B008
    engine: EngineSpec = EngineSpec(),  # noqa: B008
    judge: JudgeSpec = JudgeSpec(),  # noqa: B008
    mask: MaskSpec = MaskSpec(),  # noqa: B008
    screen: ScreenSpec = ScreenSpec(),  # noqa: B008
    probe: bool = False,
    estimate: bool = True,
) -> Record:
    """Writes plan/*.parquet and says what the run will cost. `probe` opens each clip; nothing is edited."""
    groups: Record = {"dataset": dataset, "model": model, "inversion": inversion, "recipe": recipe}
    settings = Settings(**groups, output=output, engine=engine, judge=judge, mask=mask, screen=screen)
    planned = work.discover_clips(settings, probe=probe)
    rows = [[name.replace("_", " "), f"{value:,}"] for name, value in planned.items() if isinstance(value, int)]
    if estimate:
        rows = work.estimate_run(settings, planned, workers_of(engine))
    table = markdown_table([{"what": what, "estimate": value} for what, value in rows], ["what", "estimate"])
    create_markdown_artifact(key="estimate", markdown=f"## The plan\n\n{table}")
    return {**planned, "rows": rows, "root": output.root}
