"""A mask of a clip's window as a committed unit: one bit for each pixel."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from cogvideo_core.storage.ledger import Commit, Ledger

FILE = "mask.safetensors"


def commit_mask(ledger: Ledger, key: str, mask: np.ndarray, spec: Mapping[str, Any]) -> Commit:
    """Commits a mask bool [F,H,W] under a key; `spec` is what determines it."""
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / FILE
        save_file({"bits": torch.from_numpy(np.packbits(mask))}, file)
        return ledger.commit("latents", key, {FILE: file}, dict(spec) | {"shape": list(mask.shape)}, {})


def read_mask(ledger: Ledger, commit: Commit) -> np.ndarray:
    """The mask of a commit: bool [F,H,W]."""
    with tempfile.TemporaryDirectory() as folder:
        bits = load_file(ledger.fetch(commit, FILE, Path(folder)))["bits"].numpy()
    shape = [int(length) for length in commit.spec["shape"]]
    return np.unpackbits(bits, count=int(np.prod(shape))).reshape(shape).astype(bool)
