"""The first attempt of the log that this project grew out of, with diffusers alone: swap the scheduler and back."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from diffusers import DDIMInverseScheduler
from torch import Tensor

from cogvideo_core.models.model import VideoModel


@contextlib.contextmanager
def inverse_scheduler(pipe: Any) -> Iterator[None]:
    """The pipeline with `DDIMInverseScheduler(**config)` in place of its own scheduler."""
    own = pipe.scheduler
    pipe.scheduler = DDIMInverseScheduler(**own.config)
    try:
        yield
    finally:
        pipe.scheduler = own


def attempt(model: VideoModel, x_0: Tensor, text: Tensor, guidance: float, steps: int) -> tuple[Tensor, Tensor]:
    """(x_T, what it is sampled back to) of rows [R,f,C,h,w] with prompts [R,S,D], which are used in both halves of
    the guidance, both ways."""
    with inverse_scheduler(model.pipe):
        x_t = through(model, x_0, text, guidance, steps)
    return x_t, through(model, x_t, text, guidance, steps)


@torch.inference_mode()
def through(model: VideoModel, x: Tensor, text: Tensor, guidance: float, steps: int) -> Tensor:
    """The pipeline's own loop over its own scheduler, from latents to latents."""
    scale = model.pipe.vae_scale_factor_spatial
    return model.pipe(
        prompt_embeds=text,
        negative_prompt_embeds=text,
        latents=x.to(model.device, model.transformer.dtype),
        guidance_scale=guidance,
        num_inference_steps=steps,
        num_frames=(x.shape[1] - 1) * model.pipe.vae_scale_factor_temporal + 1,
        height=x.shape[-2] * scale,
        width=x.shape[-1] * scale,
        max_sequence_length=model.text_tokens,
        output_type="latent",
    ).frames
