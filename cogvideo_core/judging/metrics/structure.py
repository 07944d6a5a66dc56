"""Structure distance, and consistency from frame to frame, by a DINO model."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, interpolate, mse_loss, normalize

from cogvideo_core.errors import ModelError
from cogvideo_core.judging.loading import finite
from cogvideo_core.judging.structure import StructureJudge

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
SHORT_PX, LONGEST_PX = 224, 480


def structure_distance(judge: StructureJudge, source: np.ndarray, edit: np.ndarray) -> list[float]:
    """Of each pair of frames uint8 [F,H,W,3]: mean squared difference of the self-similarities [T,T] of their keys,
    that is of the cosines between the keys of all tokens in the last layer. 0 for equal frames, lower is better.

    Source: Tumanyan et al. 2022 (arXiv 2201.00424, omerbt/Splice), as PIE-Bench computes it with DINO ViT-B/8 (arXiv
    2310.01506): the shorter side is scaled to 224 pixels (the longer to at most 480), and values of 0..255 are
    normalised as if they were 0..1. That slip of its code is kept, because its figures hang on it.
    Differs: positions are interpolated as transformers does, and frames are scaled with antialiasing, as torchvision
    does since 0.17.
    """
    return [
        float(mse_loss(self_similarity(keys(judge, a)), self_similarity(keys(judge, b))))
        for a, b in zip(source, edit, strict=True)
    ]


def self_similarity(found: Tensor) -> Tensor:
    """Cosines between all rows: [T,D] -> [T,T]."""
    unit = normalize(found, dim=-1)
    return unit @ unit.T


@torch.no_grad()
def keys(judge: StructureJudge, frame: np.ndarray) -> Tensor:
    """The keys of all tokens and heads in the last layer: uint8 [H,W,3] -> float32 [T,D]. Raises ModelError."""
    layers = [module for name, module in judge.model.named_modules() if name.rsplit(".", 1)[-1] in ("k_proj", "key")]
    if not layers:
        raise ModelError(f"field {judge.field}: the model has no layer of keys; give a DINO model of the ViT family")
    seen: list[Tensor] = []
    handle = layers[-1].register_forward_hook(lambda module, args, output: seen.append(output))
    try:
        judge.model(pixel_values=prepared(frame).to(judge.device), **_any_size(judge))
    finally:
        handle.remove()
    return finite(judge.field, seen[-1][0].float().cpu())


def _any_size(judge: StructureJudge) -> dict[str, Any]:
    """What a model must be told so that it takes pictures of another size than its own; the newer ones take any."""
    return {"interpolate_pos_encoding": True} if judge.model.config.model_type == "vit" else {}


def prepared(frame: np.ndarray) -> Tensor:
    """uint8 [H,W,3] -> float32 [1,3,h,w], scaled and normalised as PIE-Bench does, from 0..255."""
    pixels = torch.from_numpy(frame.astype(np.float32)).permute(2, 0, 1)[None]
    size = scaled_size(*frame.shape[:2])
    if size != frame.shape[:2]:
        pixels = interpolate(pixels, size, mode="bilinear", align_corners=False, antialias=True)
    return (pixels - torch.tensor(MEAN)[:, None, None]) / torch.tensor(STD)[:, None, None]


def scaled_size(height: int, width: int) -> tuple[int, int]:
    """(height, width) with the shorter side of SHORT_PX, or less where the longer would exceed LONGEST_PX."""
    short, long = SHORT_PX, int(SHORT_PX * max(height, width) / min(height, width))
    if long > LONGEST_PX:
        short, long = int(LONGEST_PX * short / long), LONGEST_PX
    return (short, long) if height <= width else (long, short)


@torch.no_grad()
def dino_consistency(judge: StructureJudge, edit: np.ndarray) -> float:
    """Mean cosine of the class tokens of neighbouring frames uint8 [F,H,W,3], negative ones as 0; 1 for a still
    picture. Higher is better.

    Source: V2VBench (arXiv 2407.07111, wenhao728/awesome-diffusion-v2v), with DINOv2-B.
    """
    tokens = torch.cat([judge.features(frame[None])[:, 0] for frame in edit])
    return float(cosine_similarity(tokens[1:], tokens[:-1]).clamp(min=0).mean())
