"""The main flow: from a folder of videos and prompts to an edited dataset."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger
from prefect.runtime import flow_run

from cogvideo_core.errors import BadSpec
from cogvideo_core.failures import is_failure
from cogvideo_core.plan import batches
from cogvideo_core.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.uris import unsigned
from flows.fan_out import in_window
from flows.report import Progress, finish, safe_name
from tasks import progress, work
from tasks.settings import Settings

Record = dict[str, Any]


def _run_name() -> str:
    given = flow_run.parameters
    source = unsigned((given.get("dataset") or DatasetSpec()).source).rstrip("/").split("/")[-1]
    recipe = given.get("recipe")
    return safe_name(f"{source} {recipe.name if recipe else ''} {flow_run.scheduled_start_time:%Y-%m-%d %H:%M}")


@flow(name="edit-dataset", flow_run_name=_run_name, validate_parameters=True)
def edit_dataset(
    dataset: DatasetSpec = DatasetSpec(),  # noqa: B008 - frozen, and Prefect's form reads its defaults here
    model: ModelSpec = ModelSpec(),  # noqa: B008
    inversion: InversionSpec = InversionSpec(),  # noqa: B008
    recipe: RecipeSpec = RecipeSpec(),  # noqa: B008
    output: OutputSpec = OutputSpec(),  # noqa: B008
    engine: EngineSpec = EngineSpec(),  # noqa: B008
) -> Record:
    """Edits every clip of a dataset for every prompt; what is committed already is reused."""
    settings = Settings(dataset=dataset, model=model, inversion=inversion, recipe=recipe, output=output, engine=engine)

    def chain(batch: list[Record]) -> Any:
        encoded = work.named(work.encode_batch, batch).submit(settings, batch)
        inverted = work.named(work.invert_batch, batch).submit(settings, encoded)
        return [encoded, inverted, work.named(work.edit_batch, batch).submit(settings, inverted)]

    return run(settings, chain, "edit")


@flow(name="invert-dataset", flow_run_name=_run_name, validate_parameters=True)
def invert_dataset(
    dataset: DatasetSpec = DatasetSpec(),  # noqa: B008
    model: ModelSpec = ModelSpec(),  # noqa: B008
    inversion: InversionSpec = InversionSpec(),  # noqa: B008
    output: OutputSpec = OutputSpec(),  # noqa: B008
    engine: EngineSpec = EngineSpec(),  # noqa: B008
) -> Record:
    """Encodes and inverts every clip, so that later runs of edit-dataset on the same output only edit."""
    if inversion.save_steps == "window":
        raise BadSpec("field inversion.save_steps: window follows from a recipe, which this run has none of; use all")
    settings = Settings(
        dataset=dataset, model=model, inversion=inversion, recipe=RecipeSpec(), output=output, engine=engine
    )

    def chain(batch: list[Record]) -> Any:
        encoded = work.named(work.encode_batch, batch).submit(settings, batch)
        return [encoded, work.named(work.invert_batch, batch).submit(settings, encoded, only_if_needed=False)]

    return run(settings, chain, "invert")


def run(settings: Settings, chain: Any, last_stage: str) -> Record:
    """Plan, embed, fan out, collect, report. Returns the counts; raises when too few clips succeed."""
    logger = get_run_logger()
    edits_wanted = last_stage == "edit"
    records = work.discover_clips(settings, edits_wanted)
    planned = batches(records)
    clips = sum(map(len, planned))
    edits = sum(len(r["target_prompts"]) for batch in planned for r in batch) * len(settings.recipe.seeds)
    logger.info("%d clips in %d batches, %d edits planned", clips, len(planned), edits)
    done = [record for record in records if is_failure(record)]
    if planned:
        work.embed_prompts(settings, records, edits_wanted)
    with progress.bars(clips, edits if edits_wanted else 0), Progress(clips) as reported:
        for batch in in_window(planned, chain, settings.engine.batches_in_flight):
            done += batch
            reported.advance(batch, logger)
    counts = work.collect_dataset(settings, done, last_stage)
    return finish(settings, done, counts, last_stage)
