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

from cogvideo_core.diffusion.attention import Reference, Seen, attend
from cogvideo_core.models.compiling import compile_blocks


class ReferenceAttnProcessor:
    """CogVideoX's own attention (as `CogVideoXAttnProcessor2_0`) that lets edit rows see the reference rows.

    What the layer sees comes as `attention_kwargs={"seen": Seen(...)}` from `at_layer`; without it this is plain
    attention. All layers' processors are equal, so that one compiled block serves all of them.
    """

    def __init__(self, kernel: str = "auto") -> None:
        self.kernel = kernel

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        image_rotary_emb: tuple[Tensor, Tensor] | None = None,
        seen: Seen | None = None,
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
        out = rearrange(attend(q, k, v, seen, text_tokens, self.kernel), "r h s d -> r s (h d)")
        out = attn.to_out[1](attn.to_out[0](out.to(tokens.dtype)))
        return out[:, text_tokens:], out[:, :text_tokens]


def rotated(x: Tensor, text_tokens: int, image_rotary_emb: tuple[Tensor, Tensor]) -> Tensor:
    """RoPE on the image tokens of each row: equal places get equal positions in reference and edit rows."""
    image = apply_rotary_emb(x[:, :, text_tokens:], image_rotary_emb)
    return torch.cat([x[:, :, :text_tokens], image], dim=2)


def install(transformer: CogVideoXTransformer3DModel, kernel: str = "auto", compiled: bool = False) -> None:
    """Gives each block its processor and its hooks, and compiles it where asked, once per loaded model."""
    blocks = transformer.transformer_blocks
    if isinstance(blocks[0].attn1.processor, ReferenceAttnProcessor):
        return
    for layer, block in enumerate(blocks):
        block.attn1.set_processor(ReferenceAttnProcessor(kernel))
        block.register_forward_pre_hook(partial(at_layer, layer), with_kwargs=True)
    transformer.norm_out.register_forward_pre_hook(fill_reference, with_kwargs=True)
    if compiled:
        compile_blocks(transformer)


def call_reference(kwargs: dict[str, Any]) -> Reference | None:
    return (kwargs["attention_kwargs"] or {}).get("reference")


def at_layer(layer: int, block: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Tells a block what its layer sees; past the last reference layer, where no row sees them, the reference rows are
    dropped."""
    reference = call_reference(kwargs)
    if reference is None:
        return None
    seen = reference.at(layer)
    told = kwargs | {"attention_kwargs": None if seen is None else {"seen": seen}}
    if is_past(reference, layer):
        rows = len(kwargs["temb"]) - reference.rows
        told |= {name: kwargs[name][-rows:] for name in ("hidden_states", "encoder_hidden_states", "temb")}
    return args, told


def is_past(reference: Reference, layer: int) -> bool:
    return layer >= reference.layers.stop


def fill_reference(norm: nn.Module, args: tuple[Tensor], kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """Puts zeros for dropped reference rows after the last block, as diffusers expects all of its rows."""
    dropped = len(kwargs["temb"]) - len(args[0])
    return ((pad(args[0], (0, 0, 0, 0, dropped, 0)),), kwargs) if dropped else None
