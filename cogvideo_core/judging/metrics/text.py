"""Frames against prompts and frames against each other, by CLIP and PickScore, which is a CLIP model.

Where the benchmarks scale frames before CLIP's own processor does, these are taken as they are.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from cogvideo_core.judging.loading import finite
from cogvideo_core.judging.text import TextJudge

AT_ONCE = 16  # frames


def embedded(judge: TextJudge, frames: np.ndarray) -> Tensor:
    """uint8 [F,H,W,3] -> float32 [F,D], each of length 1."""
    parts = [judge.embed_frames(frames[at : at + AT_ONCE]) for at in range(0, len(frames), AT_ONCE)]
    return torch.cat(parts) if parts else torch.zeros(0, 1)


def prompt_score(judge: TextJudge, shown: Tensor, prompt: str) -> float:
    """CLIP-T with a CLIP model, PickScore with a PickScore model: the model's scale (100 in the released ones) times
    the cosine of frame and prompt, mean over the embedded frames [F,D]. Higher is better.

    Sources: LOVEU-TGVE 2023 (arXiv 2310.16003, showlab/loveu-tgve-2023, `scripts/run_eval.py`) and V2VBench (arXiv
    2407.07111); PickScore: Kirstain et al. 2023 (arXiv 2305.01569, yuvalkirstain/PickScore), which they average over
    frames.
    """
    return judge.scale * float((shown @ judge.texts(prompt)).mean())


def clip_similarity(judge: TextJudge, shown: Tensor, prompt: str) -> float:
    """CLIPScore as PIE-Bench and FiVE-Bench use it: 100 times the cosine of frame and prompt, at least 0, mean over the
    embedded frames [F,D]; NaN for none. Higher is better.

    Source: Hessel et al. 2021 (arXiv 2104.08718) as torchmetrics' CLIPScore has it; arXiv 2310.01506.
    """
    return float((100 * shown @ judge.texts(prompt)).clamp(min=0).mean()) if len(shown) else float("nan")


def clip_f(shown: Tensor) -> float:
    """CLIP-F: mean cosine of all pairs of different frames, from the embedded frames [F,D]. Higher is better.

    Source: LOVEU-TGVE 2023 (arXiv 2310.16003, showlab/loveu-tgve-2023, `scripts/run_eval.py`).
    """
    if len(shown) < 2:
        return float("nan")
    cosines = shown @ shown.T
    return float((cosines.sum() - cosines.trace()) / (len(shown) * (len(shown) - 1)))


@torch.no_grad()
def clip_consistency(judge: TextJudge, frames: np.ndarray) -> float:
    """Mean cosine of neighbouring frames uint8 [F,H,W,3], negative ones as 0, from CLIP's vision model before its
    projection. Higher is better.

    Source: V2VBench (arXiv 2407.07111, wenhao728/awesome-diffusion-v2v), also EditVerseBench (arXiv 2509.20360).
    """
    seen = []
    for at in range(0, len(frames), AT_ONCE):
        inputs = judge.processor(images=list(frames[at : at + AT_ONCE]), return_tensors="pt").to(judge.device)
        seen.append(judge.model.vision_model(**inputs).pooler_output.float().cpu())
    tokens = finite(judge.field, torch.cat(seen))
    return float(cosine_similarity(tokens[1:], tokens[:-1]).clamp(min=0).mean())
