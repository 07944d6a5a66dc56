"""Attention over a row's own keys and over a shared reference, as pure tensor mathematics.

Shapes: q, k, v are [E,H,S,d] for the edit rows; k_ref, v_ref are [R,H,S_ref,d] for the reference rows. Edit row e sees
reference row e mod R, so one reference row serves all rows (R = 1), one serves both guidance halves of an edit, or
each row has its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention

aten = torch.ops.aten
BIASED = {  # kernels that take a bias as well
    SDPBackend.CUDNN_ATTENTION.value: aten._scaled_dot_product_cudnn_attention,
    SDPBackend.EFFICIENT_ATTENTION.value: aten._scaled_dot_product_efficient_attention,
}


@dataclass(frozen=True)
class Reference:
    """The state of one transformer call: its first `rows` rows are reference rows, all others see them.

    layers: where edit rows see them; after the last one they are no longer computed.
    weight: the reference's in the softmax; 1 equals concatenating the keys. text: whether its text tokens are seen.
    strengths: [E], each divides the weight for its edit row; None: 1 for all.
    """

    rows: int
    layers: range
    weight: float = 1.0
    text: bool = True
    strengths: Tensor | None = None

    @property
    def log_weight(self) -> float | Tensor:
        """What the weight adds to the reference's logits: one number, or [E]."""
        log = math.log(self.weight)
        return log if self.strengths is None else log - self.strengths.log()


def attend_with_lse(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor] | None:
    """Softmax attention [E,H,S,d] and its log-sum-exp [E,H,S] (natural log, float32); None if no kernel gives both.

    On CUDA it uses the kernel that torch would choose for these tensors.
    """
    if q.device.type in ("cpu", "meta"):  # meta: so that counting takes the path that runs
        return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[:2]
    chosen = torch._fused_sdp_choice(q, k, v) if q.device.type == "cuda" else None
    if chosen == SDPBackend.FLASH_ATTENTION.value:
        return aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    if chosen in BIASED:
        out, lse = BIASED[chosen](q, k, v, None, compute_log_sumexp=True)[:2]
        return out, lse.flatten(2)[..., : q.shape[2]]  # one has a last axis of one, the other is padded to 32 queries
    return None


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Tensor:
    """Attention over the union of two key sets from the attention over each. Source: arXiv 2205.14135, section 3."""
    share_b = torch.sigmoid(lse_b - lse_a)[..., None].to(out_a.dtype)
    return torch.lerp(out_a, out_b, share_b)


def attend_in_two_parts(
    q: Tensor, k: Tensor, v: Tensor, k_ref: Tensor, v_ref: Tensor, log_weight: float | Tensor = 0.0
) -> Tensor:
    """Attends to own and reference keys separately, then merges; the latter are never expanded to the edit rows."""
    folded = rearrange(q, "(g r) h s d -> r h (g s) d", r=len(k_ref)).contiguous()
    own, ref = attend_with_lse(q, k, v), attend_with_lse(folded, k_ref, v_ref)
    if own is None or ref is None:
        return attend_concatenated(q, k, v, k_ref, v_ref, log_weight)
    groups = len(q) // len(k_ref)
    out_ref = rearrange(ref[0], "r h (g s) d -> (g r) h s d", g=groups)
    lse_ref = rearrange(ref[1], "r h (g s) -> (g r) h s", g=groups)
    shift = log_weight[:, None, None].to(lse_ref) if isinstance(log_weight, Tensor) else log_weight
    return merge(own[0], own[1], out_ref, lse_ref + shift)


def attend_concatenated(
    q: Tensor, k: Tensor, v: Tensor, k_ref: Tensor, v_ref: Tensor, log_weight: float | Tensor = 0.0
) -> Tensor:
    """The plain form: reference keys repeated for each row and appended to its own. The two-part form equals it."""
    groups = len(q) // len(k_ref)
    keys = torch.cat([k, repeat(k_ref, "r h s d -> (g r) h s d", g=groups)], dim=2)
    values = torch.cat([v, repeat(v_ref, "r h s d -> (g r) h s d", g=groups)], dim=2)
    bias = None
    if isinstance(log_weight, Tensor) or log_weight != 0:
        shift = log_weight[:, None, None, None].to(q) if isinstance(log_weight, Tensor) else log_weight
        bias = q.new_zeros(len(q), 1, 1, keys.shape[2]).expand(-1, -1, q.shape[2], -1).contiguous()
        bias[..., k.shape[2] :] = shift
    return scaled_dot_product_attention(q, keys, values, attn_mask=bias)


def attend(q: Tensor, k: Tensor, v: Tensor, reference: Reference | None, layer: int, text_tokens: int = 0) -> Tensor:
    """All rows of one call, [reference rows | edit rows]: [R+E,H,S,d]. Reference rows see only themselves.

    The first `text_tokens` of a row's tokens are text.
    """
    if reference is None or layer not in reference.layers or reference.weight == 0:
        return scaled_dot_product_attention(q, k, v)
    n, first = reference.rows, 0 if reference.text else text_tokens
    out_ref = scaled_dot_product_attention(q[:n], k[:n], v[:n])
    out = attend_in_two_parts(q[n:], k[n:], v[n:], k[:n, :, first:], v[:n, :, first:], reference.log_weight)
    return torch.cat([out_ref, out])
