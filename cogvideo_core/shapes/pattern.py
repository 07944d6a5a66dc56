"""Reads which pattern a background has: each kind is fitted as `world.texture` draws it, and the best fit names it.

A kind's pattern is a sum of waves of known lengths whose angles and phases are not known. Angles are searched on a
grid, phases and amplitudes are least squares over the pixels where no object is.
"""

from __future__ import annotations

from functools import cache
from itertools import product

import numpy as np

from cogvideo_core.shapes import world

ANGLES = np.arange(0, np.pi, np.pi / 36)
LEAST_EXPLAINED = 0.3  # of the variance, by the best kind; a pattern of no kind is below
STRIDE = 2  # every second pixel each way is enough for waves of ten pixels and more
LEAST_CONTRAST = 4.0  # standard deviation in levels of 255; the world's are 14 to 19
CLOUDY_LENGTHS = (12.0, 17.0, 25.0, 40.0)
AMPLITUDES = {"striped": (1.0, 0.7), "checkered": (1.0, 0.4), "cloudy": (1.0, 1.0, 1.0, 1.0)}


def wave(angle: float, length: float) -> np.ndarray:
    """Cosine and sine of a plane wave at every second pixel each way: float64 [2, n]."""
    v, u = np.mgrid[0 : world.SIZE_PX : STRIDE, 0 : world.SIZE_PX : STRIDE].astype(np.float64)
    along = 2 * np.pi * (u * np.cos(angle) + v * np.sin(angle)) / length
    return np.stack([np.cos(along).ravel(), np.sin(along).ravel()])


def crossed(angle: float, length: float) -> np.ndarray:
    """All products of a wave and the one across it: float64 [4, n]."""
    return (wave(angle, length)[:, None] * wave(angle + np.pi / 2, length)[None]).reshape(4, -1)


@cache
def candidates(kind: str) -> np.ndarray:
    """Sets of waves that a striped or checkered pattern may be made of: float64 [sets, 2, waves, n]."""
    if kind == "striped":
        pairs = product(ANGLES, (19.0, 21.0, 23.0), (10.5, 11.5))
        return np.stack([np.stack([wave(a, long), wave(a, short)]) for a, long, short in pairs])
    crossings = product(np.linspace(-0.2, 0.2, 9), (19.0, 21.0, 23.0))
    return np.stack([np.stack([crossed(a, length), crossed(a, 12.0)]) for a, length in crossings])


@cache
def waves_of(length: float) -> np.ndarray:
    """A wave of each angle: float64 [angles, 2, n]."""
    return np.stack([wave(angle, length) for angle in ANGLES])


def explained(sets: np.ndarray, grey: np.ndarray, weight: np.ndarray, amplitudes: tuple[float, ...]) -> np.ndarray:
    """Sum of squares of grey [n] that each set [sets, parts, waves, n] explains under weights [n]: float64 [sets].

    The parts of a pattern have the ratios `amplitudes` to each other. A part's phase is free: of a fit in which its
    amplitude is free as well, what lies in the direction of these ratios counts. Else the many waves of a cloudy
    pattern would also explain stripes.
    """
    parts, waves = sets.shape[1:3]
    flat = sets.reshape(len(sets), parts * waves, -1)
    weighted = flat * weight
    right = weighted @ grey
    gram = np.einsum("sin,sjn->sij", weighted, flat) + 1e-6 * weight.sum() * np.eye(parts * waves)
    solved = np.linalg.solve(gram, right[..., None])[..., 0]
    powers = (solved * right).reshape(len(sets), parts, waves).sum(-1).clip(0)  # they sum up to what is explained
    direction = np.array(amplitudes) / np.linalg.norm(amplitudes)
    return (np.sqrt(powers) @ direction) ** 2


def cloudy(grey: np.ndarray, weight: np.ndarray) -> float:
    """What four waves of the cloudy lengths explain, each at the angle that adds most, looked for twice."""
    chosen: dict[float, np.ndarray] = {}
    best = 0.0
    for length in CLOUDY_LENGTHS * 2:
        others = [rows for other, rows in chosen.items() if other != length]
        sets = np.stack([np.stack([*others, rows]) for rows in waves_of(length)])
        found = explained(sets, grey, weight, (1.0,) * (len(others) + 1))
        chosen[length], best = waves_of(length)[int(found.argmax())], float(found.max())
    return best


def fits(grey: np.ndarray, weight: np.ndarray) -> dict[str, float]:
    """Share of the variance of grey [H,W] that each kind of pattern explains, where weight [H,W] is above 0."""
    weight, grey = weight[::STRIDE, ::STRIDE], grey[::STRIDE, ::STRIDE]
    seen = weight.ravel() > 0
    w, flat = weight.ravel()[seen].astype(np.float64), grey.ravel()[seen].astype(np.float64)
    whole_w, whole = np.zeros(weight.size), np.zeros(weight.size)
    whole_w[seen], whole[seen] = w, flat - np.average(flat, weights=w)
    total = max(float(whole_w @ whole**2), 1e-9)
    found = {
        kind: float(explained(candidates(kind), whole, whole_w, AMPLITUDES[kind]).max()) / total
        for kind in ("striped", "checkered")
    }
    return found | {"cloudy": cloudy(whole, whole_w) / total}


def read_pattern(frames: np.ndarray, outside: np.ndarray) -> str:
    """frames: uint8 [F,H,W,3]; outside: bool [F,H,W], where no object is -> the kind of pattern, or "" for none."""
    weight = outside.sum(0)
    if (weight > 0).sum() < 200:
        return ""
    grey = (frames.mean(-1) * outside).sum(0) / np.maximum(weight, 1)
    seen = grey[weight > 0]
    found = fits(grey, weight)
    kind = max(found, key=lambda name: found[name])
    return kind if seen.std() >= LEAST_CONTRAST and found[kind] >= LEAST_EXPLAINED else ""
