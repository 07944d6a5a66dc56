"""Two-part attention against its plain forms, and our processor against diffusers' own."""

import math

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel
from diffusers.models.attention_processor import CogVideoXAttnProcessor2_0
from torch.nn.functional import scaled_dot_product_attention

from cogvideo_core.diffusion import attention
from cogvideo_core.models import processors
from cogvideo_core.shapes import build


def tensors(rows_ref: int, rows: int = 6) -> list[torch.Tensor]:
    rng = torch.Generator().manual_seed(rows_ref)
    own = [torch.randn(rows, 2, 20, 32, generator=rng) for _ in range(3)]
    return own + [torch.randn(rows_ref, 2, 27, 32, generator=rng) for _ in range(2)]


@pytest.mark.parametrize("rows_ref", [1, 3, 6])
@pytest.mark.parametrize("weight", [1.0, 0.3, 4.0])
def test_two_parts_equal_concatenation(rows_ref: int, weight: float) -> None:
    """Merging by log-sum-exp equals attention over the concatenated keys within float32 rounding, at any weight."""
    q, k, v, k_ref, v_ref = tensors(rows_ref)
    fast = attention.attend_in_two_parts(q, k, v, k_ref, v_ref, math.log(weight))
    plain = attention.attend_concatenated(q, k, v, k_ref, v_ref, math.log(weight))
    assert (fast - plain).abs().max() < 2e-6


@pytest.mark.parametrize("rows_ref", [1, 3])
def test_each_row_has_its_own_weight(rows_ref: int) -> None:
    """Strengths divide the weight row by row: each row comes out as it does alone at that weight, in both forms."""
    q, k, v, k_ref, v_ref = tensors(rows_ref)
    strengths = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0, 8.0])
    log_weight = attention.Reference(rows_ref, range(1), 2.0, strengths=strengths).log_weight
    fast = attention.attend_in_two_parts(q, k, v, k_ref, v_ref, log_weight)
    assert (fast - attention.attend_concatenated(q, k, v, k_ref, v_ref, log_weight)).abs().max() < 2e-6
    for row, strength in enumerate(strengths):
        one, ref = slice(row, row + 1), slice(row % rows_ref, row % rows_ref + 1)
        weight = math.log(2.0 / float(strength))
        alone = attention.attend_concatenated(q[one], k[one], v[one], k_ref[ref], v_ref[ref], weight)
        assert (fast[one] - alone).abs().max() < 2e-6


def test_two_parts_equal_concatenation_in_bfloat16() -> None:
    """In bfloat16 the two differ by no more than its rounding."""
    q, k, v, k_ref, v_ref = (x.bfloat16() for x in tensors(1))
    fast = attention.attend_in_two_parts(q, k, v, k_ref, v_ref)
    assert (fast - attention.attend_concatenated(q, k, v, k_ref, v_ref)).abs().max() < 0.04


@pytest.mark.gpu
@pytest.mark.parametrize("rows_ref", [1, 3, 6])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float16, 2e-3), (torch.bfloat16, 1.6e-2)]
)
def test_two_parts_equal_concatenation_on_a_gpu(rows_ref: int, dtype: torch.dtype, tolerance: float) -> None:
    """Of CUDA's kernels, each row with its own weight: within the precision's rounding of float32 on the CPU."""
    on_cpu = [x.to(dtype) for x in tensors(rows_ref)]
    log_weight = torch.tensor([0.25, 0.5, 1.0, 2.0, 4.0, 8.0]).log()
    want = attention.attend_concatenated(*(x.float() for x in on_cpu), log_weight)
    got = attention.attend_in_two_parts(*(x.cuda() for x in on_cpu), log_weight.cuda())
    assert got.dtype == dtype and (got.cpu().float() - want).abs().max() < tolerance


def test_row_sees_the_reference_row_of_its_number() -> None:
    """Edit row e sees reference row e mod R and no other."""
    q, k, v, k_ref, v_ref = tensors(3)
    out = attention.attend_in_two_parts(q, k, v, k_ref, v_ref)
    for row in range(6):
        ref = slice(row % 3, row % 3 + 1)
        one = slice(row, row + 1)
        alone = attention.attend_concatenated(q[one], k[one], v[one], k_ref[ref], v_ref[ref])
        assert (out[one] - alone).abs().max() < 2e-6


def test_vanishing_weight_is_plain_attention() -> None:
    """A reference of weight 1e-12 changes nothing; weight 0 takes the plain path."""
    q, k, v, k_ref, v_ref = tensors(1)
    plain = scaled_dot_product_attention(q, k, v)
    assert (attention.attend_in_two_parts(q, k, v, k_ref, v_ref, math.log(1e-12)) - plain).abs().max() < 1e-5
    joined = [torch.cat([a[:1], a]) for a in (q, k, v)]
    out = attention.attend(*joined, attention.Reference(1, range(2), 0.0).at(0))
    assert torch.equal(out, scaled_dot_product_attention(*joined))


def test_layers_outside_the_window_are_plain() -> None:
    """A layer that the call does not name is untouched by the reference; one that it names is not."""
    q, k, v, *_ = tensors(1)
    plain = scaled_dot_product_attention(q, k, v)
    reference = attention.Reference(1, range(1, 2))
    assert torch.equal(attention.attend(q, k, v, reference.at(0)), plain)
    assert (attention.attend(q, k, v, reference.at(1))[1:] - plain[1:]).abs().max() > 0.01


def test_text_keys_of_the_reference_can_be_left_out() -> None:
    """With text=False the edit rows see the reference's image keys alone; its own rows still see their text."""
    rng = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(4, 2, 20, 32, generator=rng) for _ in range(3))
    out = attention.attend(q, k, v, attention.Reference(1, range(1), text=False).at(0), text_tokens=6)
    plain = attention.attend_concatenated(q[1:], k[1:], v[1:], k[:1, :, 6:], v[:1, :, 6:])
    assert (out[1:] - plain).abs().max() < 2e-6
    assert (out[:1] - scaled_dot_product_attention(q[:1], k[:1], v[:1])).abs().max() < 2e-6


def test_fallback_is_taken_where_no_kernel_gives_a_log_sum_exp(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a log-sum-exp kernel the two-part form gives the concatenated result."""
    monkeypatch.setattr(attention, "attend_with_lse", lambda q, k, v, kernel: None)
    args = tensors(3)
    assert torch.equal(attention.attend_in_two_parts(*args), attention.attend_concatenated(*args))


def call(transformer: CogVideoXTransformer3DModel, rope: bool) -> torch.Tensor:
    rng = torch.Generator().manual_seed(3)
    x = torch.randn(2, 3, 8, 12, 12, generator=rng)
    text = torch.randn(2, 16, 64, generator=rng)
    pipe = build.build_pipeline("5b")
    emb = pipe._prepare_rotary_positional_embeddings(48, 48, 3, torch.device("cpu")) if rope else None
    with torch.inference_mode():
        return transformer(x, text, torch.tensor([500, 500]), image_rotary_emb=emb, return_dict=False)[0]


@pytest.mark.parametrize("variant", ["5b", "2b"])
def test_our_processor_without_reference_is_diffusers_own(variant: str) -> None:
    """With no reference the installed processor gives what CogVideoXAttnProcessor2_0 gives."""
    transformer = build.build_pipeline(variant).transformer
    for block in transformer.transformer_blocks:
        assert isinstance(block.attn1.processor, CogVideoXAttnProcessor2_0)
    before = call(transformer, variant == "5b")
    processors.install(transformer)
    assert (call(transformer, variant == "5b") - before).abs().max() < 1e-6
