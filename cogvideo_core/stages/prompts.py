"""Prompt embeddings: each distinct prompt goes through T5 once per run root, and is kept there."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideo_core.models.model import VideoModel
from cogvideo_core.models.vae import finite
from cogvideo_core.settings.specs import fingerprint
from cogvideo_core.storage.ledger import Ledger, Verify

FILE = "embedding.safetensors"


def prompt_spec(model: VideoModel, prompt: str) -> dict[str, object]:
    parts = {part: model.fingerprints.get(part, "") for part in ("text_encoder", "tokenizer")}
    shrunk = {} if model.spec.text_weights == "stored" else {"text_weights": model.spec.text_weights}
    return {"prompt": prompt, "tokens": model.text_tokens, "dtype": model.spec.dtype, **parts, **shrunk}


def embed_missing(model: VideoModel, ledger: Ledger, prompts: Sequence[str], verify: Verify = "size") -> int:
    """Embeds and commits those of `prompts` that the ledger lacks; returns how many that were."""
    specs = {prompt: prompt_spec(model, prompt) for prompt in dict.fromkeys(prompts)}
    missing = [prompt for prompt, spec in specs.items() if ledger.find("prompts", fingerprint(spec), verify) is None]
    for prompt in missing:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / FILE
            save_file({"embedding": model.embed([prompt])[0].contiguous().cpu()}, file)
            ledger.commit("prompts", fingerprint(specs[prompt]), {FILE: file}, specs[prompt], {})
    return len(missing)


def embeddings(model: VideoModel, ledger: Ledger, prompts: Sequence[str]) -> Tensor:
    """[P,S,D] on the model's device, read from the ledger; missing ones are embedded first."""
    embed_missing(model, ledger, prompts)
    found = torch.stack([_read(model, ledger, prompt) for prompt in prompts])
    return finite(found, "text encoder", found.dtype, "model.dtype").to(model.device)


def _read(model: VideoModel, ledger: Ledger, prompt: str) -> Tensor:
    # in full, whatever the run verifies: it is small, and a flipped bit in it would silently spoil every edit
    commit = ledger.find("prompts", fingerprint(prompt_spec(model, prompt)), "full")
    if commit is None:
        return model.embed([prompt])[0].cpu()
    with tempfile.TemporaryDirectory() as folder:
        return load_file(ledger.fetch(commit, FILE, Path(folder)))["embedding"]
