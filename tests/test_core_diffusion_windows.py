"""Windows of long clips: they cover the clip on the model's rule, and their weights sum to one."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cogvideo_core.diffusion.windows import layout_of
from cogvideo_core.errors import BadSpec


@given(
    frames=st.integers(1, 400),
    window=st.integers(1, 10).map(lambda k: 8 * k + 1),
    overlap=st.integers(0, 20),
    pair=st.sampled_from([1, 2]),
)
def test_windows_cover_the_clip(frames: int, window: int, overlap: int, pair: int) -> None:
    """Any clip: windows of equal length within it, each latent frame in one of them, neighbours sharing at least the
    overlap, at even places where latent frames are taken in pairs; at most 3 (7) frames left out."""
    if overlap > (window - 1) // 4:
        return
    layout = layout_of(frames, window, overlap, pair=pair)
    assert 0 <= frames - layout.frames < 4 * pair
    assert layout.latents == (layout.frames - 1) // 4 + pair
    assert layout.length == min(window, layout.frames)
    assert layout.places[0] == 0 and layout.places[-1] + layout.span == layout.latents
    steps = [after - before for before, after in zip(layout.places, layout.places[1:], strict=False)]
    assert all(0 < step <= layout.span - overlap for step in steps)
    assert all(place % pair == 0 for place in (*layout.places, layout.span))


@given(frames=st.integers(1, 300), overlap=st.integers(0, 12), pair=st.sampled_from([1, 2]))
def test_weights_sum_to_one(frames: int, overlap: int, pair: int) -> None:
    """What windows say of the same clip comes back as it was; where one window alone is, bit for bit."""
    layout = layout_of(frames, 49, overlap, pair=pair)
    whole = torch.rand(2, layout.latents, 1, 1, 1)
    blended = layout.blended([layout.of(whole, window) for window in range(len(layout))])
    assert torch.allclose(blended, whole, atol=1e-6)
    alone = torch.zeros(layout.latents)
    for at in layout.slices():
        alone[at] += 1
    assert torch.equal(blended[:, alone == 1], whole[:, alone == 1])
    assert (layout.weights > 0).all()


@pytest.mark.parametrize(("window", "overlap", "field"), [(48, 1, "frames"), (9, 3, "overlap"), (9, -1, "overlap")])
def test_what_can_not_be_laid_out_is_refused(window: int, overlap: int, field: str) -> None:
    """A window that is not 8k+1 frames long, and an overlap that leaves no stride."""
    with pytest.raises(BadSpec, match=f"field dataset.{field}"):
        layout_of(100, window, overlap)
