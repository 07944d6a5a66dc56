"""Values that are no numbers are refused with component, precision and remedy; less memory is used when it runs out."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cogvideo_core.errors import NotFinite, OutOfMemory
from cogvideo_core.models import model
from cogvideo_core.models.text_encoder import TextEncoder
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.stages.failures import kind_of

FRAMES = np.random.default_rng(0).integers(0, 256, (9, 48, 48, 3), np.uint8)


@pytest.fixture
def tiny(tiny_pipeline_folder: Path) -> Any:
    """tiny(**spec): a loaded model of one's own, whose weights may be spoiled."""
    return lambda **spec: model.load(ModelSpec(path=str(tiny_pipeline_folder), **spec))


def spoil(module: torch.nn.Module, value: float) -> None:
    with torch.inference_mode(False), torch.no_grad():
        next(iter(module.parameters())).mul_(value)


@pytest.mark.parametrize(
    ("part", "component", "field"),
    [
        ("vae.encoder", "VAE's encoder", "model.vae_dtype"),
        ("vae.decoder", "VAE's decoder", "model.vae_dtype"),
        ("transformer", "transformer", "model.dtype"),
    ],
)
def test_what_is_no_number_is_refused_by_component(tiny: Any, part: str, component: str, field: str) -> None:
    """A component whose weights are infinite is named, with the field of its precision; the failure is the model's and
    is not tried again."""
    spoiled = tiny()
    latents, text = spoiled.encode(FRAMES), spoiled.embed(["a red circle"])
    spoil(spoiled.pipe.vae.get_submodule(part[4:]) if part.startswith("vae") else spoiled.transformer, float("inf"))
    with pytest.raises(NotFinite, match=component) as failed:
        spoiled.encode(FRAMES)
        spoiled.velocity(latents[None], 500, text)
        spoiled.decode(latents)
    assert field in str(failed.value) and "float32" in str(failed.value)
    assert kind_of(failed.value) == ("model", False)


def test_a_vae_that_overflows_in_float16_gives_no_black_video(tiny: Any) -> None:
    """Weights that float32 holds and float16 does not: the error names float16 and a precision that works."""
    fine, short = tiny(), tiny(vae_dtype="float16")
    for one in (fine, short):
        spoil(one.pipe.vae.decoder.conv_in.conv, 3e5)
    latents = fine.encode(FRAMES)
    assert fine.decode(latents).shape == FRAMES.shape
    with pytest.raises(NotFinite, match=r"float16; set model\.vae_dtype to bfloat16 or float32"):
        short.decode(latents)


def test_an_embedding_that_is_no_number_is_refused(tiny: Any) -> None:
    """The text encoder is named."""
    spoiled = tiny()
    spoiled.embed(["a"])
    spoil(spoiled.pipe.text_encoder, float("nan"))
    with pytest.raises(NotFinite, match="text encoder"):
        spoiled.embed(["a red circle"])


class Small:
    """A VAE's method that runs out of memory until what is asked for holds."""

    def __init__(self, module: Any, name: str, enough: Any) -> None:
        self.module, self.call, self.enough, self.tried = module, getattr(module, name), enough, 0

    def __call__(self, values: Tensor) -> Any:
        self.tried += 1
        if not self.enough(self.module):
            raise torch.OutOfMemoryError("CUDA out of memory")
        return self.call(values)


@pytest.mark.parametrize("verb", ["encode", "decode"])
def test_tiles_are_tried_when_memory_runs_out(
    tiny: Any, verb: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The result is that of a tiled VAE; the next call begins with tiles; it is said once."""
    short, tiled = tiny(), tiny()
    for one in (short, tiled):  # tiles that add up at this size
        one.pipe.vae.enable_tiling(24, 24, tile_overlap_factor_height=1 / 3, tile_overlap_factor_width=1 / 3)
    short.pipe.vae.use_tiling = False
    monkeypatch.setattr(short.pipe.vae, "enable_tiling", lambda: setattr(short.pipe.vae, "use_tiling", True))
    given = FRAMES if verb == "encode" else tiled.encode(FRAMES)
    small = Small(short.pipe.vae, verb, lambda vae: vae.use_tiling)
    monkeypatch.setattr(short.pipe.vae, verb, small)
    found = getattr(short, verb)(given)
    assert np.array_equal(found, getattr(tiled, verb)(given)) and small.tried == 2
    getattr(short, verb)(given)
    assert small.tried == 3
    assert [record.getMessage() for record in caplog.records] == [
        f"memory ran out while {verb[:-1]}ing 48x48 pixels; going on with the VAE in tiles"
    ]


def test_bfloat16_is_tried_only_where_it_is_allowed(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """After tiles; without leave the sentence proposes it."""
    latents = tiny().encode(FRAMES)
    for fallback in ("none", "tiles", "bfloat16"):
        short = tiny(vae_fallback=fallback)
        small = Small(short.pipe.vae, "decode", lambda vae: vae.dtype == torch.bfloat16)
        monkeypatch.setattr(short.pipe.vae, "decode", small)
        monkeypatch.setattr(
            short.pipe.vae, "enable_tiling", lambda vae=short.pipe.vae: setattr(vae, "use_tiling", True)
        )
        monkeypatch.setattr(short.pipe.vae, "tile_latent_min_height", 99)  # one tile holds all of 48 pixels
        monkeypatch.setattr(short.pipe.vae, "tile_latent_min_width", 99)
        if fallback == "bfloat16":
            assert short.decode(latents).shape == FRAMES.shape
            assert short.pipe.vae.dtype == torch.bfloat16 and small.tried == 3
            continue
        with pytest.raises(OutOfMemory, match=r"decoding 48x48 pixels.*model\.vae_dtype=bfloat16") as failed:
            short.decode(latents)
        assert kind_of(failed.value) == ("out_of_memory", False)
        assert ("model.vae_tiling=on" in str(failed.value)) == (fallback == "none")


def test_the_text_encoder_goes_on_on_the_cpu(
    tiny: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A device without room for it: the embeddings are those of the CPU, and it stays there. On the CPU itself it is an
    error with a remedy."""
    whole = tiny()
    encoder = TextEncoder(whole.pipe, whole.text_encoder.folder, torch.device("cuda"))
    embed = TextEncoder._embed

    def small(self: TextEncoder, prompts: list[str], tokens: int) -> Tensor:
        if self.device.type == "cuda":
            raise torch.OutOfMemoryError("CUDA out of memory")
        return embed(self, prompts, tokens)

    monkeypatch.setattr(TextEncoder, "_embed", small)
    prompts = ["a red circle", "a blue square", "a red circle"]
    found = encoder.embed(prompts, whole.text_tokens)
    assert torch.equal(found, whole.embed(prompts)) and encoder.device.type == "cpu"
    assert "on the CPU" in caplog.text

    def none(self: TextEncoder, *_: Any) -> Tensor:
        raise MemoryError

    monkeypatch.setattr(TextEncoder, "_embed", none)
    with pytest.raises(OutOfMemory, match=r"text encoder; set model\.dtype=bfloat16"):
        whole.embed(prompts)


def test_settings_of_earlier_versions_name_tiles_by_true_and_false() -> None:
    """Both spellings are the same setting."""
    assert [ModelSpec(vae_tiling=given).vae_tiling for given in (True, False, "on", "off")] == [
        "on",
        "off",
        "on",
        "off",
    ]
    assert json.loads(ModelSpec(vae_tiling=True).model_dump_json())["vae_tiling"] == "on"
