"""Attention over a row's own keys and over a shared reference, as pure tensor mathematics.

Shapes: q, k, v are [E,H,S,d] for the edit rows; k_ref, v_ref are [R,H,S_ref,d] for the reference rows. Edit row e sees
reference row e mod R, so one reference row serves all rows (R = 1), one serves both guidance halves of an edit, or
each row has its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import cast

import torch
from einops import rearrange, repeat
from torch import Tensor
from torch.nn.attention import SDPBackend
from torch.nn.functional import scaled_dot_product_attention

aten = torch.ops.aten
ON_CPU = ("cpu", "meta")  # where torch has one kernel; meta: so that counting takes the path that runs
BIASED = {  # kernels that take a bias as well
    "cudnn": aten._scaled_dot_product_cudnn_attention,
    "efficient": aten._scaled_dot_product_efficient_attention,
}
CHOICES = {
    SDPBackend.FLASH_ATTENTION.value: "flash",
    SDPBackend.CUDNN_ATTENTION.value: "cudnn",
    SDPBackend.EFFICIENT_ATTENTION.value: "efficient",
}


@dataclass(frozen=True)
class Seen:
    """What one layer's edit rows see of the reference: the first `rows` rows of the call.

    log_weight: what is added to its logits: one number [], one for each edit row [E], or for each of its tokens [E,S].
    text: whether its text tokens are seen. anchor: what is added to the logits of the anchor rows; None without them.
    """

    rows: int
    log_weight: Tensor
    text: bool
    anchor: Tensor | None = None


@dataclass(frozen=True)
class Reference:
    """The state of one transformer call: its first `rows` rows are reference rows, all others see them.

    layers: where edit rows see them; after the last one they are no longer computed.
    weight: the reference's in the softmax; 1 equals concatenating the keys. text: whether its text tokens are seen.
    strengths: [E], each divides the weight for its edit row; None: 1 for all.
    tokens: [E,S] in 0..1, how far each token of an edit row may change: at 0 it sees the reference at its plain weight
    or more, at 1 at `weight`; None: 1 for all.
    anchor: weight of the anchor rows; 0: there are none. With them a call is [R reference rows | E anchor rows that see
    these | R reference rows | E edit rows], of which `rows` counts all but the last E: edit row e sees anchor row e.
    """

    rows: int
    layers: range
    weight: float = 1.0
    text: bool = True
    strengths: Tensor | None = None
    tokens: Tensor | None = None
    anchor: float = 0.0

    @cached_property
    def log_weight(self) -> Tensor:
        """What the weight adds to the reference's logits: [], [E], or [E,S]."""
        log = torch.tensor(math.log(self.weight))
        log = log if self.strengths is None else log.to(self.strengths) - self.strengths.log()
        if self.tokens is None:
            return log
        inside = log.to(self.tokens).reshape(-1, 1)
        return torch.lerp(inside.clamp_min(0), inside, self.tokens)

    def at(self, layer: int) -> Seen | None:
        """What a layer sees; None where it sees no reference."""
        if layer not in self.layers or not self.weight:
            return None
        return Seen(self.rows, self.log_weight, self.text, torch.tensor(self.anchor).log() if self.anchor else None)


def attend_with_lse(q: Tensor, k: Tensor, v: Tensor, kernel: str = "auto") -> tuple[Tensor, Tensor] | None:
    """Softmax attention [E,H,S,d] and its log-sum-exp [E,H,S] (natural log, float32); None if no kernel gives both."""
    if q.device.type in ON_CPU:
        return aten._scaled_dot_product_flash_attention_for_cpu(q, k, v)[:2]
    if kernel == "auto" and q.device.type == "cuda":
        kernel = torch_choice(q, k, v)
    if kernel == "sage":
        return sage()(q, k, v, tensor_layout="HND", return_lse=True)
    if kernel == "flash":
        return aten._scaled_dot_product_flash_attention(q, k, v)[:2]
    if kernel in BIASED:
        out, lse = BIASED[kernel](q, k, v, None, compute_log_sumexp=True)[:2]
        return out, lse.flatten(2)[..., : q.shape[2]]  # one has a last axis of one, the other is padded to 32 queries
    return None


def torch_choice(q: Tensor, k: Tensor, v: Tensor) -> str:
    """The kernel that torch takes for such tensors on CUDA; "auto" for one that gives no log-sum-exp."""
    return CHOICES.get(torch._fused_sdp_choice(q, k, v), "auto")


def sage() -> Callable[..., tuple[Tensor, Tensor]]:
    """SageAttention's attention in 8 bits. Raises ImportError where the package is missing."""
    from sageattention import sageattn  # type: ignore[import-not-found]

    return cast("Callable[..., tuple[Tensor, Tensor]]", sageattn)


def attend_alone(q: Tensor, k: Tensor, v: Tensor, kernel: str = "auto") -> Tensor:
    """Rows over their own keys, with torch's own choice or a kernel by name."""
    named = None if kernel == "auto" else attend_with_lse(q, k, v, kernel)
    return scaled_dot_product_attention(q, k, v) if named is None else named[0]


def merge(out_a: Tensor, lse_a: Tensor, out_b: Tensor, lse_b: Tensor) -> Tensor:
    """Attention over the union of two key sets from the attention over each. Source: arXiv 2205.14135, section 3."""
    share_b = torch.sigmoid(lse_b - lse_a)[..., None].to(out_a.dtype)
    return torch.lerp(out_a, out_b, share_b)


def attend_in_two_parts(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    k_ref: Tensor,
    v_ref: Tensor,
    log_weight: float | Tensor = 0.0,
    kernel: str = "auto",
) -> Tensor:
    """Attends to own and reference keys separately, then merges; the latter are never expanded to the edit rows."""
    folded = rearrange(q, "(g r) h s d -> r h (g s) d", r=len(k_ref)).contiguous()
    own, ref = attend_with_lse(q, k, v, kernel), attend_with_lse(folded, k_ref, v_ref, kernel)
    if own is None or ref is None:
        return attend_concatenated(q, k, v, k_ref, v_ref, log_weight)
    groups = len(q) // len(k_ref)
    out_ref = rearrange(ref[0], "r h (g s) d -> (g r) h s d", g=groups)
    lse_ref = rearrange(ref[1], "r h (g s) -> (g r) h s", g=groups)
    return merge(own[0], own[1], out_ref, lse_ref + by_row(log_weight, lse_ref))


def by_row(log_weight: float | Tensor, like: Tensor) -> float | Tensor:
    """[E] or [E,S] with as many axes as `like` [E,H,S,...]; a single number as it is."""
    if not isinstance(log_weight, Tensor) or log_weight.ndim == 0:
        return log_weight
    return log_weight.reshape(len(log_weight), 1, -1, *(1,) * (like.ndim - 3)).to(like)


def attend_concatenated(
    q: Tensor, k: Tensor, v: Tensor, k_ref: Tensor, v_ref: Tensor, log_weight: float | Tensor = 0.0
) -> Tensor:
    """The plain form: reference keys repeated for each row and appended to its own. The two-part form equals it."""
    groups = len(q) // len(k_ref)
    keys = torch.cat([k, repeat(k_ref, "r h s d -> (g r) h s d", g=groups)], dim=2)
    values = torch.cat([v, repeat(v_ref, "r h s d -> (g r) h s d", g=groups)], dim=2)
    bias = None
    if isinstance(log_weight, Tensor) or log_weight != 0:
        bias = q.new_zeros(len(q), 1, 1, keys.shape[2]).expand(-1, -1, q.shape[2], -1).contiguous()
        bias[..., k.shape[2] :] = by_row(log_weight, bias)
    return scaled_dot_product_attention(q, keys, values, attn_mask=bias)


def attend(q: Tensor, k: Tensor, v: Tensor, seen: Seen | None, text_tokens: int = 0, kernel: str = "auto") -> Tensor:
    """All rows of one call, [reference rows | edit rows]: [R+E,H,S,d]. Reference rows see only themselves.

    The first `text_tokens` of a row's tokens are text.
    """
    if seen is None:
        return attend_alone(q, k, v, kernel)
    if seen.anchor is not None:
        return attend_anchored(q, k, v, seen, text_tokens, kernel)
    n, first = seen.rows, 0 if seen.text else text_tokens
    out_ref = attend_alone(q[:n], k[:n], v[:n], kernel)
    out = attend_in_two_parts(q[n:], k[n:], v[n:], k[:n, :, first:], v[:n, :, first:], seen.log_weight, kernel)
    return torch.cat([out_ref, out])


def attend_anchored(q: Tensor, k: Tensor, v: Tensor, seen: Seen, text_tokens: int = 0, kernel: str = "auto") -> Tensor:
    """`attend` with anchor rows: edit row e sees its own keys, those of its reference and those of anchor row e."""
    assert seen.anchor is not None
    edits = len(q) - seen.rows
    n, middle, first = (seen.rows - edits) // 2, len(q) // 2, 0 if seen.text else text_tokens
    plain = replace(seen, rows=n, anchor=None)
    out_anchors = attend(q[:middle], k[:middle], v[:middle], plain, text_tokens, kernel)
    out_ref = attend_alone(q[middle : seen.rows], k[middle : seen.rows], v[middle : seen.rows], kernel)
    own = q[seen.rows :], k[seen.rows :], v[seen.rows :]
    ref, anchors = ([x[at, :, first:] for x in (k, v)] for at in (slice(middle, seen.rows), slice(n, middle)))
    return torch.cat([out_anchors, out_ref, attend_in_three_parts(*own, ref, anchors, seen, kernel)])


def attend_in_three_parts(
    q: Tensor, k: Tensor, v: Tensor, ref: Sequence[Tensor], anchors: Sequence[Tensor], seen: Seen, kernel: str = "auto"
) -> Tensor:
    """Own, anchor's and reference's keys, (k, v) each, merged one after the other; or joined, where a kernel gives no
    log-sum-exp."""
    assert seen.anchor is not None
    own, near = attend_with_lse(q, k, v, kernel), attend_with_lse(q, anchors[0], anchors[1], kernel)
    groups = len(q) // len(ref[0])
    k_ref, v_ref = (repeat(x, "r h s d -> (g r) h s d", g=groups) for x in ref)
    far = attend_with_lse(q, k_ref, v_ref, kernel)
    if own is None or near is None or far is None:
        bias = q.new_zeros(len(q), 1, q.shape[2], k.shape[2] + anchors[0].shape[2] + k_ref.shape[2])
        bias[..., k.shape[2] : -k_ref.shape[2]] = seen.anchor.to(bias)
        bias[..., -k_ref.shape[2] :] = by_row(seen.log_weight, bias)
        keys, values = torch.cat([k, anchors[0], k_ref], 2), torch.cat([v, anchors[1], v_ref], 2)
        return scaled_dot_product_attention(q, keys, values, attn_mask=bias)
    lse_near = near[1] + seen.anchor.to(near[1])
    merged, lse = merge(*own, near[0], lse_near), torch.logaddexp(own[1], lse_near)
    return merge(merged, lse, far[0], far[1] + by_row(seen.log_weight, far[1]))
