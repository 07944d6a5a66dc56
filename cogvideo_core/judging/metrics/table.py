"""Every metric: its name in the benchmarks, what it is, where that stands, which way is better, what it needs."""

from __future__ import annotations

from typing import Literal, NamedTuple

PIE = "PIE-Bench (arXiv 2310.01506, cure-lab/PnPInversion), FiVE-Bench"
FIVE = "FiVE-Bench (arXiv 2503.13684, Harvard-AI-and-Robotics-Lab/FiVE-Bench)"
TGVE = "LOVEU-TGVE 2023 (arXiv 2310.16003, showlab/loveu-tgve-2023)"
V2V = "V2VBench (arXiv 2407.07111, wenhao728/awesome-diffusion-v2v)"
DMT = "DMT (arXiv 2311.17009, diffusion-motion-transfer/diffusion-motion-transfer), FiVE-Bench"
BOTH_QUESTIONS = ("vlm", "yes_no", "multiple_choice")


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
    Metric(
        "clip_t",
        "CLIP-T",
        "higher",
        ("clip", "target_prompt"),
        f"{TGVE}, V2VBench, EditVerseBench",
        "the model's scale (100) times the cosine of frame and target prompt, mean over frames",
    ),
    Metric("clip_f", "CLIP-F", "higher", ("clip", "motion"), TGVE, "mean cosine of all pairs of different frames"),
    Metric(
        "pick_score",
        "PickScore",
        "higher",
        ("pickscore", "target_prompt"),
        f"arXiv 2305.01569, yuvalkirstain/PickScore; {TGVE}, V2VBench, EditVerseBench",
        "as CLIP-T, by a CLIP model that was trained on what people prefer",
    ),
    Metric(
        "clip_consistency",
        "CLIP consistency",
        "higher",
        ("clip", "motion"),
        f"{V2V}, EditVerseBench (arXiv 2509.20360)",
        "mean cosine of neighbouring frames before CLIP's projection, negative ones as 0",
    ),
    Metric(
        "dino_consistency",
        "DINO consistency",
        "higher",
        ("dino", "motion"),
        f"{V2V}, EditVerseBench (arXiv 2509.20360)",
        "mean cosine of the class tokens of neighbouring frames, negative ones as 0; published with DINOv2-B",
    ),
    Metric(
        "clip_similarity_source_image",
        "CLIP, source",
        "higher",
        ("clip", "source_prompt"),
        PIE,
        "100 times the cosine of the source's frame and the source prompt, at least 0, mean over frames",
    ),
    Metric(
        "clip_similarity_target_image",
        "CLIP, whole",
        "higher",
        ("clip", "target_prompt"),
        PIE,
        "100 times the cosine of the edit's frame and the target prompt, at least 0, mean over frames",
    ),
    Metric(
        "clip_similarity_target_image_edit_part",
        "CLIP, edited",
        "higher",
        ("clip", "target_prompt", "mask"),
        PIE,
        "the same with all outside the mask black",
    ),
    Metric(
        "structure_distance",
        "Structure distance",
        "lower",
        ("dino",),
        f"Splice (arXiv 2201.00424), {PIE}",
        "mean squared difference of the cosines between the last layer's keys of all tokens, mean over frames",
        1e3,
    ),
    Metric("psnr", "PSNR", "higher", (), PIE, "peak signal-to-noise ratio of the frames in dB, mean over frames"),
    Metric("ssim", "SSIM", "higher", (), PIE, "structural similarity (Gaussian window), mean over frames", 1e2),
    Metric(
        "lpips",
        "LPIPS",
        "lower",
        ("lpips",),
        f"arXiv 1801.03924, richzhang/PerceptualSimilarity; {PIE}",
        "learned perceptual distance, mean over frames; published with SqueezeNet",
        1e3,
    ),
    Metric("mse", "MSE", "lower", (), PIE, "mean squared error of the frames, white is 1", 1e4),
    Metric("psnr_unedit_part", "PSNR outside", "higher", ("mask",), PIE, "PSNR with the mask's inside black in both"),
    Metric("ssim_unedit_part", "SSIM outside", "higher", ("mask",), PIE, "SSIM with the mask's inside black", 1e2),
    Metric("lpips_unedit_part", "LPIPS outside", "lower", ("lpips", "mask"), PIE, "LPIPS likewise", 1e3),
    Metric("mse_unedit_part", "MSE outside", "lower", ("mask",), PIE, "MSE likewise", 1e4),
    Metric(
        "warp_error",
        "Warp error",
        "lower",
        ("motion",),
        "arXiv 1808.00449, phoenix104104/fast_blind_video_consistency; TokenFlow (arXiv 2307.10373)",
        "mean squared difference of neighbouring frames of the edit along the source's flow where nothing is occluded, "
        "white is 1; flow by DIS, published with RAFT",
        1e3,
    ),
    Metric(
        "motion_fidelity_score",
        "Motion fidelity",
        "higher",
        ("motion",),
        DMT,
        "each track of the edit against the source's track most alike: mean cosine of their steps; tracks are chains "
        "of DIS flow, published with CoTracker",
        1e2,
    ),
    Metric(
        "motion_fidelity_score_edit_part",
        "Motion fidelity, edited",
        "higher",
        ("motion", "mask"),
        DMT,
        "the same of the tracks that begin in the mask's box",
        1e2,
    ),
    Metric(
        "motion_alignment",
        "Motion alignment",
        "higher",
        ("motion",),
        V2V,
        "minus the mean distance in pixels between the flows of edit and source; flow by DIS, published with GMFlow",
    ),
    Metric(
        "five_acc_yes_no",
        "YN-Acc",
        "higher",
        ("vlm", "yes_no"),
        FIVE,
        "1 where all yes-or-no questions are answered as expected, else 0",
        1e2,
    ),
    Metric(
        "five_acc_multi_choice",
        "MC-Acc",
        "higher",
        ("vlm", "multiple_choice"),
        FIVE,
        "1 where all multiple choices are answered as expected, else 0",
        1e2,
    ),
    Metric("five_acc_union", "U-Acc", "higher", BOTH_QUESTIONS, FIVE, "1 where YN-Acc or MC-Acc is, else 0", 1e2),
    Metric("five_acc_inter", "∩-Acc", "higher", BOTH_QUESTIONS, FIVE, "1 where YN-Acc and MC-Acc are, else 0", 1e2),
    Metric("five_acc", "FiVE-Acc", "higher", BOTH_QUESTIONS, FIVE, "mean of the four above", 1e2),
    Metric(
        "niqe",
        "NIQE",
        "lower",
        ("niqe",),
        f"Mittal et al. 2013, chaofengc/IQA-PyTorch; {FIVE}",
        "distance of a frame's statistics from those of natural pictures, mean over frames",
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
