"""The diffusers side of reference attention: one processor a layer, installed once, told of each call by its kwargs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import apply_rotary_emb
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import pad

from cogvideo_core.diffusion.attention import Reference, attend


class ReferenceAttnProcessor:
    """CogVideoX's own attention (as `CogVideoXAttnProcessor2_0`) that lets edit rows see the reference rows.

    The call's state comes as `attention_kwargs={"reference": Reference(...)}`; without it this is plain attention.
    """

    def __init__(self, layer: int) -> None:
        self.layer = layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        reference: Reference | None = None,
    ) -> tuple[Tensor, Tensor]:
        """hidden_states [R,S_image,D], encoder_hidden_states [R,S_text,D] -> the same, attended."""
        text_tokens = encoder_hidden_states.shape[1]
        tokens = torch.cat([encoder_hidden_states, hidden_states], dim=1)
        q, k, v = (
            rearrange(project(tokens), "r s (h d) -> r h s d", h=attn.heads)
            for project in (attn.to_q, attn.to_k, attn.to_v)
        )
        q, k = attn.norm_q(q), attn.norm_k(k)
        if image_rotary_emb is not None:
            q, k = (rotated(x, text_tokens, image_rotary_emb) for x in (q, k))
        out = rearrange(attend(q, k, v, reference, self.layer, text_tokens), "r h s d -> r s (h d)")
        out = attn.to_out[1](attn.to_out[0](out.to(tokens.dtype)))
        return out[:, text_tokens:], out[:, :text_tokens]


def rotated(x: Tensor, text_tokens: int, image_rotary_emb: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE on the image tokens of each row: equal places get equal positions in reference and edit rows."""
    image = apply_rotary_emb(x[:, :, text_tokens:], image_rotary_emb)
    return torch.cat([x[:, :, :text_tokens], image], dim=2)


def install(transformer: CogVideoXTransformer3DModel) -> None:
    """Gives each block its processor and its hooks, once per loaded model."""
    blocks = transformer.transformer_blocks
    if isinstance(blocks[0].attn1.processor, ReferenceAttnProcessor):
        return
    for layer, block in enumerate(blocks):
        block.attn1.set_processor(ReferenceAttnProcessor(layer))
        block.register_forward_pre_hook(partial(drop_reference, layer), with_kwargs=True)
    blocks[-1].register_forward_hook(partial(fill_reference, len(blocks)), with_kwargs=True)


def call_reference(kwargs: dict[str, Any]) -> Reference | None:
    return (kwargs["attention_kwargs"] or {}).get("reference")


def drop_reference(
    layer: int, block: nn.Module, args: Any, kwargs: dict[str, Any]
) -> tuple[Any, dict[str, Any]] | None:
    """Drops the reference rows before a block past the last reference layer, where no row sees them."""
    reference = call_reference(kwargs)
    if reference is None or layer < reference.layers.stop:
        return None
    rows = len(kwargs["temb"]) - reference.rows
    return args, kwargs | {name: kwargs[name][-rows:] for name in ("hidden_states", "encoder_hidden_states", "temb")}


def fill_reference(
    layers: int, block: nn.Module, args: Any, kwargs: dict[str, Any], output: tuple[Tensor, Tensor]
) -> tuple[Tensor, Tensor] | None:
    """Puts zeros for dropped reference rows after the last block, as diffusers expects all of its rows."""
    reference = call_reference(kwargs)
    if reference is None or reference.layers.stop == layers:
        return None
    return pad(output[0], (0, 0, 0, 0, reference.rows, 0)), output[1]
