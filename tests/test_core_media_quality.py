"""Figures of the preserved region, against edits whose truth is known."""

import numpy as np
import pytest
from scipy import ndimage
from skimage.color import deltaE_ciede2000, rgb2lab

from cogvideo_core.media import quality
from cogvideo_core.shapes import world

SCENE = world.scene_from_seed(5)
SOURCE = world.render(SCENE)


def other_shape() -> world.Scene:
    names = [name for name in world.COLOURS if name != SCENE.combination.colour]
    return SCENE.edited(colour=names[0])


def test_equal_clips_have_perfect_scores() -> None:
    """A clip against itself: everything preserved, no shift, gains of one."""
    scores = quality.preserved_scores(SOURCE, SOURCE)
    assert scores == {
        **{"preserved": 1.0, "delta_e": 0.0, "delta_e_p95": 0.0, "luminance_gain": 1.0, "saturation_gain": 1.0},
        **{"sharpness": 1.0, "ssim": 1.0, "flicker": 0.0},
    }


@pytest.mark.parametrize("seed", range(5, 11))
def test_region_leaves_out_what_was_edited(seed: int) -> None:
    """After a true recolouring the region holds nearly all of the background and nothing of the object."""
    scene = world.scene_from_seed(seed)
    edit = scene.edited(colour=next(name for name in world.COLOURS if name != scene.combination.colour))
    lab, lab_edit = (rgb2lab(world.render(s) / 255.0) for s in (scene, edit))
    region, truth = quality.preserved_region(lab, lab_edit), world.masks(scene) > 0
    assert not (region & (world.masks(scene) > 0.5)).any()
    assert (region & ~truth).sum() > 0.75 * (~truth).sum()


def test_shift_of_the_background_is_measured_beside_an_edit() -> None:
    """A colour shift of everything is found, to a tenth, although the object was recoloured at the same time."""
    edited = world.render(other_shape())
    shifted = np.clip(edited.astype(int) + np.array([9, 0, -7]), 0, 255).astype(np.uint8)
    background = world.masks(SCENE) == 0
    truth = deltaE_ciede2000(rgb2lab(SOURCE / 255.0)[background], rgb2lab(shifted / 255.0)[background]).mean()
    assert truth > 3
    assert quality.preserved_scores(SOURCE, shifted)["delta_e"] == pytest.approx(truth, rel=0.1)


def test_each_fault_moves_its_figure() -> None:
    """Blur lowers sharpness and SSIM, darkening the luminance gain, greying the saturation; flicker is seen."""
    scores = {
        "blur": quality.preserved_scores(SOURCE, ndimage.gaussian_filter(SOURCE, (0, 1, 1, 0))),
        "dark": quality.preserved_scores(SOURCE, (SOURCE * 0.9).astype(np.uint8)),
        "grey": quality.preserved_scores(
            SOURCE, (0.5 * SOURCE + 0.5 * SOURCE.mean(-1, keepdims=True)).round().astype(np.uint8)
        ),
        "flicker": quality.preserved_scores(
            SOURCE, SOURCE - (np.arange(9) % 2 * 4).astype(np.uint8)[:, None, None, None]
        ),
    }
    assert scores["blur"]["sharpness"] < 0.8 and scores["blur"]["ssim"] < 0.99
    assert scores["dark"]["luminance_gain"] < 0.95
    assert scores["grey"]["saturation_gain"] < 0.8
    assert scores["flicker"]["flicker"] == pytest.approx(4, abs=0.5)
    assert all(scores[name]["flicker"] < 1 for name in ("blur", "dark", "grey"))


def test_colour_transfer_takes_the_shift_away_and_leaves_the_object() -> None:
    """Where an edit shifted all colours, the background comes back to the source's; the object keeps the edit's."""
    edited = world.render(other_shape())
    shifted = np.clip(edited.astype(int) + np.array([9, 0, -7]), 0, 255).astype(np.uint8)
    mended = quality.colour_transferred(SOURCE, shifted)
    before, after = (quality.preserved_scores(SOURCE, frames)["delta_e"] for frames in (shifted, mended))
    assert after < 0.3 * before
    inner = world.masks(SCENE) == 1
    assert np.abs(mended.astype(int) - shifted)[inner].mean() < 2


def test_colour_transfer_leaves_an_equal_clip_alone() -> None:
    """Nothing to mend: no pixel moves by more than rounding."""
    assert np.abs(quality.colour_transferred(SOURCE, SOURCE).astype(int) - SOURCE).max() <= 1


def test_nothing_preserved_has_no_figures() -> None:
    """Where next to nothing stayed, only that is said."""
    blocks = np.kron(np.random.default_rng(1).integers(0, 2, (9, 8, 8)), np.ones((1, 6, 6)))[..., None] * 255
    scores = quality.preserved_scores(SOURCE, np.broadcast_to(blocks, SOURCE.shape).astype(np.uint8))
    assert list(scores) == ["preserved"] and scores["preserved"] < quality.LEAST_SHARE


def test_long_clips_are_sampled() -> None:
    """A clip of 49 frames is compared on at most 13 of them, with the figures of the whole within rounding."""
    long = np.concatenate([SOURCE] * 6)[:49]
    seen = quality.preserved_scores(long, (long * 0.9).astype(np.uint8))
    assert seen["luminance_gain"] == pytest.approx(
        quality.preserved_scores(SOURCE, (SOURCE * 0.9).astype(np.uint8))["luminance_gain"], abs=0.01
    )
