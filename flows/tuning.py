"""Searching for a recipe on a person's own model and clips: chosen, inverted once, and tried by the judge."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact

from cogvideo_core.dataset.gallery import escape_markdown, markdown_table
from cogvideo_core.inputs import places
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.settings.presets import PRESETS
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec
from cogvideo_core.settings.tune_specs import TuneSpec
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.storage.uris import unsigned
from flows.engines import Submit, engine_of
from flows.report import run_name
from tasks import tuning, work
from tasks.progress import bars
from tasks.settings import Settings

Record = dict[str, Any]
QUALITIES = ("text", "preserved", "motion")


@flow(name="tune-recipe", flow_run_name=run_name, validate_parameters=True)
def tune_recipe(
    dataset: DatasetSpec = DatasetSpec(),  # noqa: B008 - frozen, and the form reads its defaults here
    model: ModelSpec = ModelSpec(),  # noqa: B008
    tune: TuneSpec = TuneSpec(),  # noqa: B008
    inversion: InversionSpec = InversionSpec(),  # noqa: B008
    output: OutputSpec = OutputSpec(),  # noqa: B008
    engine: EngineSpec = EngineSpec(),  # noqa: B008
    judge: JudgeSpec = JudgeSpec(),  # noqa: B008
    mask: MaskSpec = MaskSpec(),  # noqa: B008
    screen: ScreenSpec = ScreenSpec(),  # noqa: B008
) -> Record:
    """Finds a recipe for this model on a few of the clips; run again, the search goes on where it stopped."""
    from cogvideo_core.models.configuration import configured
    from cogvideo_core.planning.plan import check_shape, planned_clips
    from cogvideo_core.tuning import preparing, report

    own, logger, began = preparing.check_judge(judge, model.path), get_run_logger(), time.monotonic()
    places.check_places(dataset, output)
    places.check_source(dataset, True)
    known = configured(model)
    check_shape(dataset, known)
    groups: Record = {"dataset": dataset, "model": model, "recipe": PRESETS[tune.against], "mask": mask}
    kept = inversion.model_copy(update={"save_steps": "all"})
    settings = Settings(**groups, inversion=kept, output=output, engine=engine, judge=own, screen=screen)
    ledger = Ledger(output.root)
    with engine_of(engine) as submit, bars(None, None):
        found = planned_clips(dataset, known, True, False, screen, ledger)
        ready = preparing.prepared(tune, found, _stages(settings, submit), ledger)
        for problem in ready.problems:
            logger.warning("%s", problem)
        logger.info("%d clips to tune on, %d held out", ready.clips, ready.held_out)
        search = preparing.search_of(tune, ready, kept, own, known.transformer_config.num_layers, ledger)
        search.measure, search.say = partial(_measured, settings, submit, ready.by_steps), logger.info
        search.prepared_s = time.monotonic() - began
        told = report.write(output.root, search, search.run(), ready)
    _show(told, output.root)
    return told["counts"] | {"root": output.root, "pick": told["pick"], "confirmed": told["confirmed"]}


def _stages(settings: Settings, submit: Submit) -> Any:
    """An ordinary run's tasks, a clip each; prompts are embedded before the first inversion."""
    from cogvideo_core.tuning.preparing import Stages

    def each(task: Any, own: Settings, records: list[Record], **more: Any) -> list[Record]:
        futures = [submit(work.named(task, [record]), own, [record], **more) for record in records]
        return [record for future in futures for record in future.result()]

    def invert(records: list[Record], steps: int) -> list[Record]:
        texts = {text for record in records for text in ("", record["source_prompt"], *record["target_prompts"])}
        submit(tuning.embed_texts, settings, sorted(texts)).result()
        return each(work.invert_batch, _with(settings, {"steps": steps}), records, only_if_needed=False)

    return Stages(lambda records: each(work.encode_batch, settings, records), invert)


def _with(settings: Settings, inversion: Record, recipe: Any = None) -> Settings:
    """The settings with these fields of the inversion, and another recipe."""
    changed: Record = {"inversion": settings.inversion.model_copy(update=inversion)}
    return settings.model_copy(update=changed | ({"recipe": recipe} if recipe else {}))


def _measured(
    settings: Settings,
    submit: Submit,
    by_steps: dict[int, list[Record]],
    point: Any,
    clips: Sequence[int],
    left_out: range = range(0),
) -> list[Any]:
    """Tries a recipe on some of the clips, a task each."""
    from cogvideo_core.tuning.trials import Seen

    own, layers = _with(settings, {"steps": point.steps}, point.recipe), [left_out.start, left_out.stop]
    futures = [submit(tuning.try_recipe, own, by_steps[point.steps][clip], layers) for clip in clips]
    return [Seen.from_json(future.result()) for future in futures]


def _show(told: Record, root: str) -> None:
    """The outcome as an artifact."""
    rows = [one for one in (told["preset"], told["pick"]) if one]
    shown = [{"recipe": one["name"]} | {name: one[name] for name in (*QUALITIES, "cost", "steps")} for one in rows]
    table = markdown_table(shown, ["recipe", *QUALITIES, "cost", "steps"])
    place = unsigned(f"{root}/tune")
    said = f"Confirmed on held-out clips: {told['confirmed']}" if told["pick"] else f"{told['against']} stays"
    text = f"## A recipe for this model\n\n{table}\n{escape_markdown(said)}. Page and recipe: {escape_markdown(place)}"
    create_markdown_artifact(key="tune", markdown=text, description=said)
    get_run_logger().info("%s; %s/recipe.yaml, %s/index.html", said, place, place)
