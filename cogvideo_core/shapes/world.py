"""The shapes world: scenes, their pixels, masks and captions, and its frozen splits.

A scene is one flat-coloured shape moving in a straight line over a still, textured, nearly grey background.
Everything is drawn with NumPy from the scene's own numbers, so a scene renders to the same pixels everywhere.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import NamedTuple

import numpy as np

FRAMES, SIZE_PX, FPS = 9, 48, 8
OVERSAMPLE = 4

COLOURS = {"red": (215, 45, 45), "green": (40, 175, 70), "blue": (50, 85, 225), "yellow": (235, 205, 45)}
SHAPES = ("circle", "square", "triangle")
MOTIONS = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
BACKGROUNDS = {"striped": 80, "checkered": 126, "cloudy": 172}  # mean grey level, 0..255

WORDINGS = (
    "a {colour} {shape} moving {motion} on a {background} background",
    "{colour} {shape} moves {motion} over a {background} background",
    "on a {background} background a {colour} {shape} is moving {motion}",
    "a {background} background with a {colour} {shape} going {motion}",
    "the {colour} {shape} is moving {motion} and the background is {background}",
)


class Combination(NamedTuple):
    """The four attributes that a caption names."""

    colour: str
    shape: str
    motion: str
    background: str

    def caption(self, wording: int = 0) -> str:
        return WORDINGS[wording % len(WORDINGS)].format(**self._asdict())


@dataclass(frozen=True)
class Scene:
    """All numbers of one clip. Lengths are in pixels; (x, y) is the shape's centre at mid-clip."""

    combination: Combination
    radius: float
    speed: float  # pixels a frame
    x: float
    y: float
    tint: tuple[float, float, float]  # of the background, factors near 1
    jitter: tuple[float, float, float]  # added to the object's colour, levels of 255
    contrast: float  # standard deviation of the texture, levels of 255
    level: float  # added to the background's mean grey
    texture_seed: int

    def edited(self, **attributes: str) -> Scene:
        """The same scene with other attributes: the ground truth of an edit."""
        return replace(self, combination=self.combination._replace(**attributes))


def combinations() -> list[Combination]:
    return [Combination(*c) for c in product(COLOURS, SHAPES, MOTIONS, BACKGROUNDS)]


def is_held_out(combination: Combination) -> bool:
    """About one combination in eight is never trained on, chosen by the hash of its name."""
    return hashlib.sha256(" ".join(combination).encode()).digest()[0] % 8 == 0


def train_combinations() -> list[Combination]:
    return [c for c in combinations() if not is_held_out(c)]


def held_out_combinations() -> list[Combination]:
    return [c for c in combinations() if is_held_out(c)]


def sample_scene(rng: np.random.Generator, combination: Combination) -> Scene:
    """A scene of this combination; the shape stays wholly inside the picture."""
    radius, speed = rng.uniform(6.5, 8.5), rng.uniform(1.5, 2.4)
    travel = speed * (FRAMES - 1) / 2
    dx, dy = MOTIONS[combination.motion]
    margin = 1.6 * radius  # an upright triangle reaches 1.56 radii
    reach_x, reach_y = margin + travel * abs(dx), margin + travel * abs(dy)
    return Scene(
        combination=combination,
        radius=float(radius),
        speed=float(speed),
        x=float(rng.uniform(reach_x, SIZE_PX - reach_x)),
        y=float(rng.uniform(reach_y, SIZE_PX - reach_y)),
        tint=tuple(float(v) for v in rng.uniform(0.96, 1.04, 3)),  # type: ignore[arg-type]
        jitter=tuple(float(v) for v in rng.uniform(-12, 12, 3)),  # type: ignore[arg-type]
        contrast=float(rng.uniform(14, 19)),
        level=float(rng.uniform(-7, 7)),
        texture_seed=int(rng.integers(2**31)),
    )


def scene_from_seed(seed: int, pool: list[Combination] | None = None) -> Scene:
    """Scene number `seed`; `pool` restricts the combinations (all of them by default)."""
    rng = np.random.default_rng(seed)
    choices = pool or combinations()
    return sample_scene(rng, choices[int(rng.integers(len(choices)))])


def texture(scene: Scene) -> np.ndarray:
    """The background alone: float64 [H,W,3], levels of 255. Two or more spatial frequencies, set standard deviation."""
    rng = np.random.default_rng(scene.texture_seed)
    v, u = np.mgrid[0:SIZE_PX, 0:SIZE_PX].astype(np.float64)

    def wave(angle: float, wavelength: float) -> np.ndarray:
        along = u * np.cos(angle) + v * np.sin(angle)
        return np.sin(2 * np.pi * along / wavelength + rng.uniform(0, 2 * np.pi))

    kind = scene.combination.background
    if kind == "striped":
        angle = rng.uniform(0, np.pi)
        pattern = wave(angle, rng.uniform(18, 24)) + 0.7 * wave(angle, rng.uniform(10, 12))
    elif kind == "checkered":
        angle, length = rng.uniform(-0.2, 0.2), rng.uniform(18, 24)
        across = angle + np.pi / 2
        pattern = wave(angle, length) * wave(across, length) + 0.4 * wave(angle, 12) * wave(across, 12)
    else:
        pattern = np.sum([wave(rng.uniform(0, np.pi), length) for length in (12.0, 17.0, 25.0, 40.0)], axis=0)
    pattern = (pattern - pattern.mean()) / pattern.std()
    grey = BACKGROUNDS[kind] + scene.level + scene.contrast * pattern
    return grey[..., None] * np.asarray(scene.tint)


def coverage(shape: str, x: float, y: float, radius: float, size: int = SIZE_PX) -> np.ndarray:
    """How much of each pixel the shape covers: float64 [size,size] in 0..1, centre (x, y). Areas are about equal."""
    step = 1 / OVERSAMPLE
    v, u = np.mgrid[0:size:step, 0:size:step] + step / 2
    u, v = u - x, v - y
    if shape == "circle":
        inside = u**2 + v**2 <= radius**2
    elif shape == "square":
        inside = np.maximum(abs(u), abs(v)) <= 0.886 * radius
    else:  # upright, equilateral, centred on its centroid
        inradius = 0.778 * radius
        inside = (v <= inradius) & (np.sqrt(3) * abs(u) - v <= 2 * inradius)
    return inside.reshape(size, OVERSAMPLE, size, OVERSAMPLE).mean(axis=(1, 3))


def centres(scene: Scene, frames: int = FRAMES) -> np.ndarray:
    """The shape's centre in each frame: float64 [F,2], (x, y)."""
    offsets = (np.arange(frames) - (frames - 1) / 2) * scene.speed
    return np.array([scene.x, scene.y]) + offsets[:, None] * np.array(MOTIONS[scene.combination.motion])


def masks(scene: Scene, frames: int = FRAMES) -> np.ndarray:
    """Coverage of the object in each frame: float64 [F,H,W]."""
    return np.stack([coverage(scene.combination.shape, x, y, scene.radius) for x, y in centres(scene, frames)])


def render(scene: Scene, frames: int = FRAMES) -> np.ndarray:
    """The clip: uint8 [F,H,W,3], full-range RGB, FPS frames a second."""
    alpha = masks(scene, frames)[..., None]
    colour = np.asarray(COLOURS[scene.combination.colour]) + np.asarray(scene.jitter)
    return np.clip(np.rint(alpha * colour + (1 - alpha) * texture(scene)), 0, 255).astype(np.uint8)


class BenchEdit(NamedTuple):
    """One line of the bench: a held-out clip and what the prompt asks of it."""

    clip: int
    kind: str  # colour, shape, both, background, none
    scene: Scene
    wanted: Scene

    @property
    def source_prompt(self) -> str:
        return self.scene.combination.caption()

    @property
    def target_prompt(self) -> str:
        return self.wanted.combination.caption()


EDIT_KINDS = ("colour", "shape", "both", "background", "none")


def bench_edits(clips: int = 24, seed: int = 900_000, pool: list[Combination] | None = None) -> Iterator[BenchEdit]:
    """The frozen list: `clips` held-out clips, one edit of each kind. Another seed and pool give a list to tune on."""
    for clip in range(clips):
        scene = scene_from_seed(seed + clip, pool or held_out_combinations())
        rng = np.random.default_rng(seed + 500_000 + clip)

        def other(values: object, current: str, rng: np.random.Generator = rng) -> str:
            rest = [v for v in values if v != current]  # type: ignore[attr-defined]
            return rest[int(rng.integers(len(rest)))]

        c = scene.combination
        colour, shape, background = other(COLOURS, c.colour), other(SHAPES, c.shape), other(BACKGROUNDS, c.background)
        changes = {
            "colour": {"colour": colour},
            "shape": {"shape": shape},
            "both": {"colour": other(COLOURS, c.colour), "shape": other(SHAPES, c.shape)},
            "background": {"background": background},
            "none": {},
        }
        for kind in EDIT_KINDS:
            yield BenchEdit(clip, kind, scene, scene.edited(**changes[kind]))


def world_hash(scenes: int = 64) -> str:
    """Fingerprint of the world: pixels and captions of the first scenes, the split and the bench list."""
    digest = hashlib.sha256()
    for seed in range(scenes):
        scene = scene_from_seed(seed)
        digest.update(render(scene).tobytes())
        digest.update(scene.combination.caption(seed).encode())
    digest.update(repr(held_out_combinations()).encode())
    for edit in bench_edits():
        digest.update(render(edit.scene).tobytes() + f"{edit.kind}|{edit.source_prompt}|{edit.target_prompt}".encode())
    return digest.hexdigest()


def bench_hash(clips: int, first: int = 0) -> str:
    """Fingerprint of the bench's clips from `first` to before `clips`: pixels and prompts."""
    digest = hashlib.sha256()
    for edit in (edit for edit in bench_edits(clips) if edit.clip >= first):
        digest.update(render(edit.scene).tobytes() + f"{edit.kind}|{edit.source_prompt}|{edit.target_prompt}".encode())
    return digest.hexdigest()
