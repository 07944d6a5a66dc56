"""Whether things stay where they were, by a self-supervised vision model (DINOv2): cosine of its patch features.

Source: Tumanyan et al. 2022 (Splicing ViT features) compare structure by such features.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity
from transformers import AutoImageProcessor, AutoModel

from cogvideo_core.errors import ModelError, NotFinite


class StructureJudge:
    """A vision transformer whose patch features are compared frame by frame."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Loads a folder that `folders.judge_folder` has checked. Raises ModelError."""
        self.device, self._lock = device, threading.Lock()
        try:
            self.model: Any = AutoModel.from_pretrained(
                folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, trust_remote_code=False
            )
            self.processor: Any = AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False
            )
        except Exception as error:  # the libraries raise whatever a damaged file leads them to
            why = " ".join(str(error).split())[:200]
            raise ModelError(
                f"field judge.structure: {str(folder)!r} can't be loaded ({type(error).__name__}: {why}); "
                "download it again, with its preprocessor file"
            ) from error
        self.model.to(device).eval()

    @torch.no_grad()
    def features(self, frames: np.ndarray) -> Tensor:
        """uint8 [F,H,W,3] -> float32 [F,P,D], patch by patch."""
        inputs = self.processor(images=list(frames), return_tensors="pt").to(self.device)
        with self._lock:
            found = self.model(**inputs).last_hidden_state.float().cpu()
        if not bool(torch.isfinite(found).all()):
            raise NotFinite("field judge.structure: its features are not all finite; download the model again")
        return torch.as_tensor(found)


def structure_score(source: Tensor, edit: Tensor) -> float:
    """Mean cosine of the patch features [F,P,D] of source and edit."""
    return float(cosine_similarity(source, edit, dim=-1).mean())
