"""Loads the parts of a judge from its folder, and refuses numbers that are not finite."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoModel, AutoTokenizer

from cogvideo_core.errors import NotFinite
from cogvideo_core.models.model_folders import not_loaded


def load_parts(field: str, folder: Path, device: torch.device, *, tokenizer: bool = False) -> tuple[Any, Any, Any]:
    """(model in float32 on the device, image processor, tokenizer or None) of a folder that `checked_folder` gave.

    Raises ModelError, which names the setting `field`.
    """
    own = {"local_files_only": True, "trust_remote_code": False}
    try:
        model: Any = AutoModel.from_pretrained(folder, dtype=torch.float32, use_safetensors=True, **own)
        processor: Any = AutoImageProcessor.from_pretrained(folder, **own)
        words: Any = AutoTokenizer.from_pretrained(folder, **own) if tokenizer else None
    except Exception as error:  # the libraries raise whatever a damaged file leads them to
        raise not_loaded(field, folder, error) from error
    return model.to(device).eval(), processor, words


def device() -> torch.device:
    """Where judges and metrics run: a GPU where there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def finite(field: str, found: Tensor) -> Tensor:
    """What a judge's model gave. Raises NotFinite."""
    if not bool(torch.isfinite(found).all()):
        raise NotFinite(f"field {field}: its numbers are not all finite; download the model again")
    return found
