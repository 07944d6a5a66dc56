"""The ShapesEdit bench: fixed clips, one edit of each kind, marked by the oracle against the ground truth.

    python tests/benchmarks/shapes_edit.py                       # the table of docs/shapes.md
    python tests/benchmarks/shapes_edit.py --recipe balanced --limit 4
    python tests/benchmarks/shapes_edit.py --recipe seed --recipe balanced --limit 40   # 200 pairs of edits

Attributes count as right when the oracle reads what the target prompt says. `all` is all four of them. Scores of the
background are taken where neither source nor edit shows the object, on edits that keep the background; they stand
beside what the VAE alone does to the same pixels. `score` = all × clip(1 - bg_psnr_below_vae / 15, 0, 1).
Where `seed` is among the rows, what the others do better on the same edits follows, with 95 % intervals over clips.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from skimage.color import rgb2lab

from cogvideo_core import editing
from cogvideo_core.inversion import evaluations, invert
from cogvideo_core.model import VideoModel, load
from cogvideo_core.presets import PRESET_INVERSIONS, PRESETS
from cogvideo_core.quality import delta_e, psnr, sharpness
from cogvideo_core.shapes import oracle, world
from cogvideo_core.specs import InversionSpec, ModelSpec, RecipeSpec

SOURCE_PROMPTED, NONE = InversionSpec(), InversionSpec(method="none")


def sdedit(skipped: float) -> RecipeSpec:
    return RecipeSpec(name=f"sdedit_{round(100 * (1 - skipped))}", start="noised", start_at=skipped, reference_weight=0)


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
TABLE = [name for name in ROWS if name not in ("faithful", "bold")]  # the others are for comparison by hand


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


def clips_of(model: VideoModel, limit: int, tuning: bool) -> list[Clip]:
    """The frozen held-out list, or as many clips of trained combinations, to choose settings on."""
    listed = world.bench_edits(limit, 700_000, world.train_combinations()) if tuning else world.bench_edits(limit)
    found = []
    for _, group in itertools.groupby(listed, key=lambda edit: edit.clip):
        edits = list(group)
        frames = world.render(edits[0].scene)
        latents = model.encode(frames)
        found.append(Clip(edits, frames, model.decode(latents), latents))
    return found


def edited(model: VideoModel, clip: Clip, inversion: InversionSpec, recipe: RecipeSpec) -> list[np.ndarray]:
    """Frames of all edits of a clip, in one batch, through the real engine."""
    schedule = model.schedule(inversion.steps, inversion.spacing)
    source = clip.edits[0].source_prompt if inversion.prompt == "source" else ""
    text = model.embed([edit.target_prompt for edit in clip.edits] + [recipe.negative_prompt, source])
    texts = editing.Texts(text[:-2], text[-2:-1], text[-1:])
    states = list(invert(model.one_row(text[-1:]), clip.latents, schedule, inversion))
    seeds = range(clip.edits[0].clip * 100, clip.edits[0].clip * 100 + len(clip.edits))
    x = torch.stack([editing.start_latents(recipe, schedule, states.__getitem__, seed) for seed in seeds])
    *_, last = editing.edit(model.velocity, x, texts, states.__getitem__, schedule, recipe, model.layers)
    return [model.decode(latents) for latents in last]


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


def measure(
    model: VideoModel, clips: list[Clip], name: str, inversion: InversionSpec, recipe: RecipeSpec
) -> tuple[dict[str, Any], Marks]:
    """One row of the table, and the marks of all edits."""
    started, by_clip = time.perf_counter(), []
    for clip in clips:
        frames = edited(model, clip, inversion, recipe)
        by_clip.append([marks(clip, edit, one) for edit, one in zip(clip.edits, frames, strict=True)])
    rows = [row for clip in by_clip for row in clip]
    edits = len(clips[0].edits)
    cost = editing.edit_evaluations(recipe, inversion.steps, edits, model.layers)
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
        "seconds": round((time.perf_counter() - started) / len(rows), 2),
    }
    return row, by_clip


COLUMNS = (
    *("recipe", "colour", "shape", "motion", "background", "all", "preserved_iou", "bg_psnr", "bg_psnr_below_vae"),
    *("delta_e", "delta_e_vae", "sharpness", "score", "score_low", "score_high", "evaluations", "seconds"),
)


def changed(recipe: RecipeSpec, changes: dict[str, Any]) -> RecipeSpec:
    return RecipeSpec(**recipe.as_json() | changes)


def table(
    model: VideoModel, clips: list[Clip], settings: dict[str, tuple[InversionSpec, RecipeSpec]]
) -> tuple[list[dict[str, Any]], dict[str, Marks]]:
    """Measures and prints a row for each name; the rows, and all marks by name."""
    print("| " + " | ".join(COLUMNS) + " |\n|" + "---|" * len(COLUMNS))
    rows, marked = [], {}
    for name, (inversion, recipe) in settings.items():
        row, marked[name] = measure(model, clips, name, inversion, recipe)
        rows.append(row)
        print("| " + " | ".join(str(row[column]) for column in COLUMNS) + " |", flush=True)
    return rows, marked


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--recipe", action="append", choices=list(ROWS), help=f"rows to measure; {', '.join(TABLE)} by default"
    )
    parser.add_argument("--limit", type=int, default=24, help="clips, five edits each")
    parser.add_argument(
        "--tuning", action="store_true", help="clips of trained combinations instead of the held-out list"
    )
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a recipe field, as JSON")
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--dtype", default="bfloat16", choices=["float32", "bfloat16"], help="of the transformer")
    args = parser.parse_args()
    model = load(ModelSpec(path=args.model, dtype=args.dtype))
    clips = clips_of(model, args.limit, args.tuning)
    changes = {field: json.loads(value) for field, value in (pair.split("=", 1) for pair in args.set)}
    settings = {}
    for name in args.recipe or TABLE:
        inversion, recipe = ROWS[name]
        settings[" ".join([name, *args.set])] = inversion, changed(recipe, changes)
    rows, marked = table(model, clips, settings)
    found = {"rows": rows, "clips": args.limit, "edits": 5 * args.limit}
    if "seed" in marked and len(marked) > 1:
        found["against_seed"] = [difference(n, m, marked["seed"]) for n, m in marked.items() if n != "seed"]
        for row in found["against_seed"]:
            print(f"against seed: {row}")
    print(json.dumps(found))


if __name__ == "__main__":
    main()
