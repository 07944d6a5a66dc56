"""Builds small CogVideoX pipelines of the real diffusers classes, one per public variant.

`shapes` is the architecture that `cogvideo_core.shapes.train` trains; the others are seeded miniatures that carry
the switches of CogVideoX-2B, 5B-I2V, 1.5-5B and 1.5-5B-I2V, for tests of what the code claims about those models.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import (
    AutoencoderKLCogVideoX,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXPipeline,
    CogVideoXTransformer3DModel,
)
from transformers import T5Config, T5EncoderModel, T5Tokenizer

from cogvideo_core.shapes import world

MAX_TEXT_TOKENS = 16
SPATIAL = 4  # pixels a latent cell


@dataclass(frozen=True)
class Architecture:
    """What tells one variant from another; sizes are the small world's."""

    layers: int = 2
    heads: int = 2
    head_dim: int = 32
    latent_channels: int = 8
    vae_channels: tuple[int, ...] = (8, 16, 16)
    time_embed_dim: int = 32
    snr_shift_scale: float = 1.0
    image_to_video: bool = False
    transformer: dict[str, Any] = field(default_factory=dict)
    vae: dict[str, Any] = field(default_factory=dict)


ROPE = {"use_rotary_positional_embeddings": True}
SCALED = {"scaling_factor": 0.7}  # of the 5B models: not 1, so that a factor used the wrong way shows
VARIANTS = {
    "shapes": Architecture(layers=6, heads=6, vae_channels=(24, 48, 64), time_embed_dim=128, transformer=ROPE),
    "5b": Architecture(transformer=ROPE),
    "2b": Architecture(snr_shift_scale=3.0),
    "5b-i2v": Architecture(
        image_to_video=True, transformer=ROPE | {"use_learned_positional_embeddings": True}, vae=SCALED
    ),
    "1.5-5b": Architecture(transformer=ROPE | {"patch_size_t": 2, "patch_bias": False}),
    "1.5-5b-i2v": Architecture(
        image_to_video=True,
        transformer=ROPE | {"patch_size_t": 2, "patch_bias": False, "ofs_embed_dim": 32},
        vae=SCALED | {"invert_scale_latents": True},
    ),
}


def vocabulary() -> list[str]:
    """Every word of every caption, sorted."""
    captions = (c.caption(i) for c in world.combinations() for i in range(len(world.WORDINGS)))
    return sorted({word for caption in captions for word in caption.split()})


def build_tokenizer() -> T5Tokenizer:
    """A T5 tokenizer with one token a word; anything else becomes <unk>."""
    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = [(f"▁{word}", -1.0) for word in vocabulary()]
    return T5Tokenizer(vocab=special + words, extra_ids=0, model_max_length=MAX_TEXT_TOKENS)


def build_text_encoder(vocab_size: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=vocab_size,
        d_model=64,
        d_kv=16,
        d_ff=128,
        num_layers=2,
        num_heads=4,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        is_encoder_decoder=False,
        use_cache=False,
    )
    return T5EncoderModel(config)


def build_vae(arch: Architecture) -> AutoencoderKLCogVideoX:
    blocks = len(arch.vae_channels)
    return AutoencoderKLCogVideoX(
        block_out_channels=arch.vae_channels,
        down_block_types=("CogVideoXDownBlock3D",) * blocks,
        up_block_types=("CogVideoXUpBlock3D",) * blocks,
        latent_channels=arch.latent_channels,
        layers_per_block=1,
        norm_num_groups=8,
        sample_height=world.SIZE_PX,
        sample_width=world.SIZE_PX,
        **({"scaling_factor": 1.0} | arch.vae),
    )


def build_transformer(arch: Architecture) -> CogVideoXTransformer3DModel:
    return CogVideoXTransformer3DModel(
        num_attention_heads=arch.heads,
        attention_head_dim=arch.head_dim,
        in_channels=arch.latent_channels * (2 if arch.image_to_video else 1),
        out_channels=arch.latent_channels,
        time_embed_dim=arch.time_embed_dim,
        text_embed_dim=64,
        num_layers=arch.layers,
        sample_width=world.SIZE_PX // SPATIAL,
        sample_height=world.SIZE_PX // SPATIAL,
        sample_frames=world.FRAMES,
        max_text_seq_length=MAX_TEXT_TOKENS,
        **arch.transformer,
    )


def build_scheduler(arch: Architecture) -> CogVideoXDDIMScheduler:
    """The scheduler configuration of the released checkpoints; only the SNR shift differs between 2B and 5B."""
    return CogVideoXDDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=arch.snr_shift_scale,
        timestep_spacing="trailing",
    )


def build_pipeline(variant: str = "shapes", seed: int = 0) -> CogVideoXPipeline | CogVideoXImageToVideoPipeline:
    """A pipeline with weights drawn from `seed`, in float32. `.save_pretrained(folder)` gives the diffusers layout."""
    arch = VARIANTS[variant]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = build_tokenizer()
        parts = {
            "tokenizer": tokenizer,
            "text_encoder": build_text_encoder(len(tokenizer)),
            "vae": build_vae(arch),
            "transformer": build_transformer(arch),
            "scheduler": build_scheduler(arch),
        }
    pipeline = CogVideoXImageToVideoPipeline if arch.image_to_video else CogVideoXPipeline
    for part in (parts["text_encoder"], parts["vae"], parts["transformer"]):
        part.eval()
    return pipeline(**parts)
