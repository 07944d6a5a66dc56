"""The sweep behind the named recipes: each remedy alone and some together, on clips of trained combinations.

    python tests/benchmarks/recipes.py                 # 12 clips, 60 edits a row
    python tests/benchmarks/recipes.py --only reference_weight=0.5 --limit 4
    python tests/benchmarks/recipes.py --costs --limit 24   # steps, samplers and caches, 120 edits a row

Marks and figures are those of `shapes_edit.py`, whose held-out clips take no part here. `plain` starts from inverted
noise and sees the reference in all steps and layers, at guidance 6 in all steps; every row is that, with the fields
changed that its name tells. `seed` is there to be compared with. With `--costs`, rows are `balanced_1` with steps and
fields changed, and compared with it. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from shapes_edit import DTYPE, ROWS, Setup, changed, crew, difference, measure, model_of
from skimage.color import rgb2lab

from cogvideo_core.media import video
from cogvideo_core.media.quality import delta_e, psnr
from cogvideo_core.models.model import load
from cogvideo_core.settings.presets import PRESETS, unwindowed
from cogvideo_core.settings.specs import DatasetSpec, InversionSpec, ModelSpec, RecipeSpec
from cogvideo_core.shapes import world
from cogvideo_core.study import page

ALONE: list[dict[str, Any]] = [
    *({"reference_weight": weight} for weight in (0.25, 0.5, 2.0)),
    *({"reference_start": start} for start in (0.2, 0.4)),
    *({"reference_end": end} for end in (0.4, 0.6, 0.8)),
    {"reference_schedule": "falling"},
    {"reference_text": False},
    *({"layer_start": start} for start in (0.17, 0.34, 0.5)),
    *({"layer_end": end} for end in (0.5, 0.67)),
    {"start": "noised"},
    {"start": "mixed", "mix_cutoff": 0.25},
    {"start_at": 0.2},
    {"guidance_scale": 9.0},
    {"guidance_end": 0.6},
    {"guidance_schedule": "rising"},
    {"guidance_rescale": 0.7},
    {"guidance_parallel": 0.0},
    {"match_statistics": 0.2},
    {"colour_transfer": True},
]
LAYERS = {"layer_start": 0.34, "guidance_end": 0.6}
LATER = LAYERS | {"reference_start": 0.2}
SKIPPED = LAYERS | {"start_at": 0.2}
TOGETHER: list[dict[str, Any]] = [
    *({"layer_start": 0.34, "guidance_end": end} for end in (0.4, 0.6, 0.8)),
    *({"layer_start": 0.5, "guidance_end": end} for end in (0.6, 0.7, 0.8)),
    *(LAYERS | {"reference_weight": weight} for weight in (0.25, 0.5, 2.0)),
    LAYERS | {"reference_end": 0.6},
    LAYERS | {"guidance_scale": 9.0},
    *(LAYERS | {"reference_start": start} for start in (0.2, 0.3, 0.4)),
    LATER | {"reference_text": False},
    LATER | {"reference_schedule": "falling"},
    LATER | {"start": "mixed", "mix_cutoff": 0.25},
    *(LATER | {"reference_weight": weight} for weight in (0.25, 0.35, 0.5, 2.0)),
    SKIPPED,
    *(SKIPPED | {"reference_weight": weight} for weight in (0.25, 0.35, 0.5)),
    {"layer_start": 0.34, "guidance_end": 0.5, "start_at": 0.3, "reference_weight": 0.25},
]

ORDER2, FAST = {"sampler": "multistep2"}, {"reference_weight": 0.25, "start_at": 0.3, "guidance_end": 0.5}
SAFE, BOLD = ORDER2 | {"cache": "safe"}, ORDER2 | {"cache": "bold"}
COSTS: list[dict[str, Any]] = [
    *({"steps": steps} for steps in (20, 15)),
    *({"steps": steps} | ORDER2 for steps in (20, 15)),
    {"steps": 20, "cache": "safe"},
    *({"steps": steps} | SAFE for steps in (20, 15, 12)),
    {"steps": 20} | BOLD,
    {"steps": 20} | SAFE | {"reference_weight": 0.25},
    {"steps": 20} | SAFE | {"reference_weight": 0.3},
    {"steps": 20} | SAFE | {"start_at": 0.1},
    {"steps": 15} | SAFE | {"reference_weight": 0.25},
    {"steps": 50} | FAST,
    {"steps": 15} | SAFE | FAST | {"guidance_end": 0.45},
    *({"steps": 15} | SAFE | FAST | {"start_at": 0.2, "guidance_end": end} for end in (0.45, 0.5)),
    {"steps": 15} | BOLD | FAST | {"start_at": 0.2, "guidance_end": 0.6},
    *({"steps": steps} | SAFE | FAST | {"start_at": 0.2, "guidance_end": 0.4} for steps in (14, 12)),
    *({"steps": 20, "spacing": "cosine"} | SAFE | {"reference_weight": 0.25} | at for at in ({}, {"start_at": 0.3})),
    {"steps": 12, "spacing": "cosine"} | SAFE | FAST | {"start_at": 0.2, "guidance_end": 0.4},
    {"steps": 12, "spacing": "cosine"} | SAFE | FAST | {"start_at": 0.25, "guidance_end": 0.4},
]


def cost_row(changes: dict[str, Any]) -> tuple[InversionSpec, RecipeSpec]:
    """`balanced_1` with other steps, their spacing, and other fields of the recipe."""
    inversion, recipe = ROWS["balanced_1"]
    upward = {field: value for field, value in changes.items() if field in ("steps", "spacing")}
    rest = {field: value for field, value in changes.items() if field not in upward}
    return inversion.model_copy(update=upward), changed(recipe, rest | {"name": "cost"})


def name_of(changes: dict[str, Any]) -> str:
    return " ".join(f"{field}={value}" for field, value in changes.items()) or "plain"


def known(file: Path | None, about: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Rows that an earlier call has measured with the same model: name -> row and marks of the first clips."""
    if file is None or not file.is_file():
        return {}
    earlier = json.loads(file.read_text("utf-8"))
    return earlier["measured"] if earlier["about"] == about else {}


def label(name: str, row: tuple[InversionSpec, RecipeSpec] | None) -> str:
    """The row's name, and the preset that it is."""
    named = [
        preset
        for preset, one in PRESETS.items()
        if row
        and nameless(one) == nameless(row[1])
        and ROWS[preset][0].steps == row[0].steps
        and ROWS[preset][0].spacing == row[0].spacing
    ]
    return " = ".join(f"`{one}`" for one in (name, *named))


def nameless(recipe: RecipeSpec) -> dict[str, Any]:
    return recipe.as_json() | {"name": ""}


def told(measured: dict[str, dict[str, Any]], rows: dict[str, tuple[InversionSpec, RecipeSpec]], base: str) -> str:
    """A table of docs/recipes.md: each row, and what it does better than the row `base`."""
    heads = ["changed", "edits", "success", f"against {base}", "background below the VAE's, dB", f"against {base}, dB"]
    lines = ["| " + " | ".join([*heads, "ΔE over the VAE's", "sharpness", "evaluations"]) + " |"]
    lines.append("|---" * 9 + "|")
    for name, one in measured.items():
        shared = min(len(one["marks"]), len(measured[base]["marks"]))
        row, gain = one["row"], difference(name, one["marks"][:shared], measured[base]["marks"][:shared])
        cells = [label(name, rows.get(name)), str(5 * len(one["marks"])), f"{row['all']:.2f}"]
        cells += [f"{gain['all']:+.2f} ({gain['all_low']:+.2f} to {gain['all_high']:+.2f})"]
        cells += [f"{row['bg_psnr_below_vae']:.1f}"]
        cells += [f"{gain['bg_psnr']:+.1f} ({gain['bg_psnr_low']:+.1f} to {gain['bg_psnr_high']:+.1f})"]
        cells += [f"{row['delta_e'] - row['delta_e_vae']:+.1f}", f"{row['sharpness']:.2f}", f"{row['evaluations']:g}"]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def round_trips(path: str, clips: int) -> str:
    """The table of what VAE and codec cost by themselves, in each precision of the VAE."""
    frames = [world.render(edit.scene) for edit in world.bench_edits(clips) if edit.kind == "none"]
    lines = ["| | PSNR, dB | ΔE |", "|---|---|---|"]
    for dtype in ("float32", "float16", "bfloat16"):
        model = load(ModelSpec(path=path, vae_dtype=dtype))
        lines.append(round_trip(f"VAE in {dtype}", frames, lambda one, m=model: m.decode(m.encode(one))))
    return "\n".join([*lines, round_trip("mp4, crf 12", frames, through_mp4)])


def round_trip(name: str, clips: list[np.ndarray], way: Callable[[np.ndarray], np.ndarray]) -> str:
    pairs = [(frames, way(frames)) for frames in clips]
    shift = np.mean([delta_e(rgb2lab(a / 255.0), rgb2lab(b / 255.0))[0] for a, b in pairs])
    return f"| {name} | {np.mean([psnr(a, b) for a, b in pairs]):.2f} | {shift:.2f} |"


def through_mp4(frames: np.ndarray) -> np.ndarray:
    with tempfile.TemporaryDirectory() as folder:
        path, limits = Path(folder) / "clip.mp4", video.Limits.of(DatasetSpec())
        video.encode(frames, path, world.FPS)
        found, view = (
            video.probe(path, path.name, limits),
            video.View(world.SIZE_PX, world.SIZE_PX, world.FPS, "stretch"),
        )
        return video.decode(path, path.name, found, video.Window(0, 0.0, len(frames)), view, limits)


def renew(file: Path | None, name: str, table: str) -> None:
    """Prints a table, and puts it between its marks in a page."""
    print(table)
    if file:
        file.write_text(page.between(file.read_text("utf-8"), name, table), "utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=12, help="clips, five edits each")
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--only", action="append", help="rows to measure beside seed and plain, by name")
    parser.add_argument("--costs", action="store_true", help="steps, samplers and caches instead of remedies")
    parser.add_argument("--json", type=Path, help="file of results; rows that it holds are not measured again")
    parser.add_argument("--page", type=Path, help="page whose table between its marks is renewed")
    parser.add_argument("--round-trips", type=int, metavar="CLIPS", help="measure VAE and codec alone, nothing else")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="processes; one a core by default")
    parser.add_argument("--dtype", default=DTYPE, choices=["float32", "bfloat16"], help="of the transformer")
    args = parser.parse_args()
    if args.round_trips:
        renew(args.page, "trips", round_trips(args.model, args.round_trips))
        return
    setup = Setup(args.model, args.dtype, tuning=True)
    if args.costs:
        base, rows = "balanced_1", {name_of(changes): cost_row(changes) for changes in COSTS}
    else:
        base, remedies = "seed", {name_of(changes): unwindowed(**changes) for changes in ({}, *ALONE, *TOGETHER)}
        rows = {name: (ROWS["balanced_1"][0], recipe) for name, recipe in remedies.items()}
    if unknown := set(args.only or ()) - set(rows):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(rows)}")
    settings = {base: ROWS[base]} | {name: row for name, row in rows.items() if name in (args.only or rows)}
    about = {"model": model_of(setup).fingerprint, "dtype": setup.dtype}
    measured = known(args.json, about)
    with crew(args.jobs) as pool:
        for name in settings:
            before = measured.get(name, {"marks": []})["marks"]
            if len(before) >= args.limit:
                continue
            row, found = measure(pool, setup, range(len(before), args.limit), name, *settings[name], before)
            measured[name] = {"row": row, "marks": found}
            print(json.dumps(row), flush=True)
            if args.json:
                args.json.write_text(json.dumps({"about": about, "measured": measured}), "utf-8")
    order = [name for name in (base, *rows) if name in measured]
    table = told({name: measured[name] for name in order}, rows, base)
    renew(args.page, "costs" if args.costs else "sweep", table)
    print(json.dumps({"rows": [measured[name]["row"] for name in order]}))


if __name__ == "__main__":
    main()
