"""Precision and tiles that are chosen for a device: by what is stored and by the memory plan."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from cogvideo_core.models import memory, model, placement
from cogvideo_core.models.configuration import VideoShape
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.shapes.build import build_pipeline
from cogvideo_core.study import flops

GIB = 2**30
SHAPE_5B = VideoShape(49, 480, 720, 8)


@pytest.fixture(scope="module")
def full_size(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the configuration of the released models' VAE."""
    folder = tmp_path_factory.mktemp("full_size")
    flops.full_size_vae().save_config(folder / "vae")
    return folder


def on_a_card(monkeypatch: pytest.MonkeyPatch, gib: float) -> None:
    monkeypatch.setattr(placement, "chosen_device", lambda spec: torch.device("cuda"))
    monkeypatch.setattr(placement, "total_bytes", lambda device: int(gib * GIB))


def test_a_cpu_takes_float32_and_whole_frames(tiny_pipeline_folder: Path) -> None:
    """What auto stands for on a CPU is what the defaults were before it, so keys stay; what is given is kept."""
    path = str(tiny_pipeline_folder)
    found = placement.placed(ModelSpec(path=path))
    assert (found.dtype, found.vae_tiling) == ("float32", "off")
    assert model.load(ModelSpec(path=path)).spec == found
    given = ModelSpec(path=path, dtype="float16", vae_tiling="on")
    assert placement.placed(given) == given


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_gpu_takes_the_precision_of_the_files(dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5B comes in bfloat16, 2B in float16: auto runs each as it is."""
    build_pipeline("5b").to(getattr(torch, dtype)).save_pretrained(tmp_path)
    on_a_card(monkeypatch, 24)
    assert placement.placed(ModelSpec(path=str(tmp_path))).dtype == dtype


@pytest.mark.parametrize(("gib", "tiles"), [(24, True), (80, False)])
def test_5b_decodes_in_tiles_where_a_frame_has_no_room(full_size: Path, gib: int, tiles: bool) -> None:
    """49 frames of 480x720 beside 5B's weights in 16 bits: in tiles on 24 GiB, whole on 80."""
    weights = sum(p.numel() * 2 for p in flops.full_size("5b").transformer.parameters())
    room = int(memory.GPU_SHARE * gib * GIB) - weights
    assert placement.wants_tiles(full_size, SHAPE_5B, torch.float32, room) == tiles


@pytest.mark.timeout(300)
def test_5b_fits_on_24_gib_as_it_stands(full_size: Path) -> None:
    """Prompts, one edit, and decoding in tiles (the gate's decoding is the same) all fit beside the weights."""
    transformer = flops.full_size("5b").transformer
    held = sum(p.numel() * 2 for p in transformer.parameters())
    held += sum(p.nbytes for p in flops.full_size_vae().parameters())
    config = (full_size / "vae" / "config.json").read_text()
    tiled, fits = placement.decoding(config, (49, 480, 720), torch.float32, True)
    row = memory.row_bytes(transformer.config, (13, 16, 60, 90), torch.bfloat16)
    prompts = sum(p.nbytes for p in flops.full_size_text_encoder().parameters())
    assert fits and held + max(tiled, 3 * row, prompts) < memory.GPU_SHARE * 24 * GIB


NEEDS_5B = placement.Needs(int(10.4 * GIB), int(0.8 * GIB), int(8.9 * GIB), 42, int(1.44 * GIB), int(7.5 * GIB))


@pytest.mark.parametrize(
    ("gib", "weights", "offload", "text_device"),
    [
        (80, "stored", "none", "auto"),
        (24, "stored", "none", "auto"),
        (16, "int8", "none", "cpu"),
        (12, "int8", "model", "auto"),
        (9, "stored", "blocks", "cpu"),
        (2, "stored", "blocks", "cpu"),
    ],
)
def test_a_model_is_fitted_to_its_card(gib: int, weights: str, offload: str, text_device: str) -> None:
    """5B at its usual size: as it stands on 24 GiB, in 8 bits on 16, with offload as well on 12; a block at a time is
    the last resort. The text encoder goes to the CPU where it has no room. A choice of one's own stays, and a CPU
    offloads nothing."""
    room = int(memory.GPU_SHARE * gib * GIB)
    spec = ModelSpec(dtype="bfloat16", fit="auto")
    found = placement.fitted(spec, NEEDS_5B, room, gpu=True)
    assert (found.weights, found.offload, found.fit) == (weights, offload, "off")
    assert found.text_device == text_device
    own = placement.fitted(spec.model_copy(update={"weights": "float8"}), NEEDS_5B, room, gpu=True)
    assert own.weights == "float8"
    on_a_cpu = placement.fitted(spec, NEEDS_5B, room, gpu=False)
    assert (on_a_cpu.offload, on_a_cpu.text_device) == ("none", "auto")


@pytest.mark.parametrize(
    ("gib", "offload", "overlap"), [(80, "none", "on"), (48, "none", "off"), (24, "none", "off"), (80, "model", "off")]
)
def test_the_vae_decodes_beside_where_both_fit(gib: int, offload: str, overlap: str) -> None:
    """5B with 30 GiB for a whole frame: a call of 8 edits and decoding fit at once on 80 GiB; not on 48, where they
    would share it at the price of smaller calls; never with offload."""
    spec = ModelSpec(dtype="bfloat16", offload=offload)  # type: ignore[arg-type]
    room = int(memory.GPU_SHARE * gib * GIB)
    assert placement.overlapped(spec, NEEDS_5B, int(29.5 * GIB), room).vae_overlap == overlap
    assert placement.overlapped(spec, NEEDS_5B, room, room).vae_overlap == "off"


def test_fit_is_chosen_from_the_folder(tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a small model needs lies between what it takes in 8 bits and as stored: so it is shrunk, loaded, and its
    tiles are decided after that."""
    spec = ModelSpec(path=str(tiny_pipeline_folder), fit="auto", dtype="float32", device="cpu")
    need = placement.needs(spec, tiny_pipeline_folder, placement.configured(spec).shape)
    taken = need.transformer + need.vae + max(need.call, need.decoding)
    monkeypatch.setattr(placement, "total_bytes", lambda device: taken - 1)
    found = placement.placed(spec)
    assert (found.weights, found.fit) == ("int8", "off") and found.vae_tiling in ("on", "off")
    monkeypatch.setattr(placement, "total_bytes", lambda device: taken)
    loaded = model.load(spec)
    assert loaded.spec.weights == "stored" and placement.told(loaded.spec, loaded.device).startswith("cpu, float32")
    assert loaded.spec.vae_overlap == "off"  # a CPU has no streams
    on_a_card(monkeypatch, 24)
    card = placement.placed(spec)
    assert (card.vae_overlap, card.weights, card.text_device) == ("on", "stored", "auto")
    words = ModelSpec(dtype="bfloat16", vae_overlap="on", text_device="cpu")
    told = "cuda, bfloat16, VAE beside the transformer, text encoder on the CPU"
    assert placement.told(words, torch.device("cuda")) == told
    words = ModelSpec(dtype="bfloat16", weights="int8", vae_tiling="on", offload="model")
    assert placement.told(words, torch.device("cuda")) == "cuda, bfloat16, weights in int8, VAE in tiles, offload model"


def test_tiles_that_do_not_add_up_are_not_chosen(tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even where memory is short: 48 pixels in the small VAE's tiles come back as another size, or take no less."""
    on_a_card(monkeypatch, 0)
    assert placement.placed(ModelSpec(path=str(tiny_pipeline_folder))).vae_tiling == "off"


@pytest.mark.parametrize(
    ("spec", "width", "fields"),
    [
        ({"vae_dtype": "float16"}, 3072, ["model.vae_dtype"]),
        ({"dtype": "float16", "vae_dtype": "float16"}, 3072, ["model.dtype", "model.vae_dtype"]),
        ({"dtype": "float16"}, 1920, []),
        ({"dtype": "bfloat16"}, 3072, []),
    ],
)
def test_float16_is_warned_of_for_5b(spec: dict[str, Any], width: int, fields: list[str]) -> None:
    """5B and 1.5 are 3072 wide and were trained in bfloat16; 2B, 1920 wide, was in float16."""
    said = placement.warnings(ModelSpec(**spec), width)
    assert len(said) == len(fields) and all(field in text for field, text in zip(fields, said, strict=True))
