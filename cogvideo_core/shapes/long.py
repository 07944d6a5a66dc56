"""Long clips of the shapes world: the shape moves so slowly that it stays in view, and edits of them, frozen."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from cogvideo_core.shapes import world
from cogvideo_core.shapes.world import BenchEdit, Combination, Scene

FRAMES = 41
KINDS = ("colour", "shape")


def slow_scene(seed: int, pool: list[Combination], frames: int = FRAMES) -> Scene:
    """Scene number `seed` of the pool, whose shape stays wholly inside the picture for all frames."""
    scene, rng = world.scene_from_seed(seed, pool), np.random.default_rng(seed + 250_000)
    radius, dx_dy = float(rng.uniform(7.2, 8.2)), np.array(world.MOTIONS[scene.combination.motion])
    room = world.SIZE_PX - 2 * 1.6 * radius  # an upright triangle reaches 1.56 radii
    speed = float(rng.uniform(0.86, 0.98)) * room / (frames - 1)
    reach = 1.6 * radius + speed * (frames - 1) / 2 * abs(dx_dy)
    x, y = rng.uniform(reach, world.SIZE_PX - reach)
    return replace(scene, radius=radius, speed=speed, x=float(x), y=float(y))


def long_edits(clips: int, first: int = 0, tuning: bool = False, frames: int = FRAMES) -> Iterator[BenchEdit]:
    """The frozen list of held-out clips, one edit of each of `KINDS`; or one to tune on, of trained combinations."""
    seed, pool = (940_000, world.train_combinations()) if tuning else (920_000, world.held_out_combinations())
    for clip in range(first, clips):
        scene, rng = slow_scene(seed + clip, pool, frames), np.random.default_rng(seed + 500_000 + clip)
        for kind, values in zip(KINDS, (world.COLOURS, world.SHAPES), strict=True):
            rest = [value for value in values if value != getattr(scene.combination, kind)]
            yield BenchEdit(clip, kind, scene, scene.edited(**{kind: rest[int(rng.integers(len(rest)))]}))


def long_hash(clips: int = 24, frames: int = FRAMES) -> str:
    """Fingerprint of the frozen list: pixels and prompts."""
    digest = hashlib.sha256()
    for edit in long_edits(clips, frames=frames):
        digest.update(world.render(edit.scene, frames).tobytes())
        digest.update(f"{edit.kind}|{edit.source_prompt}|{edit.target_prompt}".encode())
    return digest.hexdigest()
