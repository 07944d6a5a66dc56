"""What a model's configuration alone tells: enough to plan a run without loading weights."""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import diffusers

from cogvideo_core.models.checkpoint import check_folder, model_folder
from cogvideo_core.models.memory import Latents
from cogvideo_core.settings.specs import ModelSpec


@dataclass(frozen=True)
class VideoShape:
    """What the model is fed: frames at a rate and a size in pixels."""

    frames: int
    height: int
    width: int
    fps: int


class Configured:
    """A model as its configuration describes it; VideoModel is one that is loaded."""

    def __init__(self, transformer: Any, vae: Any) -> None:
        """The configurations, whose fields are attributes."""
        self.transformer_config, self.vae_config = transformer, vae

    @property
    def image_to_video(self) -> bool:
        """Whether the transformer takes image latents beside the latents."""
        return bool(self.transformer_config.in_channels == 2 * self.vae_config.latent_channels)

    @property
    def width(self) -> int:
        """Channels of a token: 1920 for 2B, 3072 for 5B and 1.5."""
        return int(self.transformer_config.num_attention_heads * self.transformer_config.attention_head_dim)

    @property
    def pixels_a_cell(self) -> int:
        """Pixels along the side of a latent cell."""
        return int(2 ** (len(self.vae_config.block_out_channels) - 1))

    @property
    def fixed_frames(self) -> bool:
        """Whether the model takes clips of its own length and size only: it has learned where its tokens are."""
        return bool(self.transformer_config.use_learned_positional_embeddings)

    @property
    def front_padding(self) -> int:
        """Latent frames put in front: one for CogVideoX 1.5, whose transformer takes them in pairs (8k+1 is odd)."""
        return 0 if self.transformer_config.patch_size_t is None else 1

    def latents(self, frames: int, height: int, width: int) -> Latents:
        """memory.Latents of a clip of so many frames and pixels."""
        config, scale = self.transformer_config, self.pixels_a_cell
        f = (frames - 1) // config.temporal_compression_ratio + 1 + self.front_padding
        return f, config.out_channels, height // scale, width // scale

    @property
    def shape(self) -> VideoShape:
        """The size, length and rate the model was trained at."""
        config = self.transformer_config
        height, width = config.sample_height * self.pixels_a_cell, config.sample_width * self.pixels_a_cell
        if config.patch_size_t is not None and config.sample_height >= 300:
            height, width = 768, 1360  # the 1.5 configurations hold their largest grid here, not their usual size
        return VideoShape(config.sample_frames, height, width, 16 if config.sample_frames > 49 else 8)


def configured(spec: ModelSpec) -> Configured:
    """A model's configuration, after the checks that need no weights. Raises ModelError."""
    folder = model_folder(spec, weights=False)
    check_folder(folder, weights=False)
    parts = {"transformer": diffusers.CogVideoXTransformer3DModel, "vae": diffusers.AutoencoderKLCogVideoX}
    return Configured(*(_config(folder / part, kind) for part, kind in parts.items()))


def _config(folder: Path, kind: Any) -> SimpleNamespace:
    """config.json, with the defaults of the class for what older files leave out."""
    parameters = inspect.signature(kind.__init__).parameters
    defaults = {name: found.default for name, found in parameters.items() if found.default is not found.empty}
    return SimpleNamespace(**(defaults | json.loads((folder / "config.json").read_text("utf-8"))))
