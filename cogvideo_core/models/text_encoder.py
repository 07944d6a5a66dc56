"""The text encoder of a loaded model: read only when a prompt is to be embedded, and dropped afterwards."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import T5EncoderModel

from cogvideo_core.errors import OutOfMemory
from cogvideo_core.models.checkpoint_files import unreadable
from cogvideo_core.models.memory import give_back, ran_out_of_memory
from cogvideo_core.models.vae import finite
from cogvideo_core.models.weights import shrink_text_encoder

logger = logging.getLogger(__name__)


class TextEncoder:
    """`folder`: where its weights are; None where the pipeline has them, and then they stay as they are."""

    def __init__(self, pipeline: Any, folder: Path | None, device: torch.device, weights: str = "stored") -> None:
        """weights: as `ModelSpec.text_weights` says."""
        self.pipe, self.folder, self.device, self.weights = pipeline, folder, device, weights

    @torch.inference_mode()
    def embed(self, prompts: Sequence[str], tokens: int) -> Tensor:
        """Each distinct prompt once through T5: [P,S,D] in the order given.

        Where the device has no room for it, it works on the CPU from then on. Raises NotFinite, OutOfMemory.
        """
        distinct = list(dict.fromkeys(prompts))
        while True:
            try:
                found = self._embed(distinct, tokens)
                break
            except Exception as error:
                if not ran_out_of_memory(error):
                    raise
                if self.device.type == "cpu" or self.folder is None:
                    remedy = "set model.dtype=bfloat16, or close what else needs memory on this machine"
                    raise OutOfMemory(
                        f"embedding prompts: memory does not suffice for the text encoder; {remedy}"
                    ) from error
            self.drop()
            self.device = torch.device("cpu")
            logger.warning("memory ran out while embedding prompts; going on with the text encoder on the CPU")
        return found[[distinct.index(prompt) for prompt in prompts]]

    def _embed(self, prompts: list[str], tokens: int) -> Tensor:
        self._load()
        embedded = self.pipe.encode_prompt(
            prompts, do_classifier_free_guidance=False, max_sequence_length=tokens, device=self.device
        )[0]
        return finite(embedded, "text encoder", self.pipe.text_encoder.dtype, "model.dtype")

    def _load(self) -> None:
        if self.pipe.text_encoder is None and self.folder is not None:
            self.pipe.maybe_free_model_hooks()  # with CPU offload: what was used last makes room
            try:
                encoder = T5EncoderModel.from_pretrained(self.folder, dtype=self.pipe.transformer.dtype)
            except Exception as error:
                raise unreadable(self.folder, error) from error
            if self.weights != "stored":  # before it is moved, so that the device never holds all of it
                shrink_text_encoder(encoder)
            self.pipe.register_modules(text_encoder=encoder.to(self.device).eval())

    def drop(self) -> None:
        """Frees its memory where it can be loaded again."""
        if self.folder is not None and self.pipe.text_encoder is not None:
            self.pipe.register_modules(text_encoder=None)
            give_back()
