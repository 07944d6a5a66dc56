"""Objects put into clips and taken out of them by the presets `insert` and `remove`, on fresh held-out shapes clips.

    nice python tests/benchmarks/objects.py                   # 24 held-out clips
    nice python tests/benchmarks/objects.py --tuning --limit 6 --set reference_weight=0.25

insert: the clip is a background alone, the mask one box around all of the way of an object, and the prompt its caption.
Success: the oracle reads colour, shape, motion and background as the prompt has them. remove: the clip has an object,
the mask is the object frame by frame, and the prompt is the background's caption. Gone: the oracle sees no object.
Both are compared with `balanced` with the same mask. The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from masks import Bench, outside_of

from cogvideo_core.media.quality import psnr
from cogvideo_core.models.model import VideoModel, load
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.settings.specs import ModelSpec, RecipeSpec
from cogvideo_core.shapes import oracle, world
from cogvideo_core.shapes.fit import multiplies_bfloat16
from cogvideo_core.stages import masks
from cogvideo_core.stages.work import Shared
from cogvideo_core.study.bench import interval

SEED, CLIPS, TUNING_SEED = 940_000, 24, 740_000
PRESETS = ("insert", "remove")
MASK = {"insert": MaskSpec(grow_px=2, feather_px=2), "remove": MaskSpec(grow_px=6, feather_px=2)}


def scene_of(number: int, tuning: bool = False) -> world.Scene:
    """A clip of the held-out list, or one with a trained combination."""
    pool = world.train_combinations() if tuning else world.held_out_combinations()
    return world.scene_from_seed((TUNING_SEED if tuning else SEED) + number, pool)


def empty(scene: world.Scene) -> np.ndarray:
    """The scene's background alone: uint8 [F,H,W,3]."""
    picture = np.clip(np.rint(world.texture(scene)), 0, 255).astype(np.uint8)
    return np.repeat(picture[None], world.FRAMES, 0)


def list_hash() -> str:
    """Fingerprint of the held-out list: pixels and captions."""
    digest = hashlib.sha256()
    for number in range(CLIPS):
        scene = scene_of(number)
        digest.update(world.render(scene).tobytes() + empty(scene).tobytes() + scene.combination.caption().encode())
    return digest.hexdigest()


def way(scene: world.Scene) -> np.ndarray:
    """One box around all places of the object: bool [F,H,W]."""
    seen = (world.masks(scene) > 0.5).any(0)
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    box = np.zeros((world.FRAMES, *seen.shape), bool)
    box[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1] = True
    return box


def made(model: VideoModel, scene: world.Scene, preset: str, changes: dict[str, Any]) -> dict[str, float]:
    """Figures of one edit by the preset, and by `balanced` with the same mask."""
    background, caption = f"a {scene.combination.background} background", scene.combination.caption()
    frames, mask = (empty(scene), way(scene)) if preset == "insert" else (world.render(scene), world.masks(scene) > 0.5)
    prompts = (background, caption) if preset == "insert" else (caption, background)
    wish = SimpleNamespace(source_prompt=prompts[0], target_prompt=prompts[1], scene=scene)
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(model, [wish], root, frames)
        bench.work = replace(bench.work, mask=MASK[preset])
        shared = Shared(lambda: bench.decoded, None, masks={prompts[1]: mask})
        outside = outside_of(bench, masks.alpha_of(bench.work, mask))
        for name, recipe in ((preset, RecipeSpec(preset=preset, **changes)), ("balanced", RecipeSpec())):
            bench.recipe = recipe
            (edit,) = bench.edited(shared)
            seen = oracle.read(edit)
            good = seen.matches(scene.combination).values() if preset == "insert" else [not seen.colour]
            found[f"{name}_success"] = float(all(good))
            found[f"{name}_outside_db"] = psnr(frames[outside], edit[outside])
            if preset == "remove":
                found[f"{name}_inside_db"] = psnr(empty(scene)[mask], edit[mask])
        found["vae_outside_db"] = psnr(frames[outside], bench.decoded[outside])
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=CLIPS, help="clips, one edit each by preset")
    parser.add_argument("--first", type=int, default=0, help="number of the first clip")
    parser.add_argument("--tuning", action="store_true", help="clips of trained combinations instead of held-out ones")
    parser.add_argument("--only", choices=PRESETS, help="one of the presets")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of recipe, as JSON")
    parser.add_argument("--model", default="shapes")
    args = parser.parse_args()
    changes = {field: json.loads(value) for field, value in (pair.split("=", 1) for pair in args.set)}
    started = time.perf_counter()
    torch.set_num_threads(1)
    dtype: Any = "bfloat16" if multiplies_bfloat16() else "float32"
    model = load(ModelSpec(path=args.model, dtype=dtype))
    presets = [args.only] if args.only else PRESETS
    rows: dict[str, list[dict[str, float]]] = {preset: [] for preset in presets}
    for number in range(args.first, args.first + args.limit):
        for preset, own in rows.items():
            own.append(made(model, scene_of(number, args.tuning), preset, changes))
        print(
            f"clip {number}, {time.perf_counter() - started:.0f} s: { ({p: own[-1] for p, own in rows.items()}) }",
            flush=True,
        )
    result: dict[str, Any] = {"clips": args.limit, "tuning": args.tuning}
    for preset, own in rows.items():
        result[preset] = {name: round(float(np.mean([row[name] for row in own])), 3) for name in own[0]}
        low, high = interval([row[f"{preset}_success"] for row in own])
        result[preset]["interval"] = [round(low, 3), round(high, 3)]
    print(json.dumps(result))


if __name__ == "__main__":
    main()
