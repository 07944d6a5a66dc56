"""The verbs of a run. A list of clip records in, one record a clip out, failures included."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, ParamSpec, TypeVar

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from cogvideo_core import clips, encoding, memory, plan, prompts, tables
from cogvideo_core.failures import attempt, is_failure, kind_of
from cogvideo_core.units import inversion_prompt, shape_of
from tasks.progress import advance
from tasks.settings import Settings

Record = dict[str, Any]


P = ParamSpec("P")
R = TypeVar("R")


def may_pass(task: Any, run: Any, state: Any) -> bool:
    """Whether a task that raised is worth another try: a store out of reach is, a wrong setting is not."""
    error = state.result(raise_on_failure=False)
    return isinstance(error, Exception) and kind_of(error)[1]


def verb(name: str, retries: int = 0) -> Callable[[Callable[P, R]], Task[P, R]]:
    """A task whose result is not kept: what is done is known from the ledger, never from Prefect."""
    return task(
        name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        result_serializer="json",
        retries=retries,
        retry_delay_seconds=5,
        retry_condition_fn=may_pass,
    )


def named(verb_task: Task[P, R], records: list[Record]) -> Task[..., R]:
    """The task with a run name that says which clips it is for; their names are allow-listed characters."""
    more = f" +{len(records) - 1}" if len(records) > 1 else ""
    return verb_task.with_options(task_run_name=f"{verb_task.name.split('_')[0]} {records[0]['name']}{more}")


@verb("discover_clips", retries=2)
def discover_clips(settings: Settings, need_targets: bool = True) -> list[Record]:
    """Reads folder or manifest and writes the plan; bad rows come back as failures."""
    plan.check_places(settings.dataset, settings.output)
    model = settings.work().model
    plan.check_shape(settings.dataset, model)
    records = plan.planned_clips(settings.dataset, model, need_targets)
    if need_targets:
        shape = shape_of(settings.dataset, model)
        latents = memory.latents_of(model, shape.frames, shape.height, shape.width)
        get_run_logger().info("memory: %s", memory.told(model, settings.engine, settings.recipe, latents))
    return plan.write_plan(settings.output.root, records, settings.recipe, settings.engine)


@verb("embed_prompts", retries=2)
def embed_prompts(settings: Settings, records: list[Record], targets: bool = True) -> int:
    """Embeds each distinct prompt of the plan once; returns how many were new."""
    good = [record for record in records if not is_failure(record)]
    wanted = [inversion_prompt(settings.inversion, record["source_prompt"]) for record in good]
    for record in good if targets else ():
        wanted += [settings.recipe.negative_prompt, *record["target_prompts"]]
        if settings.recipe.reference_prompt == "source":
            wanted.append(record["source_prompt"])
    work = settings.work()
    for prompt in dict.fromkeys(wanted):
        if problem := work.model.prompt_problem(prompt):
            get_run_logger().warning("prompt %r %s", prompt, problem)
    return prompts.embed_missing(work.model, work.ledger, wanted, work.output.verify)


@verb("encode_batch")
def encode_batch(settings: Settings, records: list[Record]) -> list[Record]:
    """Clips to latents."""
    step = partial(encoding.encode_clip, settings.work())
    return [attempt(step, record, "encode", settings.engine.retries) for record in records]


@verb("invert_batch")
def invert_batch(settings: Settings, records: list[Record], only_if_needed: bool = True) -> list[Record]:
    """Latents to trajectories."""
    step = partial(clips.invert_clip, settings.work(), only_if_needed=only_if_needed)
    return [attempt(step, record, "invert", settings.engine.retries) for record in records]


@verb("edit_batch")
def edit_batch(settings: Settings, records: list[Record]) -> list[Record]:
    """Trajectories and prompts to edited clips."""
    step, done = partial(clips.edit_clip, settings.work()), []
    for record in records:
        done.append(attempt(step, record, "edit", settings.engine.retries))
        advance("clips")
        advance("edits", len(done[-1].get("edits", [])))
    return done


@verb("collect_dataset", retries=2)
def collect_dataset(settings: Settings, records: list[Record], last_stage: str = "edit") -> Record:
    """All committed edits of the run's root to the dataset folder, the tables and the gallery."""
    return tables.collect_run(settings.output, settings.work().ledger, records, settings.as_json(), last_stage)
