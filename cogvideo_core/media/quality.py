"""What an edit did to the part of the picture that it should have left alone: colour, sharpness, stillness.

Frames are uint8 [F,H,W,3]; lightness and chroma are those of CIELAB.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage
from skimage.color import deltaE_ciede2000, lab2rgb, rgb2lab
from skimage.metrics import structural_similarity

COMPARED_FRAMES = 13  # of a longer clip, evenly spread
TOLERANCE = 12.0  # CIELAB units a smoothed pixel may differ by, beyond the global shift
KEPT_SHARE = 0.7  # of the pixels that `kept_db` looks at
LEAST_SHARE = 0.02  # of the pixels; figures of a smaller region would be noise


def preserved_region(source: np.ndarray, edit: np.ndarray) -> np.ndarray:
    """Pixels whose content stayed in place: bool [F,H,W], from Lab frames float [F,H,W,3].

    The smoothed difference, minus its median over the clip, is small there, so that a shift of all colours, which is
    to be measured, does not hide the region. A margin around what changed is left out.
    """
    sigma = max(1.0, source.shape[1] / 60)
    difference = ndimage.gaussian_filter(edit - source, (0, sigma, sigma, 0))
    shift = np.median(difference, axis=(0, 1, 2))
    changed = np.linalg.norm(difference - shift, axis=-1) > TOLERANCE
    reach = 2 * math.ceil(sigma) + 1
    return ~ndimage.binary_dilation(changed, np.ones((1, reach, reach), bool))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    """dB over uint8 arrays of one shape; 100 where they are equal."""
    mse = float(np.square(a.astype(np.float32) - b.astype(np.float32)).mean())
    return float(10 * np.log10(255**2 / mse)) if mse else 100.0


def sharpness(frames: np.ndarray, region: np.ndarray) -> float:
    """Mean absolute Laplacian of the grey levels in a region bool [F,H,W]."""
    return float(np.abs(ndimage.laplace(frames.mean(-1), axes=(1, 2), mode="nearest"))[region].mean())


def delta_e(source: np.ndarray, edit: np.ndarray) -> tuple[float, float]:
    """Mean and 95th percentile of CIEDE2000 between Lab colours float [n,3]."""
    differences = deltaE_ciede2000(source, edit)
    return float(differences.mean()), float(np.percentile(differences, 95))


def similarity(source: np.ndarray, edit: np.ndarray, region: np.ndarray) -> float:
    """Mean SSIM of the grey levels over a region bool [F,H,W], frame by frame."""
    total = 0.0
    for a, b, inside in zip(source.mean(-1), edit.mean(-1), region, strict=True):
        total += structural_similarity(a, b, data_range=255, full=True)[1][inside].sum()
    return total / int(region.sum())


def flicker(source: np.ndarray, edit: np.ndarray, region: np.ndarray) -> float:
    """Mean change from frame to frame that the source does not show, in levels of 255; NaN for a single frame."""
    inside = region[1:] & region[:-1]
    if not inside.any():
        return math.nan
    change = np.diff(edit.mean(-1) - source.mean(-1), axis=0)
    return float(np.abs(change)[inside].mean())


def preserved_scores(source: np.ndarray, edit: np.ndarray) -> dict[str, float]:
    """Scores of an edit's preserved region; `source` should be the clip as the VAE alone returns it.

    preserved: its share of the pixels. delta_e, delta_e_p95: colour shift (CIEDE2000). luminance_gain,
    saturation_gain, sharpness: edit ÷ source. ssim. flicker: levels of 255 a frame. Only `preserved` where it is tiny.
    """
    stride = max(1, math.ceil(len(source) / COMPARED_FRAMES))
    source, edit = source[::stride], edit[::stride]
    lab, lab_edit = (rgb2lab(frames / 255.0) for frames in (source, edit))
    region = preserved_region(lab, lab_edit)
    scores = {"preserved": float(region.mean())}
    if scores["preserved"] < LEAST_SHARE:
        return scores
    inside, inside_edit = lab[region], lab_edit[region]
    scores["delta_e"], scores["delta_e_p95"] = delta_e(inside, inside_edit)
    scores["luminance_gain"] = _ratio(inside_edit[:, 0].mean(), inside[:, 0].mean())
    scores["saturation_gain"] = _ratio(*(np.hypot(x[:, 1], x[:, 2]).mean() for x in (inside_edit, inside)))
    scores["sharpness"] = _ratio(sharpness(edit, region), sharpness(source, region))
    scores["ssim"] = similarity(source, edit, region)
    scores["flicker"] = flicker(source, edit, region)
    return {name: round(value, 4) for name, value in scores.items() if math.isfinite(value)}


def kept_db(source: np.ndarray, edit: np.ndarray) -> float:
    """PSNR in dB over the KEPT_SHARE of the pixels that differ least once smoothed: what an edit of one thing leaves
    alone, also where colours or texture changed a little everywhere. Frames uint8 [F,H,W,3]."""
    stride, sigma = max(1, math.ceil(len(source) / COMPARED_FRAMES)), max(1.0, source.shape[1] / 60)
    source, edit = (frames[::stride].astype(np.float32) for frames in (source, edit))
    smooth = ndimage.gaussian_filter(edit - source, (0, sigma, sigma, 0))
    far = np.square(smooth).sum(-1)
    return psnr(source[kept := far <= np.quantile(far, KEPT_SHARE)], edit[kept])


def colour_transferred(source: np.ndarray, edit: np.ndarray) -> np.ndarray:
    """The edit uint8 [F,H,W,3] with the source's mean and standard deviation of each Lab channel, taken over the
    preserved region and given to it alone, with soft edges. Source: Reinhard et al. 2001."""
    lab, lab_edit = (rgb2lab(frames / 255.0) for frames in (source, edit))
    region = preserved_region(lab, lab_edit)
    if region.mean() < LEAST_SHARE:
        return edit
    (mean, std), (mean_edit, std_edit) = ((x[region].mean(0), x[region].std(0)) for x in (lab, lab_edit))
    matched = (lab_edit - mean_edit) * (std / np.maximum(std_edit, 1e-3)) + mean
    sigma = max(1.0, edit.shape[1] / 60)
    share = ndimage.gaussian_filter(region.astype(float), (0, sigma, sigma))[..., None]
    return np.rint(lab2rgb(lab_edit + share * (matched - lab_edit)).clip(0, 1) * 255).astype(np.uint8)


def _ratio(a: float, b: float) -> float:
    return float(a / b) if b > 0 else math.nan
