"""Whether things stay where they were, by a self-supervised vision model (DINOv2): cosine of its patch features.

Source: Tumanyan et al. 2022 (Splicing ViT features) compare structure by such features.
"""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity

from cogvideo_core.judging.loading import finite, load_parts


class StructureJudge:
    """A vision transformer whose patch features are compared frame by frame."""

    def __init__(self, folder: Path, device: torch.device, field: str = "judge.structure") -> None:
        """Loads a folder that `checked_folder` has checked; `field` is the setting that names it. Raises
        ModelError."""
        self.device, self.field, self._lock = device, field, threading.Lock()
        self.model, self.processor, _ = load_parts(field, folder, device)

    @torch.no_grad()
    def features(self, frames: np.ndarray) -> Tensor:
        """uint8 [F,H,W,3] -> float32 [F,P,D], patch by patch."""
        inputs = self.processor(images=list(frames), return_tensors="pt").to(self.device)
        with self._lock:
            found = self.model(**inputs).last_hidden_state.float().cpu()
        return finite(self.field, found)


def structure_score(source: Tensor, edit: Tensor) -> float:
    """Mean cosine of the patch features [F,P,D] of source and edit."""
    return float(cosine_similarity(source, edit, dim=-1).mean())
