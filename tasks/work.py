"""The verbs of a run. A list of clip records in, one record a clip out, failures included.

Modules that need diffusers are imported by the verbs that compute: Prefect imports this one to show a form, to look for
hooks when a run is cancelled, and to collect, and should not wait for models.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from functools import partial
from itertools import chain
from typing import Any, ParamSpec, TypeVar, cast

from prefect import Task, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.context import TaskRunContext
from prefect.states import Completed

from cogvideo_core.dataset import contact_sheet, tables, videos
from cogvideo_core.dataset.outcomes import Records, spanned
from cogvideo_core.planning.tables import Planned, fill_probed, read_batches, write_plan
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.specs import OutputSpec
from cogvideo_core.stages import whole
from cogvideo_core.stages.failures import attempt, is_failure, kind_of
from cogvideo_core.stages.wishes import fitting, recipes_of
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.storage.uris import shown_clip
from tasks import log_lines, stopping
from tasks.progress import advance
from tasks.settings import Settings

Record = dict[str, Any]
log_lines.install()


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
    """The task with a run name that says which clips it is for: the first one's name, in allow-listed characters, and
    the beginning of its key."""
    more, first = f" +{len(records) - 1}" if len(records) > 1 else "", records[0]
    clip = f"{first['name']} {first['source_id'][:8]}".strip()
    return verb_task.with_options(task_run_name=f"{verb_task.name.split('_')[0]} {clip}{more}")


@verb("discover_clips", retries=2)
def discover_clips(
    settings: Settings, need_targets: bool = True, probe: bool = False, only: list[list[Any]] | None = None
) -> Planned:
    """Reads folder or manifest and writes the plan; returns its counts. `only` names [clip, window] of those wanted.

    The model's configuration is enough: the planning process loads no weights and need not compute.
    """
    from cogvideo_core.inputs import places
    from cogvideo_core.models import placement
    from cogvideo_core.models.configuration import configured
    from cogvideo_core.planning import plan

    places.check_places(settings.dataset, settings.output)
    places.check_source(settings.dataset, need_targets)  # before anything of the model is fetched
    model = configured(settings.model)
    plan.check_shape(settings.dataset, model)
    for warning in placement.warnings(settings.model, model.width):
        get_run_logger().warning("%s", warning)
    found = plan.planned_clips(
        settings.dataset, model, need_targets, probe, settings.screen, Ledger(settings.output.root)
    )
    if only is not None:
        wanted = {(clip, window) for clip, window in only}
        found = (record for record in found if (shown_clip(record["clip"]), record.get("window", 0)) in wanted)
    found = (part for record in found for part in fitting(settings.recipe, record))
    return write_plan(settings.output.root, found, settings.recipe, settings.engine, settings.plan, settings.mask)


@verb("estimate_run")
def estimate_run(settings: Settings, planned: Planned, workers: int) -> list[list[str]]:
    """Measures the model on this device; [what, value] pairs of what the plan will cost."""
    from cogvideo_core.models.placement import told
    from cogvideo_core.planning import estimate
    from cogvideo_core.stages.units import shape_of

    model = settings.work().model
    shape = shape_of(settings.dataset, model)
    measured = estimate.measure(model, shape, settings.recipe.candidates[0], settings.engine)
    judge = settings.judge.resolved(settings.model.path)
    measured = measured._replace(judge_s=estimate.measure_judge(judge, shape))
    found = estimate.estimate(planned, measured, model, shape, settings.inversion, settings.recipe, workers)
    device = told(model.spec, model.device)
    return [list(row) for row in estimate.rows_of(planned, measured, found, device)]


@verb("embed_prompts", retries=2)
def embed_prompts(settings: Settings, wave: int, targets: bool = True) -> int:
    """Embeds each distinct prompt of a wave once; returns how many were new. The text encoder is dropped then."""
    from cogvideo_core.models import batching
    from cogvideo_core.stages import prompts
    from cogvideo_core.stages.units import inversion_prompt, shape_of

    wanted: dict[str, None] = {}
    for record in (record for batch in read_batches(settings.output.root, {wave}, settings.plan) for record in batch):
        wanted[inversion_prompt(settings.inversion, record["source_prompt"])] = None
        recipes = recipes_of(settings.recipe, record.get("overrides"))
        if targets:
            wanted |= dict.fromkeys([*(each.negative_prompt for each in recipes), *record["target_prompts"]])
        if targets and any(each.reference_prompt == "source" for each in recipes):
            wanted[record["source_prompt"]] = None
    work = settings.work()
    for prompt in wanted:
        if problem := work.model.prompt_problem(prompt):
            get_run_logger().warning("prompt %r %s", prompt, problem)
    new = prompts.embed_missing(work.model, work.ledger, list(wanted), work.output.verify)
    work.model.drop_text_encoder()
    if targets:
        shape = shape_of(settings.dataset, work.model)
        latents = work.model.latents(shape.frames, shape.height, shape.width)
        get_run_logger().info(
            "memory: %s", batching.told(work.model, settings.engine, settings.recipe.candidates[0], latents)
        )
    return new


@verb("encode_batch")
def encode_batch(settings: Settings, records: list[Record]) -> list[Record]:
    """Clips to latents."""
    from cogvideo_core.stages import encode

    step = partial(encode.encode_clip, settings.work())
    return marked([tried(step, record, "encode", settings) for record in records], "encode")


@verb("invert_batch")
def invert_batch(
    settings: Settings, records: list[Record], only_if_needed: bool = True, share: int = 0, shares: int = 1
) -> list[Record]:
    """Latents to trajectories, of one of several shares of the batch's windows: a record each."""
    from cogvideo_core.stages import trajectory

    records = whole.share_of(records, share, shares)
    with settings.slot():
        step = partial(trajectory.invert_clip, settings.work(), only_if_needed=only_if_needed)
        return marked([tried(step, record, "invert", settings) for record in records], "invert")


@verb("edit_batch")
def edit_batch(settings: Settings, inverted: list[list[Record]]) -> list[Record]:
    """Trajectories, in shares, and prompts to edited clips."""
    from cogvideo_core.stages import edit

    records = list(whole.joined(chain.from_iterable(inverted)))
    with settings.slot():
        step, done = partial(edit.edit_clip, settings.work()), []
        for record in records:
            done.append(tried(step, record, "edit", settings))
            advance("clips")
            advance("edits", len(done[-1].get("edits", [])))
        return marked(done, "edit")


def marked(records: list[Record], stage: str) -> list[Record]:
    """The records; inside a task run as a state that says in Prefect's UI what was reused and what failed."""
    if TaskRunContext.get() is None:
        return records
    failed, reused = sum(map(is_failure, records)), 0
    for record in records:
        rows = [row["reused"] for row in record.get("timings", []) if row["stage"] == stage]
        reused += bool(rows) and all(rows)
    name = "ClipsFailed" if failed else "Reused" if reused == len(records) else None
    told = f"{len(records)} {'clip' if len(records) == 1 else 'clips'}: {reused} reused, {failed} failed"
    return cast("list[Record]", Completed(name=name, message=told, data=records))


def tried(step: Callable[[Record], Record], record: Record, stage: str, settings: Settings) -> Record:
    """`attempt`, unless the flow was cancelled in the meantime; adds how often models were loaded here, and how long
    they have computed."""
    from cogvideo_core.models import model as models
    from cogvideo_core.stages.work import worker

    stopping.check(stage)
    before = models.busy_seconds()
    record = attempt(step, record, stage, settings.engine.retries, wait=stopping.pause)
    busy = spanned(record.get("busy", {}), {worker(): [before, models.busy_seconds()]})
    return record | {"loads": record.get("loads", {}) | {worker(): models.loads}, "busy": busy}


@verb("place_videos", retries=2)
def place_videos(root: str, linked: bool, jobs: list[list[Any]]) -> list[str]:
    """Brings videos of the collected dataset to their places; what became of each `dataset.videos.Job`."""
    stopping.check("collect")
    placed = videos.placed_here(root, linked, iter([[videos.Job(*job) for job in jobs]]))
    return [outcome for _, outcomes in placed for outcome in outcomes]


@verb("collect_dataset", retries=2)
def collect_dataset(
    settings: Settings, waves: int, last_stage: str = "edit", placing: videos.Placing | None = None
) -> Record:
    """Collects all committed edits of the run's root into the dataset folder, the tables and the gallery. `placing`
    copies the videos; without it, threads do.

    A retry has a plan of its own (`plan/retry`), and does not replace the settings that the root keeps."""
    ledger, records = Ledger(settings.output.root), Records(settings.output.root, waves, settings.plan)
    about = {name: group for name, group in settings.as_json().items() if name != "plan"} | {"last_stage": last_stage}
    fill_probed(settings.output.root, records.of_wave, settings.plan)
    about = about if settings.plan == "plan" else {}
    return tables.collect_run(settings.output, ledger, records, about, last_stage, placing)


@verb("judge_batch", retries=2)
def judge_batch(root: str, judge: JudgeSpec, clips: list[list[Record]]) -> int:
    """Judges committed edits from their videos, clip by clip; how many were judged. `judge` has no `auto`."""
    from cogvideo_core.stages.judge import judge_stored

    ledger, judged = Ledger(root), 0
    for rows in clips:
        stopping.check("judge")
        judged += judge_stored(ledger, judge, rows)
    return judged


@verb("recollect")
def recollect(output: OutputSpec, judge: JudgeSpec | None = None) -> Record:
    """Dataset, tables and gallery anew, from what is committed under the root, with the settings of its last run and,
    where given, another judge."""
    about = tables.kept_settings(output.root, {}) if judge else {}
    about |= {"judge": judge.as_json()} if judge else {}
    return tables.collect_run(output, Ledger(output.root), [], about)


@verb("draw_contact_sheet")
def draw_contact_sheet(output: OutputSpec) -> str:
    """The first clips of the dataset as a data URL; "" where there is none."""
    picture = contact_sheet.contact_sheet(output.root)
    return f"data:image/jpeg;base64,{base64.b64encode(picture).decode()}" if picture else ""
