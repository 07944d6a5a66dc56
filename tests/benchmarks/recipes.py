"""The sweep behind the named recipes: each remedy alone and some together, on clips of trained combinations.

    python tests/benchmarks/recipes.py                 # 12 clips, 60 edits a row
    python tests/benchmarks/recipes.py --only reference_weight=0.5 --limit 4

Marks and figures are those of `shapes_edit.py`, whose held-out clips take no part here. Every row is the default recipe
with the fields changed that its name tells; `seed` is there to be compared with. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
from typing import Any

from shapes_edit import ROWS, SOURCE_PROMPTED, changed, clips_of, difference, table

from cogvideo_core.model import load
from cogvideo_core.specs import ModelSpec, RecipeSpec

ALONE: list[dict[str, Any]] = [
    *({"reference_weight": weight} for weight in (0.25, 0.5, 2.0)),
    *({"reference_end": end} for end in (0.4, 0.6, 0.8)),
    {"reference_schedule": "falling"},
    {"reference_text": False},
    *({"layer_start": start} for start in (0.17, 0.34, 0.5)),
    *({"layer_end": end} for end in (0.5, 0.67)),
    {"start": "noised"},
    *({"start": "mixed", "mix_cutoff": cutoff} for cutoff in (0.15, 0.3)),
    {"guidance_scale": 9.0},
    {"guidance_end": 0.6},
    {"guidance_schedule": "rising"},
    {"guidance_rescale": 0.7},
    {"guidance_parallel": 0.0},
    {"match_statistics": 0.2},
    {"colour_transfer": True},
]
TOGETHER: list[dict[str, Any]] = [
    {"reference_weight": 2.0, "reference_schedule": "falling"},
    *({"layer_start": 0.34, "reference_weight": weight} for weight in (1.5, 2.0)),
    {"reference_weight": 0.5, "guidance_scale": 9.0},
    {"reference_weight": 0.5, "start": "mixed", "mix_cutoff": 0.3},
    {"reference_schedule": "falling", "guidance_scale": 9.0},
    {"start": "mixed", "mix_cutoff": 0.3, "guidance_scale": 9.0},
]


def name_of(changes: dict[str, Any]) -> str:
    return " ".join(f"{field}={value}" for field, value in changes.items()) or "balanced"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=12, help="clips, five edits each")
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--only", action="append", help="rows to measure beside seed and balanced, by name")
    args = parser.parse_args()
    model = load(ModelSpec(path=args.model, dtype="bfloat16"))
    variants = {name_of(changes): changed(RecipeSpec(), changes) for changes in ({}, *ALONE, *TOGETHER)}
    if unknown := set(args.only or ()) - set(variants):
        parser.error(f"no row {', '.join(sorted(unknown))}; there are {', '.join(variants)}")
    chosen = {name: recipe for name, recipe in variants.items() if not args.only or name in ("balanced", *args.only)}
    settings = {"seed": ROWS["seed"]} | {name: (SOURCE_PROMPTED, recipe) for name, recipe in chosen.items()}
    rows, marked = table(model, clips_of(model, args.limit, tuning=True), settings)
    against = [difference(name, marked[name], marked["seed"]) for name in chosen]
    print(json.dumps({"rows": rows, "against_seed": against, "clips": args.limit}))


if __name__ == "__main__":
    main()
