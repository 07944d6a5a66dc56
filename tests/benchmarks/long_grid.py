"""What a window of a long clip should begin with, and how far its noise agrees with its neighbour's: docs/long.md.

    python tests/benchmarks/long_grid.py

On clips of 17 frames of trained combinations, at a speed that the model knows. Windows of 9 frames that begin at the
fifth and at the ninth frame are taken in three ways: as slices of the clip's latents, which begin with a latent frame
of four frames; encoded by themselves; and mixed, a slice whose first latent frame is its first frame encoded alone.
`more_error`: how much more the model's squared error is in predicting the velocity, by latent frame, than on windows
encoded by themselves; mean over five noise levels, with 95 % intervals over clips. `starts`: correlation and standard
deviations of the inverted noise of the latent frames that two windows share, and of their mean. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from shapes_edit import DTYPE
from torch import Tensor

from cogvideo_core.diffusion.ddim import noised
from cogvideo_core.diffusion.inversion import invert, seeded_noise
from cogvideo_core.models.model import VideoModel, load
from cogvideo_core.settings.specs import InversionSpec, ModelSpec
from cogvideo_core.shapes import world

FRAMES, LEVELS, STEPS = 17, (10, 20, 30, 40, 48), 50
Rows = dict[str, Tensor]


def scene_of(number: int) -> world.Scene:
    """A scene whose shape stays in view for 17 frames."""
    scene, rng = world.scene_from_seed(960_000 + number, world.train_combinations()), np.random.default_rng(number)
    radius, speed = float(rng.uniform(6.5, 6.9)), float(rng.uniform(1.5, 1.6))
    moved = 0.98 * speed * (FRAMES - 1) / 2 * np.abs(np.array(world.MOTIONS[scene.combination.motion]))
    reach = np.minimum(1.6 * radius + moved, world.SIZE_PX / 2)
    x, y = rng.uniform(reach, world.SIZE_PX - reach)
    return replace(scene, radius=radius, speed=speed, x=float(x), y=float(y))


def windows_of(model: VideoModel, scene: world.Scene) -> Rows:
    """Name -> latents [3,C,h,w] of windows at latent frames 0, 1 and 2."""
    frames = world.render(scene, FRAMES)
    whole = model.encode_sequence(frames)
    found = {"slice 0": whole[:3]}
    for at in (1, 2):
        alone = model.encode(frames[4 * at : 4 * at + 1])
        found |= {f"slice {at}": whole[at : at + 3], f"mixed {at}": torch.cat([alone, whole[at + 1 : at + 3]])}
        found[f"own {at}"] = model.encode(frames[4 * at : 4 * at + 9])
    return found


def errors(model: VideoModel, rows: Rows, text: Tensor, seed: int) -> dict[str, np.ndarray]:
    """Squared error of the velocity by latent frame [3], over levels; all windows under the same noise."""
    x_0, schedule, total = torch.stack([*rows.values()]), model.schedule(STEPS), 0.0
    for level in LEVELS:
        noise, theta = seeded_noise(x_0.shape[1:], 1000 * seed + level).expand_as(x_0), schedule.thetas[level]
        wanted = math.cos(theta) * noise - math.sin(theta) * x_0
        v = model.velocity(noised(x_0, noise, theta), schedule.timesteps[level], text.expand(len(x_0), -1, -1))
        total = total + (v - wanted).square().mean((2, 3, 4)) / len(LEVELS)
    return dict(zip(rows, total.numpy(), strict=True))


PAIRS: dict[str, tuple[tuple[str, slice], tuple[str, slice]]] = {
    "slices, one shared": (("slice 0", slice(2, 3)), ("slice 2", slice(0, 1))),
    "slices, two shared": (("slice 0", slice(1, 3)), ("slice 1", slice(0, 2))),
    "encoded by themselves, one shared": (("slice 0", slice(2, 3)), ("own 1", slice(1, 2))),
    "mixed, one shared": (("slice 0", slice(2, 3)), ("mixed 1", slice(1, 2))),
}


def starts(model: VideoModel, rows: Rows, text: Tensor) -> dict[str, list[float]]:
    """Of shared latent frames at the noisiest level: correlation; standard deviations of either and of the mean."""
    schedule = model.schedule(InversionSpec().steps)

    def velocity(x: Tensor, t: int) -> Tensor:
        return model.velocity(x, t, text.expand(len(x), -1, -1))

    *_, last = invert(velocity, torch.stack([*rows.values()]), schedule, InversionSpec())
    noisy, found = dict(zip(rows, last, strict=True)), {}
    for name, ((left, first), (right, second)) in PAIRS.items():
        a, b = noisy[left][first], noisy[right][second]
        correlation = float(torch.corrcoef(torch.stack([a.flatten(), b.flatten()]))[0, 1])
        found[name] = [correlation, *(float(one.std()) for one in (a, b, (a + b) / 2))]
    return found


def compared(found: list[dict[str, np.ndarray]]) -> dict[str, Any]:
    """Window -> [more error than the one encoded by itself, half of its 95 % interval] by latent frame."""
    told = {}
    for name in (name for name in found[0] if name.startswith(("slice 1", "slice 2", "mixed"))):
        own = np.array([one[f"own {name[-1]}"] for one in found])
        more = (np.array([one[name] for one in found]) - own) / own.mean(0)
        half = 1.96 * more.std(0) / math.sqrt(len(more))
        told[name] = [[round(float(a), 3), round(float(b), 3)] for a, b in zip(more.mean(0), half, strict=True)]
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=24, help="clips for the loss")
    parser.add_argument("--starts", type=int, default=8, help="clips that are inverted")
    parser.add_argument("--dtype", default=DTYPE, choices=["float32", "bfloat16"], help="of the transformer")
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, found, noise = load(ModelSpec(path="shapes", dtype=args.dtype)), [], []
    for number in range(args.limit):
        scene = scene_of(number)
        rows, text = windows_of(model, scene), model.embed([scene.combination.caption()])
        found.append(errors(model, rows, text, number))
        if number < args.starts:
            noise.append(starts(model, rows, text))
    told: dict[str, Any] = {"clips": args.limit, "more_error": compared(found)}
    told["starts"] = {name: np.mean([one[name] for one in noise], 0).round(3).tolist() for name in PAIRS}
    for name, by_frame in told["more_error"].items():
        print(name, " ".join(f"{100 * mid:+.1f} ± {100 * half:.1f} %" for mid, half in by_frame))
    for name, (correlation, left, right, both) in told["starts"].items():
        print(f"{name}: correlation {correlation:.2f}, std {left:.2f} and {right:.2f}, of the mean {both:.2f}")
    print(json.dumps(told))


if __name__ == "__main__":
    main()
