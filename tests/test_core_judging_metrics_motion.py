"""Warp error, motion fidelity and motion alignment: against plain loops, by hand, and on textures that move."""

import numpy as np
import pytest
from scipy import ndimage

from cogvideo_core.judging.metrics import motion
from cogvideo_core.judging.metrics.measure import measured
from cogvideo_core.judging.metrics.samples import Sample
from cogvideo_core.settings.metric_specs import MetricSpec

RNG = np.random.default_rng(7)
FRAMES = 5


def moving(dx: int, dy: int, seed: int = 3) -> np.ndarray:
    """A smooth texture that moves by so many pixels a frame: uint8 [F,96,120,3]."""
    noise = np.random.default_rng(seed).normal(size=(200, 220, 3))
    texture = ndimage.gaussian_filter(noise, (2.5, 2.5, 0))
    texture = np.clip(128 + 45 * texture / texture.std(), 0, 255).astype(np.uint8)
    tops = [(50 - dy * t, 50 - dx * t) for t in range(FRAMES)]
    return np.stack([texture[y : y + 96, x : x + 120] for y, x in tops])


def looked_up(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The picture [H,W,C] at x + flow(x): four neighbours, weighted, the border repeated."""
    height, width = picture.shape[:2]
    y, x = np.indices((height, width)) + flow.transpose(2, 0, 1)[::-1]
    left, top, found = np.floor(x).astype(int), np.floor(y).astype(int), np.zeros(picture.shape)
    for row, column in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        weight = (1 - abs(x - column)) * (1 - abs(y - row))
        found += weight[..., None] * picture[row.clip(0, height - 1), column.clip(0, width - 1)]
    return found


def squared(flow: np.ndarray) -> np.ndarray:
    return flow[..., 0] ** 2 + flow[..., 1] ** 2


def warp_error_by_hand(source: np.ndarray, edit: np.ndarray) -> float:
    """Lai et al.'s formulas."""
    there, back = motion.flow_of(source).astype(float), motion.flow_of(source[::-1])[::-1].astype(float)
    errors = []
    for t, flow in enumerate(there):
        returned = looked_up(back[t], flow)
        lost = squared(flow + returned) > 0.01 * (squared(returned) + squared(flow)) + 0.5
        right, below = np.zeros_like(flow), np.zeros_like(flow)
        right[:, :-1], below[:-1] = flow[:, :-1] - flow[:, 1:], flow[:-1] - flow[1:]
        border = squared(right) + squared(below) > 0.01 * squared(flow) + 0.002
        assert lost.any() and border.any() and not (lost | border).all()
        difference = (looked_up(edit[t + 1].astype(float), flow) - edit[t]) / 255
        errors.append((difference[~(lost | border)] ** 2).mean())
    return float(np.mean(errors))


def test_warp_error_follows_its_formula() -> None:
    """On real flow with occlusions, whole and half pixels: a texture before another that moves the other way."""
    source = moving(2, 1)[:3, :96, :96]
    source[:, 30:60, 30:70] = moving(-3, 0, seed=4)[:3, 30:60, 30:70]
    edit = np.clip(source * 0.7 + RNG.normal(0, 12, source.shape), 0, 255).astype(np.uint8)
    (found,) = measured(["warp_error"], MetricSpec(), [Sample(source, edit)])
    wanted = warp_error_by_hand(source, edit)
    assert wanted > 1e-3 and found["warp_error"] == pytest.approx(wanted, abs=1e-4, rel=0.01)


def test_an_edit_that_goes_along_has_a_small_warp_error() -> None:
    """Other colours, same motion: less than a tenth of the error of an edit that moves the other way."""
    source, other = moving(2, 0), moving(-2, 0)
    along, against = measured(["warp_error"], MetricSpec(), [Sample(source, 255 - source), Sample(source, other)])
    assert along["warp_error"] < 0.1 * against["warp_error"]


def test_fidelity_by_hand() -> None:
    """Two tracks of the edit go right and one up, as in the source: those that go right find each other, the one that
    goes up is compared with all but itself, by the published code; so two thirds."""
    right, up = [[0, 0], [1, 0], [3, 0]], [[0, 9], [0, 7], [0, 6]]
    tracks = np.array([right, right, up], np.float32)
    assert motion.fidelity(tracks, tracks) == pytest.approx(2 / 3, abs=1e-6)
    turned = np.array([[[0, 0], [1, 0], [1, 1]]] * 3, np.float32)  # right, then down: a cosine of 1 and one of 0
    assert motion.fidelity(np.array([right] * 3, np.float32), turned) == pytest.approx(0.5, abs=1e-6)
    still = np.zeros((3, 3, 2), np.float32)
    assert motion.fidelity(tracks, still) == pytest.approx(0, abs=1e-6)


def test_fidelity_follows_its_formula() -> None:
    """Written out in loops, for random tracks."""
    source, edit = RNG.normal(size=(2, 7, 5, 2)).cumsum(2).astype(np.float32)
    best = []
    for i, ours in enumerate(edit):
        alike = []
        for j, theirs in enumerate(source):
            pairs = zip(np.diff(ours, axis=0), np.diff(theirs, axis=0), strict=True)
            cosines = [a @ b / np.linalg.norm(a) / np.linalg.norm(b) for a, b in pairs]
            alike.append(np.mean(cosines) - (i == j))
        best.append(max(alike))
    assert motion.fidelity(source, edit) == pytest.approx(np.mean(best), abs=1e-5)


def test_tracks_follow_a_flow() -> None:
    """A flow of half a pixel right and one down carries points along, up to the border; between pixels it is linear."""
    flow = np.zeros((3, 20, 30, 2), np.float32) + np.array([0.5, 1], np.float32)
    found = motion.tracks(flow, np.array([[3, 4], [29, 18]], np.float32))
    assert found[0].tolist() == [[3, 4], [3.5, 5], [4, 6], [4.5, 7]]
    assert found[1, -1].tolist() == [29, 19]
    slope = np.zeros((1, 20, 30, 2), np.float32)
    slope[..., 0] = np.arange(30) / 10
    assert motion.tracks(slope, np.array([[2.5, 3]], np.float32))[0, 1] == pytest.approx([2.75, 3])


def test_motion_metrics_tell_motion_apart() -> None:
    """An edit that moves as its source does has a fidelity near 1 and an alignment near 0 px; one that moves the other
    way by 2 px a frame has one below 0 and an alignment of about -4 px."""
    source, other = moving(2, 0), moving(-2, 0, seed=9)
    names = ["motion_fidelity_score", "motion_alignment"]
    along, against = measured(names, MetricSpec(), [Sample(source, 255 - source), Sample(source, other)])
    assert along["motion_fidelity_score"] > 0.95 and along["motion_alignment"] > -0.3
    assert against["motion_fidelity_score"] < 0 and -4.6 < against["motion_alignment"] < -3.4


def test_the_edited_part_is_the_masks_box() -> None:
    """Of an edit that moves otherwise inside the mask alone, the part's fidelity is low and the whole's is not; tracks
    begin in the box around the mask."""
    source, edit = moving(2, 0), moving(2, 0)
    edit[:, 24:72, 30:90] = moving(0, -2, seed=9)[:, 24:72, 30:90]
    mask = np.zeros(source.shape[:3], bool)
    mask[0, 24:72, 30:60] = mask[1, 40:50, 60:90] = True
    names = ["motion_fidelity_score", "motion_fidelity_score_edit_part"]
    (found,) = measured(names, MetricSpec(), [Sample(source, edit, mask)])
    assert found["motion_fidelity_score_edit_part"] < 0.4 < found["motion_fidelity_score"]
    points = motion.boxed(motion.grid(96, 120), mask)
    assert points.min(0) == pytest.approx([30, 24], abs=2) and points.max(0) == pytest.approx([88, 70], abs=2)
    (none,) = measured(names, MetricSpec(), [Sample(source, edit, np.zeros_like(mask))])
    assert set(none) == {"motion_fidelity_score"}


def test_small_frames_have_motion_too() -> None:
    """At 48 pixels, where flow is looked for at twice the size, an alignment is in pixels of the frames."""
    source, other = (frames[:, ::2, ::2] for frames in (moving(2, 0), moving(-2, 0)))
    (found,) = measured(["motion_alignment"], MetricSpec(), [Sample(source, other)])
    assert -2.5 < found["motion_alignment"] < -1.5


def test_the_grid_is_cotrackers() -> None:
    """55 points on a side, a 64th of the width from the border."""
    points = motion.grid(96, 128)
    assert points.shape == (55 * 55, 2) and points[0].tolist() == [2, 2] and points[-1].tolist() == [126, 94]
