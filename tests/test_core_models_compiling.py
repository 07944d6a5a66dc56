"""Compiled blocks, attention kernels by name and offload by blocks: the same velocities as the plain model."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn.functional import scaled_dot_product_attention

from cogvideo_core.diffusion import attention
from cogvideo_core.diffusion.attention import Reference
from cogvideo_core.errors import BadSpec
from cogvideo_core.models import compiling, model, placement
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.shapes.build import build_pipeline

LAYERS, TOKENS = 2, 16 + 3 * 6 * 6  # of text and of image
# torch's own doing, when it imports its compiler
pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """torch.compile without a C++ compiler; how many graphs it has made."""
    monkeypatch.setattr(compiling, "BACKEND", "eager")
    torch._dynamo.reset()
    counters.clear()
    yield counters["stats"]
    torch._dynamo.reset()


def velocity(of: VideoModel, rows: int, reference: Reference | None) -> torch.Tensor:
    """Of `rows` rows behind the reference's."""
    rng, rows = torch.Generator().manual_seed(rows), rows + (reference.rows if reference else 0)
    x, text = torch.randn(rows, 3, 8, 12, 12, generator=rng), torch.randn(rows, 16, 64, generator=rng)
    return of.velocity(x, 500, text, reference)


def references(rows: int) -> list[Reference | None]:
    """None, a window from each side, none at all, all layers; with a weight, without text, with strengths."""
    return [
        None,
        Reference(1, range(1, LAYERS), 0.25),
        Reference(1, range(1), 0.3),
        Reference(1, range(0), 0.3),
        Reference(1, range(LAYERS), 0.5, text=False),
        Reference(1, range(LAYERS), 0.5, strengths=torch.linspace(0.5, 2, rows)),
    ]


def of_masks(rows: int) -> list[Reference | None]:
    """What edits with masks see: a weight for each token, by two masks, weights and windows, and with strengths."""
    tokens = torch.rand(rows, TOKENS, generator=torch.Generator().manual_seed(rows))
    return [
        Reference(1, range(LAYERS), 0.1, tokens=tokens),
        Reference(1, range(1), 0.25, tokens=(tokens > 0.5).float()),
        Reference(1, range(LAYERS), 0.5, strengths=torch.linspace(0.5, 2, rows), tokens=tokens),
    ]


def test_compiled_blocks_give_the_plain_velocities(counted: Any) -> None:
    """For every kind of call and number of rows within 1e-4; a graph for each kind, and none for another number of
    rows, layer, window or weight."""
    plain = VideoModel(build_pipeline("5b"), ModelSpec())
    quick = VideoModel(build_pipeline("5b"), ModelSpec(compile="blocks"))
    made = []
    for rows in (1, 2, 5):
        for reference in references(rows):
            difference = velocity(quick, rows, reference) - velocity(plain, rows, reference)
            assert difference.abs().max() < 1e-4
        made.append(counted["unique_graphs"])
    assert 0 < made[1] <= 8
    assert made[1] == made[2]
    assert not counters["graph_break"]


def test_masks_need_no_graph_of_their_own(counted: Any) -> None:
    """A weight for each token of the edits gives the plain velocities too; once its graph is made, another mask,
    weight, window, strength or number of rows makes none."""
    plain = VideoModel(build_pipeline("5b"), ModelSpec())
    quick = VideoModel(build_pipeline("5b"), ModelSpec(compile="blocks"))
    made = []
    for rows in (2, 5):
        for reference in of_masks(rows):
            difference = velocity(quick, rows, reference) - velocity(plain, rows, reference)
            assert difference.abs().max() < 1e-4
            made.append(counted["unique_graphs"])
    assert made[0] > 0 and len(set(made[2:])) == 1
    assert not counters["graph_break"]


@pytest.mark.e2e
def test_weights_in_8_bits_are_compiled_too(counted: Any, tiny_pipeline_folder: Path) -> None:
    """float8 in compiled blocks gives what it gives in plain ones."""
    spec = ModelSpec(path=str(tiny_pipeline_folder), weights="float8")
    plain, quick = model.load(spec), model.load(spec.model_copy(update={"compile": "blocks"}))
    reference = Reference(1, range(LAYERS))
    assert (velocity(quick, 2, reference) - velocity(plain, 2, reference)).abs().max() < 1e-4
    assert counted["unique_graphs"]


@pytest.mark.e2e
def test_inductor_gives_the_plain_velocities() -> None:
    """With torch's real compiler, within 1e-4 in float32."""
    torch._dynamo.reset()
    plain = VideoModel(build_pipeline("5b"), ModelSpec())
    quick = VideoModel(build_pipeline("5b"), ModelSpec(compile="blocks"))
    for rows, reference in ((1, None), (3, None), (2, Reference(1, range(LAYERS), 0.25)), (5, Reference(1, range(1)))):
        assert (velocity(quick, rows, reference) - velocity(plain, rows, reference)).abs().max() < 1e-4
    torch._dynamo.reset()


def test_blocks_on_the_cpu_until_they_compute(tiny_pipeline_folder: Path) -> None:
    """offload=blocks moves weights, and changes no bit."""
    spec = ModelSpec(path=str(tiny_pipeline_folder))
    plain, pipe = model.load(spec), model.load(spec).pipe
    model.place(pipe, spec.model_copy(update={"offload": "blocks"}), torch.device("cpu"))
    moved = VideoModel(pipe, spec)
    reference = Reference(1, range(1), 0.5)
    assert torch.equal(velocity(moved, 2, reference), velocity(plain, 2, reference))
    assert pipe.transformer._diffusers_hook is not None


def test_sage_is_taken_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its result and log-sum-exp are merged as those of torch's kernels are; a stand-in computes them plainly."""

    def sageattn(q: Any, k: Any, v: Any, tensor_layout: str, return_lse: bool) -> tuple[torch.Tensor, torch.Tensor]:
        assert (tensor_layout, return_lse) == ("HND", True)
        logits = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        return logits.softmax(-1) @ v, logits.logsumexp(-1)

    package = ModuleType("sageattention")
    package.sageattn = sageattn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "sageattention", package)
    q, k, v = (torch.randn(3, 2, 9, 16, generator=torch.Generator().manual_seed(n)) for n in range(3))
    monkeypatch.setattr(attention, "ON_CPU", ())
    named = attention.attend(q, k, v, Reference(1, range(1), 0.5).at(0), 0, "sage")
    monkeypatch.undo()
    plain = attention.attend(q, k, v, Reference(1, range(1), 0.5).at(0), 0)
    assert (named - plain).abs().max() < 1e-5
    assert (attention.attend_alone(q, k, v) - scaled_dot_product_attention(q, k, v)).abs().max() == 0


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"attention": "flash"}, "attention: 'flash' needs a CUDA GPU; use auto"),
        ({"compile": "blocks", "attention": "auto"}, "needs a C\\+\\+ compiler; install one"),
        ({"weights": "int8", "offload": "blocks", "device": "cuda"}, "can't be combined with offload=blocks"),
        ({"offload": "blocks"}, "offload: 'blocks' needs a GPU"),
    ],
)
def test_what_can_not_be_is_refused(fields: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence with the field and the remedy, before anything is loaded."""
    monkeypatch.setenv("CXX", "no-such-compiler")
    if fields.get("device") == "cuda":
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(BadSpec, match=words):
        placement.chosen_device(ModelSpec(**fields))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"attention": "sage", "dtype": "bfloat16"}, "needs the package sageattention"),
        ({"attention": "cudnn", "dtype": "float32"}, "takes 16 bits only"),
        ({"compile": "blocks", "offload": "blocks"}, "can't be combined with offload=blocks"),
        ({"compile": "blocks", "offload": "sequential"}, "can't be combined with offload=sequential"),
    ],
)
def test_what_a_gpu_can_not_do_is_refused(fields: Any, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a CPU: before anything is loaded."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(BadSpec, match=words):
        placement.chosen_device(ModelSpec(**fields))


def test_sage_is_part_of_the_keys_and_the_rest_is_not() -> None:
    """8 bits make other results; kernels and compilers that round otherwise make the same ones."""
    of = VideoModel(build_pipeline("5b"), ModelSpec())
    own = of.fingerprint
    of.spec = ModelSpec(compile="blocks", attention="flash", offload="blocks")
    assert of.fingerprint == own
    of.spec = ModelSpec(attention="sage")
    assert of.fingerprint != own
