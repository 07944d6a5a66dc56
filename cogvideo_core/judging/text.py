"""Whether an edit shows what its prompt says, by a model that embeds pictures and texts in one space (CLIP, SigLIP).

Sources of the measures: Hessel et al. 2021 (CLIPScore), Gal et al. 2022 (directional similarity).
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, normalize

from cogvideo_core.errors import ModelError
from cogvideo_core.judging.loading import finite, load_parts
from cogvideo_core.settings.judge_specs import JudgeSpec, words_of

PROBES = ("a red circle moving right", "a blue square moving left")


class TextJudge:
    """A model that embeds frames and prompts. It may be called from several threads, one at a time."""

    def __init__(
        self, folder: Path, device: torch.device, contrasts: Sequence[str] = (), field: str = "judge.text"
    ) -> None:
        """Loads a folder that `checked_folder` has checked. Raises ModelError.

        contrasts: "red / green / blue", beside those of the folder's own contrasts.json. field: the setting that names
        the folder.
        """
        self.device, self.field, self._lock = device, field, threading.Lock()
        self.contrasts = [words_of(line) for line in [*contrasts, *_own_contrasts(folder)]]
        self.model, self.processor, self.tokenizer = load_parts(field, folder, device, tokenizer=True)
        self._check_tokenizer(folder)
        self.texts = lru_cache(4096)(self._embed_text)

    def _check_tokenizer(self, folder: Path) -> None:
        ids = [self.tokenizer(text).input_ids for text in PROBES]
        if ids[0] == ids[1] or max(map(max, ids)) >= self.model.config.text_config.vocab_size:
            problem = "has a tokenizer that does not fit it, or knows no English words"
            raise ModelError(f"field {self.field}: {str(folder)!r} {problem}; download the model's own tokenizer files")

    @property
    def scale(self) -> float:
        """What the model multiplies cosines with before it compares them as logits."""
        return float(self.model.logit_scale.detach().exp())

    @torch.no_grad()
    def _embed_text(self, text: str) -> Tensor:
        """float32 [D], of length 1."""
        longest = int(self.model.config.text_config.max_position_embeddings)
        padding = "max_length" if self.model.config.model_type.startswith("siglip") else True
        tokens = self.tokenizer([text], padding=padding, truncation=True, max_length=longest, return_tensors="pt")
        with self._lock:
            found = pooled(self.model.get_text_features(**tokens.to(self.device)))
        return finite(self.field, normalize(found, dim=-1)[0].cpu())

    @torch.no_grad()
    def embed_frames(self, frames: np.ndarray) -> Tensor:
        """uint8 [F,H,W,3] -> float32 [F,D], each of length 1; [1,D] for a model of whole clips (X-CLIP)."""
        inputs = self.processor(images=list(frames), return_tensors="pt").to(self.device)
        with self._lock:
            if hasattr(self.model, "get_video_features"):
                count = int(self.model.config.vision_config.num_frames)
                spread = np.linspace(0, len(frames) - 1, count).round().astype(int)
                pixels = inputs["pixel_values"].reshape(-1, *inputs["pixel_values"].shape[-3:])
                found = pooled(self.model.get_video_features(pixel_values=pixels[spread][None]))
            else:
                found = pooled(self.model.get_image_features(**inputs))
        return finite(self.field, normalize(found, dim=-1).cpu())

    def contrast(self, edit: Tensor, prompt: str) -> float | None:
        """The least probability of a word that the prompt names, against the prompts with each of its alternatives in
        its place; None where the prompt names no word of a contrast. edit: float32 [D]."""
        found = []
        for words in self.contrasts:
            named = [word for word in words if re.search(rf"\b{re.escape(word)}\b", prompt)]
            if len(named) == 1:
                swapped = [re.sub(rf"\b{re.escape(named[0])}\b", word, prompt) for word in words]
                logits = torch.tensor([self.scale * cosine(edit, self.texts(text)) for text in swapped])
                found.append(float(logits.softmax(0)[words.index(named[0])]))
        return min(found) if found else None

    def scores(self, source: Tensor, edit: Tensor, source_prompt: str, target_prompt: str) -> dict[str, float]:
        """Scores of one edit from the embedded frames of source and edit [F,D].

        text_similarity: cosine of the edit and the target prompt. image_similarity: of edit and source, frame by frame.
        text_contrast: see `contrast`. text_steady: of neighbouring frames of the edit. Where there is a source prompt
        and the two differ: text_gain: by how much the edit is nearer to the target prompt than to the source prompt;
        text_choice: the same as the model's own probability, 0 to 1; text_direction: cosine of the changes of picture
        and prompt.
        """
        wish, shown, before = self.texts(target_prompt), edit.mean(0), source.mean(0)
        found = {
            "text_similarity": cosine(shown, wish),
            "image_similarity": float(cosine_similarity(source, edit).mean()),
        }
        if (contrast := self.contrast(shown, target_prompt)) is not None:
            found["text_contrast"] = contrast
        if len(edit) > 1:
            found["text_steady"] = float(cosine_similarity(edit[1:], edit[:-1]).mean())
        if source_prompt and source_prompt != target_prompt:
            was = self.texts(source_prompt)
            found["text_gain"] = found["text_similarity"] - cosine(shown, was)
            found["text_choice"] = float(torch.sigmoid(torch.tensor(self.scale * found["text_gain"])))
            found["text_direction"] = cosine(shown - before, wish - was)
        return found


def _own_contrasts(folder: Path) -> list[str]:
    """The lines of the folder's contrasts.json, where there is one. Raises ModelError."""
    file = folder / "contrasts.json"
    if not file.is_file():
        return []
    try:
        return JudgeSpec(contrasts=json.loads(file.read_text("utf-8"))).contrasts
    except (ValueError, TypeError, RecursionError) as error:
        problem = "can't be used; write a list of lines such as red / green / blue, or remove it"
        raise ModelError(f"field judge.text: {str(file)!r} {problem}") from error


def cosine(a: Tensor, b: Tensor) -> float:
    return float(cosine_similarity(a, b, dim=-1))


def pooled(found: Any) -> Tensor:
    """The embeddings [B,D] of what transformers' `get_*_features` gives: themselves, or a model output with them."""
    tensor: Tensor = found if isinstance(found, Tensor) else found.pooler_output
    return tensor.float()
