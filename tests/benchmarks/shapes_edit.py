"""The ShapesEdit bench: fixed clips, one edit of each kind, marked by the oracle against the ground truth.

    python tests/benchmarks/shapes_edit.py                       # the table of docs/shapes.md
    python tests/benchmarks/shapes_edit.py --recipe balanced --limit 4
    python tests/benchmarks/shapes_edit.py --recipe seed --recipe balanced --limit 40   # 200 pairs of edits
    python tests/benchmarks/shapes_edit.py --recipe seed --recipe seed@20               # at 20 steps

Attributes count as right when the oracle reads what the target prompt says. `all` is all four of them. Scores of the
background are taken where neither source nor edit shows the object, on edits that keep the background; they stand
beside what the VAE alone does to the same pixels. `score` = all × clip(1 - bg_psnr_below_vae / 15, 0, 1).
Each row is measured at its preset's own number of steps, or at N as `NAME@N`; `balanced_1` and `fast_1` are the presets
of the first release, with 50 steps and each of them whole. What the rows do better than those named with `--against`
follows, on the same edits, with 95 % intervals over clips.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from multiprocessing import get_context
from typing import Any, NamedTuple

import numpy as np
import torch
from skimage.color import rgb2lab

from cogvideo_core.diffusion import editing
from cogvideo_core.diffusion.ddim import x0_between
from cogvideo_core.diffusion.inversion import evaluations, invert
from cogvideo_core.media.quality import colour_transferred, delta_e, psnr, sharpness
from cogvideo_core.models.model import VideoModel, load
from cogvideo_core.settings.presets import PRESET_INVERSIONS, PRESETS, unwindowed
from cogvideo_core.settings.recipes import FIRST
from cogvideo_core.settings.specs import InversionSpec, ModelSpec, RecipeSpec
from cogvideo_core.shapes import oracle, world
from cogvideo_core.shapes.fit import multiplies_bfloat16

DTYPE = "bfloat16" if multiplies_bfloat16() else "float32"
SOURCE_PROMPTED, NONE = InversionSpec(), InversionSpec(method="none", steps=50)


def changed(recipe: RecipeSpec, changes: dict[str, Any]) -> RecipeSpec:
    return RecipeSpec(**recipe.as_json() | changes)


def sdedit(skipped: float) -> RecipeSpec:
    name = f"sdedit_{round(100 * (1 - skipped))}"
    return unwindowed(name=name, start="noised", start_at=skipped, reference_weight=0)


ROWS: dict[str, tuple[InversionSpec, RecipeSpec]] = {
    "text": (NONE, PRESETS["text"]),
    "sdedit_25": (NONE, sdedit(0.75)),
    "sdedit_50": (NONE, sdedit(0.5)),
    "sdedit_75": (NONE, sdedit(0.25)),
    "seed": (PRESET_INVERSIONS["seed"], PRESETS["seed"]),
    "faithful": (SOURCE_PROMPTED, PRESETS["faithful"]),
    "balanced": (SOURCE_PROMPTED, PRESETS["balanced"]),
    "bold": (SOURCE_PROMPTED, PRESETS["bold"]),
    "fast": (PRESET_INVERSIONS["fast"], PRESETS["fast"]),
}
ROWS |= {  # with the values that the fields had then
    "balanced_1": (InversionSpec(steps=50), changed(PRESETS["balanced"], FIRST | {"reference_weight": 0.35})),
    "fast_1": (
        InversionSpec(steps=50, first_iterations=5),
        changed(PRESETS["fast"], FIRST | {"start_at": 0.3, "guidance_end": 0.5}),
    ),
}
TABLE = ["text", "sdedit_25", "sdedit_50", "sdedit_75", "seed", "balanced", "fast"]  # the others by hand


def row_of(name: str) -> tuple[InversionSpec, RecipeSpec]:
    """Inversion and recipe of NAME or NAME@STEPS."""
    base, _, steps = name.partition("@")
    if base not in ROWS or (steps and not steps.isdigit()):
        raise argparse.ArgumentTypeError(f"{name!r} is no row; there are {', '.join(ROWS)}, and each with @STEPS")
    inversion, recipe = ROWS[base]
    return (inversion.model_copy(update={"steps": int(steps)}) if steps else inversion), recipe


def row_name(name: str) -> str:
    row_of(name)
    return name


@dataclass(frozen=True)
class Clip:
    """A source clip with its edits, and what the VAE alone makes of it."""

    edits: list[world.BenchEdit]
    frames: np.ndarray
    decoded: np.ndarray
    latents: torch.Tensor = field(repr=False)


def marks(clip: Clip, edit: world.BenchEdit, frames: np.ndarray) -> dict[str, float]:
    """All figures of one edited clip; background figures are NaN where the edit asks for another background."""
    reading = oracle.read(frames)
    right = reading.matches(edit.wanted.combination)
    truth = world.masks(edit.wanted) > 0.5
    found = {name: float(hit) for name, hit in right.items()} | {"all": float(all(right.values()))}
    found["preserved_iou"] = (truth & reading.mask).sum() / max((truth | reading.mask).sum(), 1)
    if edit.kind == "background":
        return found
    objects = (world.masks(edit.scene) > 0) | truth | reading.mask
    outside = ~oracle.grow(objects)
    if outside.sum() < 100:
        return found
    before, after, vae = clip.frames[outside], frames[outside], clip.decoded[outside]
    found |= {"bg_psnr": psnr(after, before), "bg_psnr_vae": psnr(vae, before)}
    before, after, vae = (rgb2lab(colours / 255.0) for colours in (before, after, vae))
    found |= {"delta_e": delta_e(after, before)[0], "delta_e_vae": delta_e(vae, before)[0]}
    found["sharpness"] = sharpness(frames, outside) / sharpness(clip.decoded, outside)
    return found


class Setup(NamedTuple):
    """What rows are measured with, and on which list of clips."""

    path: str
    dtype: str
    tuning: bool  # clips of trained combinations, to choose settings on, instead of the frozen held-out list
    weights: str = "stored"  # as ModelSpec has it
    beside: str = ""  # another model, whose edits each edit is compared with

    @property
    def plain(self) -> Setup | None:
        """What edits are compared with: another model, or the same with the stored weights."""
        same = self.weights == "stored" and not self.beside
        return None if same else self._replace(path=self.beside or self.path, weights="stored", beside="")


@cache
def model_of(setup: Setup) -> VideoModel:
    return load(ModelSpec(path=setup.path, dtype=setup.dtype, weights=setup.weights))  # type: ignore[arg-type]


@cache
def clip_of(setup: Setup, number: int) -> Clip:
    listed = world.bench_edits(number + 1, 700_000, world.train_combinations()) if setup.tuning else None
    edits = [edit for edit in listed or world.bench_edits(number + 1) if edit.clip == number]
    frames = world.render(edits[0].scene)
    latents = model_of(setup).encode(frames)
    return Clip(edits, frames, model_of(setup).decode(latents), latents)


def edited(
    model: VideoModel,
    clip: Clip,
    inversion: InversionSpec,
    recipe: RecipeSpec,
    see: Callable[[int, torch.Tensor], None] | None = None,
) -> list[np.ndarray]:
    """Frames of all edits of a clip, in one batch, through the real engine. `see` is given each step's number and the
    clean estimates [E,f,C,h,w] after it."""
    schedule = model.schedule(inversion.steps, inversion.spacing)
    source = clip.edits[0].source_prompt if inversion.prompt == "source" else ""
    text = model.embed([edit.target_prompt for edit in clip.edits] + [recipe.negative_prompt, source])
    texts = editing.Texts(text[:-2], text[-2:-1], text[-1:])
    states = list(invert(model.one_row(text[-1:]), clip.latents, schedule, inversion))
    seeds = range(clip.edits[0].clip * 100, clip.edits[0].clip * 100 + len(clip.edits))
    x = torch.stack([editing.start_latents(recipe, schedule, states.__getitem__, seed) for seed in seeds])
    first = editing.first_step(recipe, schedule.steps)
    denoised = editing.edit(model.velocity, x, texts, states.__getitem__, schedule, recipe, model.layers)
    for step, after in enumerate(denoised, first):
        if see is not None:
            level = schedule.level(step)
            see(step, x0_between(x, after, schedule.thetas[level], schedule.thetas[level - 1]))
        x = after
    frames = [model.decode(latents) for latents in x]
    return [colour_transferred(clip.decoded, one) for one in frames] if recipe.colour_transfer else frames


def mean(rows: list[dict[str, float]], name: str) -> float:
    values = [row[name] for row in rows if name in row]
    return float(np.mean(values)) if values else float("nan")


def score(rows: list[dict[str, float]]) -> float:
    below = max(mean(rows, "bg_psnr_vae") - mean(rows, "bg_psnr"), 0)
    return mean(rows, "all") * min(max(1 - below / 15, 0), 1)


Marks = list[list[dict[str, float]]]  # by clip, then by edit


def interval(statistic: Callable[[np.ndarray], float], clips: int, draws: int = 1000) -> tuple[float, float]:
    """95 % of a statistic of clip numbers, drawn with replacement."""
    rng = np.random.default_rng(0)
    found = [statistic(rng.integers(clips, size=clips)) for _ in range(draws)]
    return float(np.percentile(found, 2.5)), float(np.percentile(found, 97.5))


def drawn(by_clip: Marks, numbers: Iterable[int]) -> list[dict[str, float]]:
    return [row for i in numbers for row in by_clip[i]]


def difference(name: str, ours: Marks, theirs: Marks) -> dict[str, Any]:
    """Success and background of one recipe less those of another on the same clips, with paired intervals."""
    found: dict[str, Any] = {"recipe": name}
    for figure in ("all", "bg_psnr"):

        def gain(numbers: Iterable[int], figure: str = figure) -> float:
            return mean(drawn(ours, numbers), figure) - mean(drawn(theirs, numbers), figure)

        low, high = interval(gain, len(ours))
        found |= {figure: round(gain(range(len(ours))), 3), f"{figure}_low": round(low, 3)}
        found |= {f"{figure}_high": round(high, 3)}
    return found


def marked(setup: Setup, inversion: InversionSpec, recipe: RecipeSpec, number: int) -> tuple[list[dict], float]:
    """The marks of a clip's edits, and the seconds that they took."""
    model, clip, started = model_of(setup), clip_of(setup, number), time.perf_counter()
    frames = edited(model, clip, inversion, recipe)
    took = time.perf_counter() - started
    found = [marks(clip, edit, one) for edit, one in zip(clip.edits, frames, strict=True)]
    if setup.plain:
        plain = edited(model_of(setup.plain), clip, inversion, recipe)
        found = [
            one | {"db_to_stored": psnr(*pair)}
            for one, pair in zip(found, zip(frames, plain, strict=True), strict=True)
        ]
    return found, took


@contextmanager
def crew(jobs: int) -> Iterator[Executor]:
    """Processes of one thread each: two of them do more than one process of two threads."""
    with ProcessPoolExecutor(jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        yield pool


def measure(
    pool: Executor,
    setup: Setup,
    clips: range,
    name: str,
    inversion: InversionSpec,
    recipe: RecipeSpec,
    before: Iterable[list[dict[str, float]]] = (),
) -> tuple[dict[str, Any], Marks]:
    """One row of the table, and the marks of all edits; `before`: those of clips that were measured earlier."""
    found, seconds = zip(*pool.map(partial(marked, setup, inversion, recipe), clips), strict=True)
    by_clip = [*before, *found]
    rows = [row for clip in by_clip for row in clip]
    edits = len(by_clip[0])
    cost = editing.edit_evaluations(recipe, inversion.steps, edits, model_of(setup).layers)
    cost += evaluations(inversion)
    low, high = interval(lambda numbers: score(drawn(by_clip, numbers)), len(by_clip))
    names = ("colour", "shape", "motion", "background", "all", "preserved_iou", "bg_psnr", "delta_e", "delta_e_vae")
    row = {
        "recipe": name,
        **{key: round(mean(rows, key), 3) for key in (*names, "sharpness")},
        "bg_psnr_below_vae": round(mean(rows, "bg_psnr_vae") - mean(rows, "bg_psnr"), 2),
        "score": round(score(rows), 3),
        "score_low": round(low, 3),
        "score_high": round(high, 3),
        "evaluations": round(cost / edits, 1),
        "seconds": round(sum(seconds) / sum(map(len, found)), 2),
    }
    if setup.plain:
        row["db_to_stored"] = round(mean(rows, "db_to_stored"), 1)
    return row, by_clip


COLUMNS = (
    *("recipe", "colour", "shape", "motion", "background", "all", "preserved_iou", "bg_psnr", "bg_psnr_below_vae"),
    *("delta_e", "delta_e_vae", "sharpness", "score", "score_low", "score_high", "evaluations", "seconds"),
)


def print_row(row: dict[str, Any] | None = None) -> None:
    """A line of the table, or its head."""
    if row is None:
        print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS), flush=True)
    else:
        print("| " + " | ".join(str(row[column]) for column in COLUMNS) + " |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipe", action="append", type=row_name, help=f"rows to measure; {', '.join(TABLE)} by default"
    )
    parser.add_argument("--limit", type=int, default=24, help="clips, five edits each")
    parser.add_argument("--first", type=int, default=0, help="number of the first clip")
    parser.add_argument(
        "--tuning", action="store_true", help="clips of trained combinations instead of the held-out list"
    )
    parser.add_argument("--against", action="append", type=row_name, help="rows to compare with; seed by default")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a recipe field, as JSON")
    parser.add_argument("--model", default="shapes")
    parser.add_argument(
        "--dtype",
        default=DTYPE,
        choices=["float32", "bfloat16"],
        help="of the transformer; bfloat16 by default where the processor multiplies it",
    )
    parser.add_argument(
        "--weights",
        default="stored",
        choices=["stored", "int8", "int8_dynamic", "float8"],
        help="of the transformer; in 8 bits, each row also has its PSNR to the edits with the stored weights",
    )
    parser.add_argument(
        "--beside", default="", metavar="MODEL", help="each row also has its PSNR to this model's edits"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; one a core by default")
    args = parser.parse_args()
    setup, started = Setup(args.model, args.dtype, args.tuning, args.weights, args.beside), time.perf_counter()
    changes = {field: json.loads(value) for field, value in (pair.split("=", 1) for pair in args.set)}
    rows, marks_by_name, clips = [], {}, range(args.first, args.first + args.limit)
    print_row()
    with crew(args.jobs) as pool:
        for name in args.recipe or TABLE:
            inversion, recipe = row_of(name)
            named = " ".join([name, *args.set])
            row, found = measure(pool, setup, clips, named, inversion, changed(recipe, changes))
            print_row(row)
            rows.append(row)
            marks_by_name[named] = found
    print(f"{(time.perf_counter() - started) / 60:.1f} minutes with {args.jobs} processes, {args.dtype}")
    told = {"rows": rows, "clips": args.limit, "edits": 5 * args.limit, "dtype": args.dtype, "weights": args.weights}
    for other in args.against or ["seed"]:
        if other in marks_by_name:
            rest = {name: found for name, found in marks_by_name.items() if name != other}
            told[f"against_{other}"] = [difference(name, found, marks_by_name[other]) for name, found in rest.items()]
            for row in told[f"against_{other}"]:
                print(f"against {other}: {row}")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
