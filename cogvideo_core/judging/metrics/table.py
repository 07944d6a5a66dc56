"""Every metric: its name in the benchmarks, what it is, where that stands, which way is better, what it needs."""

from __future__ import annotations

from typing import Literal, NamedTuple

PIE = "PIE-Bench, arXiv 2310.01506, cure-lab/PnPInversion; FiVE-Bench, arXiv 2503.13684"
FIVE = "FiVE-Bench, arXiv 2503.13684, Harvard-AI-and-Robotics-Lab/FiVE-Bench"
TGVE = "LOVEU-TGVE 2023, arXiv 2310.16003, showlab/loveu-tgve-2023"
V2V = "V2VBench, arXiv 2407.07111, wenhao728/awesome-diffusion-v2v; EditVerseBench, arXiv 2509.20360"


class Metric(NamedTuple):
    """A metric as data. `scale` is what the published tables multiply the value by."""

    name: str
    title: str
    better: Literal["higher", "lower"]
    needs: tuple[str, ...]  # words of `samples.has`
    source: str
    definition: str
    scale: float = 1.0


_ALL = (
    Metric("mse", "MSE", "lower", (), PIE, "mean squared error of the frames, white is 1", 1e4),
    Metric("psnr", "PSNR", "higher", (), PIE, "peak signal-to-noise ratio in dB, mean over frames"),
    Metric("ssim", "SSIM", "higher", (), PIE, "structural similarity, at most 1, mean over frames", 100),
    Metric("mse_unedit_part", "MSE outside", "lower", ("mask",), PIE, "MSE with the mask's inside black in both", 1e4),
    Metric("psnr_unedit_part", "PSNR outside", "higher", ("mask",), PIE, "PSNR with the mask's inside black in both"),
    Metric(
        "ssim_unedit_part", "SSIM outside", "higher", ("mask",), PIE, "SSIM with the mask's inside black in both", 100
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
