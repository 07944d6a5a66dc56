"""The benchmarks' pixel metrics: against plain numpy, by hand, outside masks, and bad samples."""

import numpy as np
import pytest

from cogvideo_core.errors import BadSpec, ClipError, NotAMask
from cogvideo_core.judging.metrics.measure import measured
from cogvideo_core.judging.metrics.samples import Question, Sample
from cogvideo_core.settings.metric_specs import MetricSpec

SPEC = MetricSpec()
PIXELS = [f"{name}{part}" for name in ("mse", "psnr", "ssim") for part in ("", "_unedit_part")]
RNG = np.random.default_rng(5)
SOURCE = RNG.integers(0, 256, (3, 24, 20, 3), np.uint8)
EDIT = np.clip(SOURCE + RNG.normal(0, 25, SOURCE.shape), 0, 255).astype(np.uint8)
MASK = np.zeros((3, 24, 20), bool)
MASK[:, 4:15, 3:12] = True


def plain_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Wang et al.'s formula, window by window, for frames float [H,W,3] in 0..1."""
    row = np.exp(-0.5 * (np.arange(-5, 6) / 1.5) ** 2)
    weights = np.outer(row, row)[..., None] / row.sum() ** 2
    values = []
    for y in range(a.shape[0] - 10):
        for x in range(a.shape[1] - 10):
            p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
            m, n = (weights * p).sum((0, 1)), (weights * q).sum((0, 1))
            vp, vq, c = (weights * (p - m) ** 2, weights * (q - n) ** 2, weights * (p - m) * (q - n))
            top = (2 * m * n + 1e-4) * (2 * c.sum((0, 1)) + 9e-4)
            values.append(top / ((m**2 + n**2 + 1e-4) * (vp.sum((0, 1)) + vq.sum((0, 1)) + 9e-4)))
    return float(np.mean(values))


def test_pixel_metrics_follow_their_formulas() -> None:
    """MSE, PSNR and SSIM are means over frames of the formulas written out, on whole frames and with the mask black."""
    (found,) = measured(PIXELS, SPEC, [Sample(SOURCE, EDIT, MASK)])
    for ending, keep in (("", np.ones_like(MASK)), ("_unedit_part", ~MASK)):
        a, b = (frames / 255 * keep[..., None] for frames in (SOURCE, EDIT))
        errors = ((a - b) ** 2).reshape(3, -1).mean(1)
        assert found[f"mse{ending}"] == pytest.approx(errors.mean(), abs=1e-6)
        assert found[f"psnr{ending}"] == pytest.approx((10 * np.log10(1 / errors)).mean(), abs=1e-4)
        assert found[f"ssim{ending}"] == pytest.approx(
            np.mean([plain_ssim(*ab) for ab in zip(a, b, strict=True)]), abs=1e-4
        )
    assert set(found) == set(PIXELS)


def test_pixel_metrics_by_hand() -> None:
    """A change by 51 levels, a fifth of white, has an MSE of .04 and 13.979 dB; with a quarter outside the mask .01."""
    grey = np.full((2, 16, 16, 3), 100, np.uint8)
    mask = np.ones((2, 16, 16), bool)
    mask[:, :8, :8] = False
    (found,) = measured(["mse", "psnr", "mse_unedit_part"], SPEC, [Sample(grey, grey + 51, mask)])
    assert found == pytest.approx({"mse": 0.04, "psnr": 13.9794, "mse_unedit_part": 0.01}, abs=1e-4)


def test_what_is_masked_does_not_count() -> None:
    """A change inside the mask alone leaves the outside equal: 100 dB, SSIM 1, MSE 0."""
    edit = np.where(MASK[..., None], 255 - SOURCE, SOURCE)
    (found,) = measured(PIXELS, SPEC, [Sample(SOURCE, edit, MASK)])
    assert (found["psnr_unedit_part"], found["mse_unedit_part"]) == (100, 0)
    assert found["ssim_unedit_part"] == pytest.approx(1) and found["psnr"] < 40


def test_frames_that_a_mask_marks_whole_are_left_out() -> None:
    """The mean is over the other frames, and there is none where all are marked."""
    whole = MASK.copy()
    whole[1] = True
    (found,) = measured(PIXELS, SPEC, [Sample(SOURCE, EDIT, whole)])
    (others,) = measured(PIXELS, SPEC, [Sample(SOURCE[::2], EDIT[::2], MASK[::2])])
    assert found["psnr_unedit_part"] == others["psnr_unedit_part"]
    (none,) = measured(PIXELS, SPEC, [Sample(SOURCE, EDIT, np.ones_like(MASK))])
    assert set(none) == {"mse", "psnr", "ssim"}


def test_stride_and_count_choose_the_frames() -> None:
    """stride=2 takes the first and the third of three frames; frames=1 the first alone."""
    pair, one = Sample(SOURCE[::2], EDIT[::2]), Sample(SOURCE[:1], EDIT[:1])
    sample = Sample(SOURCE, EDIT)
    assert measured(PIXELS, MetricSpec(stride=2), [sample]) == measured(PIXELS, SPEC, [pair])
    assert measured(PIXELS, MetricSpec(frames=1), [sample]) == measured(PIXELS, SPEC, [one])


@pytest.mark.parametrize(
    ("sample", "kind", "words"),
    [
        (Sample(SOURCE, EDIT[:2], name="a"), ClipError, "edit 'a': source and edit differ in shape"),
        (Sample(SOURCE / 255, EDIT / 255, name="a"), ClipError, "type float64"),
        (Sample(SOURCE[:0], EDIT[:0], name="a"), ClipError, "give uint8 frames"),
        (Sample(SOURCE, EDIT, MASK[:, :5], name="a"), NotAMask, "its mask has shape (3, 5, 20)"),
        (Sample(SOURCE, EDIT, questions=(Question("yes_no", "Is it?", (), "b"),)), ClipError, "yes or no"),
        (Sample(SOURCE, EDIT, questions=(Question("multiple_choice", "?", ("x", "y"), "c"),)), ClipError, "letter"),
    ],
)
def test_bad_samples_are_refused(sample: Sample, kind: type[ClipError], words: str) -> None:
    """In one sentence that names the edit and what to do."""
    with pytest.raises(kind) as caught:
        measured(["mse"], SPEC, [sample])
    assert words in str(caught.value) and "; " in str(caught.value)


def test_unknown_metrics_are_refused() -> None:
    """The message lists those that are known."""
    with pytest.raises(BadSpec, match=r"metric 'fvd' is not known; the known ones are clip_t, clip_f"):
        measured(["fvd"], SPEC, [])
