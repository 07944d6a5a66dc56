"""NIQE, how natural a picture looks by its statistics alone, from pyiqa (the extra niqe)."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cogvideo_core.errors import BadSpec
from cogvideo_core.models.model_folders import bad_folder

FIELD = "metrics.niqe"
FILE = "niqe_modelparameters.mat"
MOST_BYTES = 10_000_000


class Niqe:
    """NIQE of frames. Source: Mittal et al. 2013, as pyiqa computes it, which FiVE-Bench calls (arXiv 2503.13684)."""

    def __init__(self, path: str) -> None:
        """path: a folder that holds the statistics of natural pictures, niqe_modelparameters.mat, which pyiqa would
        download. Raises BadSpec where pyiqa is not installed, and ModelError."""
        try:
            pyiqa: Any = importlib.import_module("pyiqa")
        except ImportError as error:
            raise BadSpec(
                f"field metrics.niqe: the package pyiqa can't be imported ({error}); "
                "install cogvideo-edit[niqe], or leave the field empty"
            ) from error
        file = Path(path) / FILE
        if not file.is_file() or file.stat().st_size > MOST_BYTES:
            raise bad_folder(FIELD, path, f"holds no {FILE}", "download that file of pyiqa's weights into it")
        try:
            self.model = pyiqa.create_metric("niqe", device=torch.device("cpu"), pretrained_model_path=str(file))
        except Exception as error:  # scipy raises whatever a damaged file leads it to
            why = f"{type(error).__name__}: {' '.join(str(error).split())[:80]}"
            raise bad_folder(FIELD, path, f"holds a {FILE} that can't be read ({why})", "download it again") from error

    @torch.no_grad()
    def scores(self, frames: np.ndarray) -> list[float]:
        """NIQE of each frame uint8 [F,H,W,3]; lower is better. Frames of less than 192 pixels on a side have none."""
        if min(frames.shape[1:3]) < 192:  # two blocks of 96 pixels, of which it takes a covariance
            return [float("nan")] * len(frames)
        pixels = torch.from_numpy(frames).permute(0, 3, 1, 2).double() / 255
        return [float(self.model(each[None])) for each in pixels]
