"""Masks as pixels: every kind lies over the window as the clip's own frames do, and pasting gives the source back."""

from __future__ import annotations

import io
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from cogvideo_core.errors import ClipTooLarge, NotAMask
from cogvideo_core.media import masks, regions, video
from cogvideo_core.media.colour import AREA
from cogvideo_core.media.described import Probe
from cogvideo_core.media.video import View, Window
from cogvideo_core.settings.specs import DatasetSpec

LIMITS = video.Limits.of(DatasetSpec())


def probe(width: int = 96, height: int = 48, frames: int = 20, fps: int = 16, **more: Any) -> Probe:
    return Probe(width, height, Fraction(1), Fraction(fps), frames, frames / fps, False, 0, **more)


def still(picture: np.ndarray) -> masks.Pictures:
    return masks.Pictures(1, lambda index: picture)


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
@pytest.mark.parametrize("scale", [1, 2])
def test_a_mask_lies_where_the_clips_frames_do(tmp_path: Path, fit: Any, scale: int) -> None:
    """A white shape as the clip's own picture and as its mask, also at twice the size, covers the same pixels of the
    window, by each way to fit it, up to the pixels on its edge."""
    picture = np.zeros((48, 96), np.uint8)
    picture[10:30, 30:61] = 255
    path = tmp_path / "clip.mp4"
    video.encode(np.repeat(picture[None, ..., None], 20, 0).repeat(3, -1), path, 16, crf=1)
    found, view = video.probe(path, "clip.mp4", LIMITS), View(32, 32, 8, fit, AREA)
    window = Window(0, 0.0, 9)
    seen = video.decode(path, "clip.mp4", found, window, view, LIMITS).max(-1)
    large = picture.repeat(scale, 0).repeat(scale, 1)
    mask = masks.frames_of(still(large), "mask.png", found, window, view)
    assert mask.shape == (9, 32, 32)
    assert mask[seen > 200].all() and not mask[seen < 55].any()


def test_frames_are_those_nearest_in_time() -> None:
    """With as many pictures as the clip has, each frame of the window takes the one shown at its time."""
    numbered = masks.picked(20, "m", probe(), Window(0, 0.25, 8), 8)
    assert numbered == [4, 6, 8, 10, 12, 14, 16, 18]
    assert masks.picked(9, "m", probe(frames=40), Window(0, 0.0, 9), 8) == list(range(9))
    assert masks.picked(1, "m", probe(), Window(0, 0.0, 9), 8) == [0] * 9
    with pytest.raises(NotAMask, match="it has 7 frames, its clip 20 and the window 9; give one"):
        masks.picked(7, "m", probe(), Window(0, 0.0, 9), 8)


def test_another_shape_is_refused() -> None:
    """A mask of another aspect ratio would lie somewhere else; the sentence has both sizes."""
    with pytest.raises(NotAMask, match="it has 48x48 pixels and its clip 96x48, which is another shape"):
        masks.fitted(np.zeros((48, 48), np.uint8), "m.png", probe(), View(32, 32, 8))


def test_a_mask_in_stored_pixels_of_an_anamorphic_clip() -> None:
    """Pixels that are shown twice as wide are so in the mask too, whether it has the clip's pixels or square ones."""
    clip = Probe(48, 48, Fraction(2), Fraction(16), 20, 1.25, False, 0)
    stored, square = np.zeros((48, 48), np.uint8), np.zeros((48, 96), np.uint8)
    stored[:, 18:30], square[:, 36:60] = 255, 255
    both = [masks.fitted(picture, "m", clip, View(24, 24, 8)) for picture in (stored, square)]
    assert np.array_equal(*both) and both[0][:, 6:18].all() and both[0].sum() == 24 * 12


def npz(**arrays: Any) -> bytes:
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


@pytest.mark.parametrize("scale", [True, 1, 1.0, 255, 200.0])
def test_arrays_of_every_scale_mark_the_same(scale: Any) -> None:
    """Bool, 0 and 1, fractions, and 0 to 255, with or without a last axis of one."""
    mask = np.zeros((3, 4, 6))
    mask[1, 2, 3] = 1
    values = mask.astype(bool) if scale is True else (mask * scale).astype(type(scale))
    for array in (values, values[..., None]):
        found = masks.array_pictures(npz(mask=array, other=np.zeros(2)), "m.npz", 100)
        assert found.length == 3 and np.array_equal(np.stack([found.picture(i) for i in range(3)]) > 0, mask > 0)


BAD: dict[str, tuple[Any, str]] = {
    "text": (b"hello", "it can't be read as NPZ"),
    "a pickle": (npz(mask=np.array([{"a": 1}], dtype=object)), "it can't be read as NPZ"),
    "several": (npz(a=np.zeros((2, 2)), b=np.zeros((2, 2))), "it holds several arrays"),
    "colours": (npz(mask=np.zeros((2, 4, 4, 3), np.uint8)), "its array is uint8 [2, 4, 4, 3]"),
    "words": (npz(mask=np.array([["a"]])), "its array is <U1 [1, 1]"),
    "no numbers": (npz(mask=np.array([[0.0, np.nan]])), "its array has values that are no numbers"),
    "nothing": (npz(mask=np.zeros((0, 4, 4))), "its array is float64 [0, 4, 4]"),
}


@pytest.mark.parametrize(("data", "told"), BAD.values(), ids=BAD)
def test_bad_arrays_are_refused(data: bytes, told: str) -> None:
    """Pickles are never opened; each refusal says what the file holds and how to write it."""
    with pytest.raises(NotAMask) as error:
        masks.array_pictures(data, "m.npz", 10_000)
    assert told in str(error.value) and "m.npz" in str(error.value)


def test_large_arrays_are_refused_before_they_are_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small file that unpacks to a large one, and frames of too many pixels."""
    with pytest.raises(ClipTooLarge, match="more than 100 pixels"):
        masks.array_pictures(npz(mask=np.zeros((1, 20, 20), bool)), "m.npz", 100)
    monkeypatch.setattr(masks, "MAX_ARRAY_BYTES", 1000)
    with pytest.raises(ClipTooLarge, match="its arrays have"):
        masks.array_pictures(npz(mask=np.zeros((1, 40, 40), bool)), "m.npz", 10_000)


def test_widening_and_feather() -> None:
    """Alpha is 1 up to the grown border, falls over the feather, then is 0; a frame without a mask stays empty."""
    mask = np.zeros((2, 1, 21), bool)
    mask[0, 0, 10] = True
    alpha = masks.alpha_of(mask, 2, 3)
    wanted = [0, 0.25, 0.5, 0.75, 1, 1, 1, 1, 1, 0.75, 0.5, 0.25, 0]
    assert alpha[0, 0, 4:17].tolist() == wanted and not alpha[1].any()
    assert np.array_equal(masks.alpha_of(mask, 0, 0) > 0, mask)


def test_pasting_gives_the_source_outside() -> None:
    """Bit for bit where alpha is 0; inside the edit, whose colours meet the source's at the border."""
    rng = np.random.default_rng(0)
    source = rng.integers(60, 200, (3, 40, 40, 3), np.uint8)
    alpha = np.zeros((3, 40, 40), np.float32)
    alpha[:, 10:30, 10:30] = 1
    edit = (source.astype(int) - 7).astype(np.uint8)  # as a VAE that darkens everything
    edit[:, 18:22, 18:22] = 250
    found = masks.pasted(source, edit, alpha)
    assert np.array_equal(found[alpha == 0], source[alpha == 0])
    kept = (alpha == 1) & ~(edit == 250).all(-1)
    assert np.abs(found[kept].astype(int) - source[kept]).max() <= 1
    assert (found[:, 18:22, 18:22] == 255).all()
    assert np.array_equal(masks.pasted(source, edit, np.ones_like(alpha)), edit)


def test_scores_tell_the_regions_apart() -> None:
    """A change inside shows inside alone; a step along the border shows in the seam; without any, the seam is 1."""
    rng = np.random.default_rng(1)
    source = rng.integers(90, 110, (5, 48, 48, 3), np.uint8)
    alpha = np.zeros((5, 48, 48), np.float32)
    alpha[:, 16:32, 16:32] = 1
    edit = source.copy()
    edit[:, 20:28, 20:28] = 230
    scores = regions.region_scores(source, source, edit, alpha, 4)
    assert scores["outside_db"] == 100 and scores["outside_flicker"] == 0 and scores["seam"] == 1
    assert (
        scores["inside_db"] < 20
        and scores["inside_delta_e"] > 5
        and scores["mask_share"] == pytest.approx(1 / 9, abs=1e-4)
    )
    edit[:, 16:32, 16:32] = np.clip(edit[:, 16:32, 16:32].astype(int) + 40, 0, 255)
    assert regions.region_scores(source, source, edit, alpha, 4)["seam"] > 3
    noisy = np.clip(source.astype(int) + 3, 0, 255).astype(np.uint8)
    below = regions.region_scores(source, source, noisy, alpha, 4)["outside_below_vae_db"]
    assert below == pytest.approx(100 - 20 * np.log10(255 / 3), abs=0.01)


def test_a_mask_of_everything_has_no_outside() -> None:
    """No figures of a region that is not there."""
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    scores = regions.region_scores(frames, frames, frames, np.ones((2, 16, 16), np.float32), 4)
    assert scores["mask_share"] == 1 and not [name for name in scores if name.startswith(("outside", "seam"))]
