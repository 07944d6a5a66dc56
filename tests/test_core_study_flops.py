"""Counted FLOPs against hand counts, and both editing schemes against their closed forms."""

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from cogvideo_core.diffusion import attention
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.presets import unwindowed
from cogvideo_core.settings.specs import ModelSpec, RecipeSpec
from cogvideo_core.shapes import build
from cogvideo_core.study import flops

lse_op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu


@pytest.fixture(scope="module")
def model() -> VideoModel:
    return VideoModel(build.build_pipeline("5b"), ModelSpec(device="cpu"))


@pytest.fixture(scope="module")
def big() -> flops.Meter:
    return flops.Meter(flops.full_size("5b"))


def row_of(model: VideoModel) -> flops.Flops:
    of = flops.given(model, 1, 1)
    return flops.count(lambda: model.velocity(of.x, 999, of.texts.cond))


@pytest.fixture(scope="module")
def big_row(big: flops.Meter) -> flops.Flops:
    return row_of(big.model)


def qkv(device: str) -> tuple[Tensor, Tensor, Tensor]:
    return tuple(torch.ones(2, 3, tokens, 16, device=device) for tokens in (5, 7, 7))


@pytest.mark.parametrize("device", ["cpu", "meta"])
@pytest.mark.parametrize("op", [lse_op, scaled_dot_product_attention])
def test_attention_is_counted_as_by_hand(op: object, device: str) -> None:
    """2 rows x 3 heads x 5 queries x 7 keys x 16 wide is 3,360 products; two matrices of them, 2 FLOPs each: 13,440."""
    q, k, v = qkv(device)
    assert flops.count(lambda: op(q, k, v)) == flops.Flops(linear=0, attention=13_440)


def test_an_uncounted_operator_is_noticed() -> None:
    """Attention without its formula, which torch counts as nothing, raises and is named; so does a product it lacks."""
    q, k, v = qkv("cpu")
    with pytest.raises(LookupError, match="flash_attention_for_cpu"):
        flops.count(lambda: scaled_dot_product_attention(q, k, v), formulas={})
    with pytest.raises(LookupError, match=r"\bmv\b"):
        flops.count(lambda: torch.mv(torch.ones(3, 4), torch.ones(4)))


@contextmanager
def counted_by_hooks(module: nn.Module) -> Iterator[list[int]]:
    """2 FLOPs a weight and output position, from the layers' shapes alone."""
    found: list[int] = []

    def note(layer: nn.Module, _: object, out: Tensor) -> None:
        found.append(2 * out.numel() * layer.weight[0].numel())

    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    yield found
    for handle in handles:
        handle.remove()


def test_a_row_is_counted_as_by_hand(model: VideoModel) -> None:
    """The linear part is that of all layers with weights; attention is layers x 4·H·S²·d, over 16 + 108 tokens."""
    with counted_by_hooks(model.transformer) as found:
        row = row_of(model)
    assert row == flops.Flops(linear=sum(found), attention=2 * 4 * 2 * 124**2 * 32)


def test_schemes_meet_their_closed_forms(model: VideoModel) -> None:
    """On a small model both schemes cost their closed forms within 1 %, and ours nears its floor as edits grow."""
    meter, row = flops.Meter(model), row_of(model)
    for n in (1, 4, 16):
        of = flops.given(model, n, 1)
        ours = meter.of(lambda of=of: flops.shared(model, of, velocity=meter))
        theirs = meter.of(lambda of=of: flops.script(model, of, meter))
        assert ours == pytest.approx(flops.shared_cost(row, n), rel=0.01)
        assert theirs == pytest.approx(flops.script_cost(row, n), rel=0.01)
    assert 1 < ours / flops.floor_cost(row, 16) < 1.05


def test_5b_row_is_the_published_size(big_row: flops.Flops) -> None:
    """At 49 frames 480x720 a row of 5B has 226 + 17,550 tokens and costs 169 TFLOP linear and 163 in attention."""
    assert big_row.attention == 42 * 4 * 48 * (226 + 17_550) ** 2 * 64
    assert big_row.linear / 1e12 == pytest.approx(169, abs=0.5)


def test_5b_meets_closed_forms_and_bars(big: flops.Meter, big_row: flops.Flops) -> None:
    """On 5B, without weights: closed forms within 1 %; the script's scheme costs 1.5 times ours at N = 4, 1.6 at 16."""
    for n, bar in ((4, 1.5), (16, 1.6)):
        of = flops.given(big.model, n, 1)
        ours = big.of(lambda of=of: flops.shared(big.model, of, velocity=big))
        theirs = big.of(lambda of=of: flops.script(big.model, of, big))
        assert ours == pytest.approx(flops.shared_cost(big_row, n), rel=0.01)
        assert theirs == pytest.approx(flops.script_cost(big_row, n), rel=0.01)
        assert theirs / ours >= bar


def test_counting_takes_the_path_that_runs() -> None:
    """On the meta device too, reference keys are attended apart, not concatenated."""
    q, k, v = qkv("meta")
    with mock.patch.object(attention, "attend_concatenated", side_effect=AssertionError("concatenated")):
        assert attention.attend_in_two_parts(q, k, v, k[:1], v[:1]).shape == q.shape


def test_meter_agrees_with_counting_everything(model: VideoModel) -> None:
    """Counting each kind of call once gives what counting a whole windowed run gives."""
    of, recipe = flops.given(model, 2, 4), unwindowed(reference_end=0.5, layer_end=0.5)
    meter = flops.Meter(model)
    once = meter.of(lambda: flops.shared(model, of, recipe, meter))
    assert once == flops.count(lambda: flops.shared(model, of, recipe)).total


def test_what_windows_save(model: VideoModel) -> None:
    """Outside the step window no reference row is paid for; outside the layer window no reference keys."""
    meter, row, of = flops.Meter(model), row_of(model), flops.given(model, 2, 4)

    def cost(recipe: RecipeSpec) -> int:
        return meter.of(lambda: flops.shared(model, of, recipe, meter))

    plain = 4 * row.total
    assert cost(unwindowed(reference_end=0.5)) == 2 * plain + 2 * flops.shared_cost(row, 2)
    assert 4 * plain < cost(unwindowed(reference_end=1.0, layer_end=0.5)) < cost(unwindowed(reference_end=1.0))
