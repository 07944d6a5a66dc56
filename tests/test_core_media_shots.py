"""Cuts and figures of small frames: cuts are found where clips are joined, and nowhere else."""

from __future__ import annotations

from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvideo_core.errors import ClipTimeout, NotAVideo
from cogvideo_core.media import figures, scenes, shots, video
from cogvideo_core.shapes import world

RATE = Fraction(8)
LIMITS = video.Limits(600, 4_000_000, 100_000_000, 60)
NEED = scenes.Need(9, 8)


def clip(seed: int) -> np.ndarray:
    return world.render(world.scene_from_seed(seed))


def small(frames: np.ndarray) -> list[np.ndarray]:
    return [cv2.resize(frame[..., ::-1], (96, 54), interpolation=cv2.INTER_AREA) for frame in frames]


def cuts(frames: np.ndarray, rate: Fraction = RATE) -> list[int]:
    told = list(shots.with_cuts(small(frames), rate))
    assert len(told) == len(frames)
    return [number for number, (_, cut) in enumerate(told) if cut]


def slowly(frames: np.ndarray, times: int = 6) -> np.ndarray:
    """`times` times as many frames, each blended with the next."""
    shares = np.linspace(0, len(frames) - 1, times * (len(frames) - 1) + 1)
    parts = [(1 - s % 1) * frames[int(s)] + (s % 1) * frames[min(int(s) + 1, len(frames) - 1)] for s in shares]
    return np.stack(parts).astype(np.uint8)


@settings(max_examples=8)
@given(first=st.integers(0, 9999), second=st.integers(10_000, 19_999), kept=st.integers(1, 9), later=st.integers(1, 9))
def test_a_join_is_one_cut(first: int, second: int, kept: int, later: int) -> None:
    """Two shapes clips, joined after any frame, even the first or before the last: the cut is at the join, and a clip
    alone has none."""
    one, other = clip(first)[:kept], clip(second)[:later]
    assert cuts(np.concatenate([one, other])) == [kept]
    assert cuts(one) == []


@pytest.mark.parametrize("rate", [Fraction(8), Fraction(30)])
def test_dissolves_and_fades_are_no_cuts(rate: Fraction) -> None:
    """A second's blend from one clip into another, or into black and back: the documented limit."""
    one, other = clip(1)[-1:].astype(float), clip(2)[:1].astype(float)
    share = np.linspace(0, 1, int(rate))[:, None, None, None]
    dissolve = ((1 - share) * one + share * other).astype(np.uint8)
    still = np.repeat(clip(1)[-1:], int(rate), axis=0)
    assert cuts(np.concatenate([still, dissolve]), rate) == []
    black = ((1 - share) * one).astype(np.uint8)
    assert cuts(np.concatenate([still, black, black[::-1]]), rate) == []


def test_flashes_are_no_cuts() -> None:
    """A white or black frame, or two at 30 frames a second, and the picture goes on; a shot of half a second is cut in
    and out."""
    long, rate = slowly(clip(3)), Fraction(30)
    for length in (1, 2):
        for level in (0, 255):
            lit = long.copy()
            lit[20 : 20 + length] = level
            assert cuts(lit, rate) == [], (length, level)
    lit = long.copy()
    lit[15:32] = slowly(clip(4))[15:32]
    assert cuts(lit, rate) == [15, 32]


def test_fast_motion_is_no_cut() -> None:
    """A camera that pans over a texture by a tenth of the picture in each frame."""
    wide = np.tile(world.texture(world.scene_from_seed(5)).clip(0, 255).astype(np.uint8), (1, 3, 1))
    pan = np.stack([wide[:, 5 * k : 5 * k + 48] for k in range(19)])
    assert cuts(pan) == []


def test_frames_come_at_even_times(tmp_path: Path) -> None:
    """Frame k of a file is its k-th, scaled down; the end is what `seconds` says."""
    frames = np.concatenate([clip(1), clip(2)])
    video.encode(frames, tmp_path / "a.mp4", 8, crf=1)
    probe = video.probe(tmp_path / "a.mp4", "a.mp4", LIMITS)
    found = list(shots.small_frames(tmp_path / "a.mp4", "a.mp4", probe, LIMITS, 600))
    assert len(found) == 18
    for ours, theirs in zip(found, small(frames), strict=True):
        assert np.abs(ours.astype(int) - theirs).mean() < 4
    assert len(list(shots.small_frames(tmp_path / "a.mp4", "a.mp4", probe, LIMITS, 1.0))) in (8, 9)


def test_a_hostile_clip_is_refused_as_everywhere(tmp_path: Path) -> None:
    """No frame to be decoded is NotAVideo; a clip that takes too long is ClipTimeout, and its process ends."""
    video.encode(clip(1), tmp_path / "a.mp4", 8)
    probe = video.probe(tmp_path / "a.mp4", "a.mp4", LIMITS)
    data = bytearray((tmp_path / "a.mp4").read_bytes())
    start = data.index(b"mdat") + 4
    data[start:] = bytes(len(data) - start)
    (tmp_path / "b.mp4").write_bytes(data)
    with pytest.raises(NotAVideo, match=r"^clip 'b\.mp4': no frame can be decoded"):
        list(shots.small_frames(tmp_path / "b.mp4", "b.mp4", probe, LIMITS, 600))
    short = video.Limits(600, 4_000_000, 100_000_000, 0.001)
    with pytest.raises(ClipTimeout, match="timeout_s"):
        list(shots.small_frames(tmp_path / "a.mp4", "a.mp4", probe, short, 600))


def grey(frames: np.ndarray) -> np.ndarray:
    return np.stack([cv2.cvtColor(frame, cv2.COLOR_BGR2GRAY) for frame in small(frames)])


def test_figures_say_what_was_made() -> None:
    """Black, dark, frozen and still frames, as they were made; a plain clip is none of these."""
    plain = figures.figures(grey(clip(7)))
    assert plain["luma"] > 60 and plain["black"] == plain["frozen"] == 0 and plain["moving"] > 0.05
    black = clip(7).copy()
    black[:3] = 3
    assert figures.figures(grey(black))["black"] == round(3 / 9, 4)
    assert figures.figures(grey(clip(7) // 16))["luma"] < 12
    frozen = clip(7).copy()
    frozen[4:] = frozen[3]
    assert figures.figures(grey(frozen))["frozen"] == 5 / 8
    noise = np.random.default_rng(0).normal(0, 3, clip(7).shape)
    still = figures.figures(grey((clip(7)[:1] + noise).clip(0, 255).astype(np.uint8)))
    assert still["moving"] < 0.005 and still["frozen"] == 0


@settings(max_examples=6)
@given(seed=st.integers(0, 9999), size=st.sampled_from([(96, 80), (40, 40), (64, 48)]), gain=st.floats(0.9, 1.05))
def test_hashes_of_copies_are_near(seed: int, size: tuple[int, int], gain: float) -> None:
    """A resized, noisy and slightly brighter copy is within the default distance."""
    one = clip(seed)
    copy = np.stack([cv2.resize(frame, size) for frame in one]) * gain
    copy = (copy + np.random.default_rng(seed).normal(0, 2, copy.shape)).clip(0, 255).astype(np.uint8)
    known = figures.packed(figures.hashes(grey(one)))[None]
    assert figures.distances(known, figures.packed(figures.hashes(grey(copy))))[0] <= 6


def test_hashes_of_others_are_far() -> None:
    """None of 20 different shapes clips is within the default distance of another."""
    known = np.stack([figures.packed(figures.hashes(grey(clip(seed)))) for seed in range(20)])
    for number in range(1, 20):
        assert figures.distances(known[:number], known[number]).min() > 6


def probed(frames: int) -> video.Probe:
    return video.Probe(48, 48, Fraction(1), RATE, frames, frames / 8, False, 0)


@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=6), which=st.sampled_from(["first", "middle", "all"]))
def test_windows_lie_inside_scenes(lengths: list[int], which: scenes.Which) -> None:
    """Every window's frames are of one scene, windows do not overlap, and one is found wherever a scene has its length
    and two frames more. Without a cut they are those of unscreened clips."""
    total, ends = sum(lengths), np.cumsum(lengths).tolist()
    probe = probed(total)
    usual = video.windows(probe, "a.mp4", 9, 8, which) if total >= 9 else []
    seen = scenes.Seen(0, total, ends[:-1], True, 0.0, total / 8, RATE)
    found = scenes.spots(scenes.spans(seen, probe, NEED), usual, NEED, which) if usual else []
    for place in found:
        shown = [int(np.floor((place.start_s + k / 8) * 8 + 0.5)) for k in range(9)]
        assert len({int(np.searchsorted(ends, number, side="right")) for number in shown}) == 1 and shown[-1] < total
    assert all(b.start_s - a.start_s >= 9 / 8 - 1e-6 for a, b in pairwise(found))
    assert bool(found) or max(lengths) < 11
    if len(lengths) == 1:
        assert [(place.start_s, place.number) for place in found] == [(w.start_s, w.index) for w in usual]
