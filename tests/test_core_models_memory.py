"""The memory plan: estimates against measured peaks, what is chosen by them, and what happens when it was too much."""

from __future__ import annotations

import logging
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel

from cogvideo_core.diffusion import attention, editing
from cogvideo_core.diffusion.attention import Reference
from cogvideo_core.errors import OutOfMemory
from cogvideo_core.models import batching, memory, processors
from cogvideo_core.models.memory import ran_out_of_memory
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.presets import unwindowed
from cogvideo_core.settings.specs import EngineSpec, ModelSpec
from cogvideo_core.shapes import build
from cogvideo_core.stages.failures import kind_of
from cogvideo_core.study import flops

FLASH = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
SHARED = unwindowed()


def transformer(
    heads: int, size: int, layers: int, rope: bool = True, dtype: torch.dtype = torch.float32
) -> CogVideoXTransformer3DModel:
    """Real blocks with random weights; 3 latent frames of size x size, 16 text tokens."""
    made = CogVideoXTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=64,
        in_channels=4,
        out_channels=4,
        time_embed_dim=64,
        text_embed_dim=64,
        num_layers=layers,
        sample_width=size,
        sample_height=size,
        sample_frames=9,
        max_text_seq_length=16,
        use_rotary_positional_embeddings=rope,
    )
    processors.install(made)
    return made.eval().to(dtype)


def slope(model: CogVideoXTransformer3DModel, with_reference: bool) -> float:
    """(peak at 16 rows - peak at 4 rows) / 12, in bytes; a reference row comes on top."""
    config, n = model.config, int(with_reference)
    reference = Reference(1, range(config.num_layers)) if with_reference else None
    image = 3 * (config.sample_height // 2) ** 2
    rope = (torch.ones(image, 64), torch.ones(image, 64)) if config.use_rotary_positional_embeddings else None

    @torch.inference_mode()
    def call(rows: int) -> None:
        model(
            hidden_states=torch.zeros(rows, 3, 4, config.sample_height, config.sample_width, dtype=model.dtype),
            encoder_hidden_states=torch.zeros(rows, 16, 64, dtype=model.dtype),
            timestep=torch.full((rows,), 5),
            image_rotary_emb=rope,
            attention_kwargs=reference and {"reference": reference},
        )

    few, many = (memory.peak_bytes(lambda rows=rows: call(rows + n)) for rows in (4, 16))
    return (many - few) / 12


def estimate(model: CogVideoXTransformer3DModel) -> int:
    return memory.row_bytes(model.config, (3, 4, model.config.sample_height, model.config.sample_width), model.dtype)


def test_the_estimate_holds_on_a_model_of_50_megabytes_a_row() -> None:
    """Of 16 edit rows over a reference row, by torch's own allocations: within 25 %."""
    model = transformer(heads=13, size=42, layers=1)
    per_row = slope(model, with_reference=True)
    assert per_row > 50e6 and abs(per_row / estimate(model) - 1) < 0.25


@pytest.mark.slow
def test_the_estimate_holds_on_two_layers_of_16_heads() -> None:
    """50 MB a row without a reference, wider and deeper: within 25 %."""
    model = transformer(heads=16, size=38, layers=2)
    per_row = slope(model, with_reference=False)
    assert per_row > 50e6 and abs(per_row / estimate(model) - 1) < 0.25


@pytest.mark.parametrize("with_reference", [False, True])
@pytest.mark.parametrize("rope", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_estimate_holds_in_every_precision(dtype: torch.dtype, rope: bool, with_reference: bool) -> None:
    """With and without RoPE and reference row, in small: within 25 %."""
    model = transformer(4, 12, 2, rope, dtype)
    assert abs(slope(model, with_reference) / estimate(model) - 1) < 0.25


def of_full_size(variant: str, device: str) -> tuple[VideoModel, int]:
    """Two blocks of a released configuration in bfloat16, and the estimate of a row at 49 frames 480x720."""
    model = flops.full_size(variant, device)
    model.transformer.transformer_blocks = model.transformer.transformer_blocks[:2].requires_grad_(False)
    latents = model.latents(model.shape.frames, model.shape.height, model.shape.width)
    assert latents == (13, 16, 60, 90)
    return model, memory.row_bytes(model.transformer.config, latents, torch.bfloat16)


@pytest.mark.parametrize("variant", ["2b", "5b"])
def test_the_estimate_holds_at_full_size(variant: str) -> None:
    """On the meta device: within 5 %."""
    (model, per_row), peaks = of_full_size(variant, "meta"), []
    for edits in (2, 8):
        of = flops.given(model, 2 * edits + 1, 1)
        # on the meta device plain attention is spelled out with its S x S matrix, which no real kernel makes
        fused = mock.patch.object(attention, "scaled_dot_product_attention", lambda q, k, v: FLASH(q, k, v)[0])
        with fused, memory.Lifetimes() as lifetimes:
            model.velocity(of.x, 5, of.texts.cond, Reference(1, range(42)))
        peaks.append(lifetimes.peak)
    assert abs((peaks[1] - peaks[0]) / 12 / per_row - 1) < 0.05


@pytest.mark.gpu
@pytest.mark.parametrize("variant", ["2b", "5b"])
def test_the_estimate_holds_on_a_gpu(variant: str) -> None:
    """On the card, what CUDA's kernels take for themselves included: within 10 %."""
    (model, per_row), peaks = of_full_size(variant, "cuda"), []
    for edits in (1, 3):
        of = flops.given(model, 2 * edits + 1, 1)
        model.velocity(of.x, 5, of.texts.cond, Reference(1, range(42)))  # cuBLAS takes its workspace once
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        model.velocity(of.x, 5, of.texts.cond, Reference(1, range(42)))
        peaks.append(torch.cuda.max_memory_allocated() - before)
    assert abs((peaks[1] - peaks[0]) / 4 / per_row - 1) < 0.1, [peak / 2**30 for peak in peaks]


@pytest.mark.parametrize("device", ["cpu", "meta"])
def test_lifetimes_count_what_is_alive(device: str) -> None:
    """Four kilobytes come, four more, the first go, four more come: eight at the peak; views take nothing."""
    with memory.Lifetimes() as lifetimes:
        first = torch.zeros(1024, device=device)
        second = first.view(32, 32) + 1
        del first
        third = second * 2
    assert (lifetimes.peak, lifetimes.now) == (8192, 8192)
    assert third.shape == second.shape


@pytest.mark.slow
def test_lifetimes_are_what_a_vae_allocates() -> None:
    """The released VAE decodes 9 frames of 64x96 with the same peak on the meta device as by torch's count on a CPU."""
    real, empty = (flops.full_size_vae(device) for device in ("cpu", "meta"))

    @torch.inference_mode()
    def decode(vae: torch.nn.Module, device: str) -> None:
        vae.decode(torch.zeros(1, 16, 3, 8, 12, device=device))

    decode(real, "cpu")
    with memory.Lifetimes() as lifetimes:
        decode(empty, "meta")
    assert lifetimes.peak == memory.peak_bytes(lambda: decode(real, "cpu"))


@pytest.fixture
def model() -> VideoModel:
    return VideoModel(build.build_pipeline("5b"), ModelSpec(device="cpu"))


@pytest.mark.parametrize("reference_prompt", ["inversion", "edit", "per_half"])
@pytest.mark.parametrize("changed", [{}, {"guidance_scale": 1.0}, {"reference_end": 0.0}])
def test_rows_are_those_of_the_fullest_call(model: VideoModel, reference_prompt: str, changed: dict[str, Any]) -> None:
    """`most_rows` is the largest batch that reaches the transformer while three edits are denoised."""
    recipe, seen = unwindowed(reference_prompt=reference_prompt, **changed), []

    def velocity(x: torch.Tensor, *_: object) -> torch.Tensor:
        seen.append(len(x))
        return torch.zeros_like(x)

    of = flops.given(model, 3, 4)
    for _ in editing.edit(velocity, of.x, of.texts, of.trajectory.__getitem__, model.schedule(4), recipe, 2):
        pass
    assert max(seen) == memory.most_rows(recipe, 3)


@pytest.mark.parametrize(("rows", "edits"), [(0, 1), (3, 1), (8, 2), (9, 4), (16, 4), (17, 8), (33, 16), (10**6, 16)])
def test_what_fits_is_a_power_of_two(rows: int, edits: int) -> None:
    """N edits take 2N + 1 rows; at least one is tried, and more than 16 gain nothing."""
    assert memory.edits_that_fit(rows * 1000, 1000, SHARED) == edits


def test_a_number_given_is_taken_and_one_chosen_stays(model: VideoModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is free: a number in the settings wins; the automatic one is found once a process and kind of work."""
    latents = model.latents(9, 48, 48)
    row = memory.row_bytes(model.transformer.config, latents, torch.float32)
    assert latents == (3, 8, 12, 12)
    for rows, expected in ((9, 4), (3, 4)):
        monkeypatch.setattr(memory, "free_bytes", lambda _, rows=rows: rows * row)
        assert batching.edits_per_batch(model, EngineSpec(), SHARED, latents) == expected
    assert batching.edits_per_batch(model, EngineSpec(edits_per_batch=7), SHARED, latents) == 7
    assert batching.edits_per_batch(model, EngineSpec(), unwindowed(name="other"), latents) == 1
    assert batching.told(model, EngineSpec(), SHARED, latents).endswith(" MiB a row, up to 4 edits (9 rows) a call")


def test_a_container_s_limit_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the system has more memory than the container may use, the container's rest counts; "max" is no limit."""
    cpu, limit = torch.device("cpu"), tmp_path / "memory.max"
    monkeypatch.setattr(memory, "CONTAINER_LIMITS", (str(tmp_path / "missing"), str(limit)))
    limit.write_text("max\n")
    free = memory.free_bytes(cpu)
    assert 0 < free < memory.psutil.virtual_memory().total
    limit.write_text("1000\n")
    assert memory.free_bytes(cpu) == 0
    used = memory.psutil.Process().memory_info().rss
    limit.write_text(f"{used + 200_000_000}\n")
    assert 0 < memory.free_bytes(cpu) <= 150_000_000 < free


def test_memory_that_ran_out_is_known_by_its_words() -> None:
    """torch's allocator on the CPU raises a plain RuntimeError; other RuntimeErrors are bugs."""
    with pytest.raises(RuntimeError) as refused:
        torch.empty(2**50, dtype=torch.uint8)
    for error in (refused.value, MemoryError(), torch.OutOfMemoryError("CUDA out of memory")):
        assert ran_out_of_memory(error) and kind_of(error) == ("out_of_memory", False)
    for error in (RuntimeError("shapes do not match"), ValueError("DefaultCPUAllocator")):
        assert not ran_out_of_memory(error) and kind_of(error) == ("bug", False)


class Held:
    """Stands for a tensor."""


def test_memory_is_halved_until_it_suffices(caplog: pytest.LogCaptureFixture) -> None:
    """9 edits, room for 3: 9, 4, then 2 are tried; each failure is told and its tensors are gone before the next try;
    what is left later starts with 2."""
    room, tried, held = memory.Room(), [], []

    def run(part: list[int]) -> list[int]:
        assert all(ref() is None for ref in held)
        tensor = Held()
        held.append(weakref.ref(tensor))
        tried.append(len(part))
        if len(part) > 3:
            raise MemoryError(tensor)
        return part

    with caplog.at_level(logging.WARNING, memory.__name__):
        assert memory.as_many_as_fit(list(range(9)), room, run, "clip 'a.mp4'") == ([0, 1], [0, 1])
        assert memory.as_many_as_fit([7, 8, 9], room, run, "clip 'a.mp4'") == ([7, 8], [7, 8])
    assert tried == [9, 4, 2, 2]
    assert [record.getMessage() for record in caplog.records] == [
        "memory ran out with 9 edits in a call; going on with 4",
        "memory ran out with 4 edits in a call; going on with 2",
    ]


def test_one_edit_that_does_not_fit_is_an_error_with_a_remedy() -> None:
    """It is of the class out_of_memory, is not tried again, and names the clip and the fields that help."""

    def run(part: list[int]) -> None:
        raise MemoryError

    with pytest.raises(OutOfMemory, match=r"clip 'a\.mp4'.*model.dtype") as failed:
        memory.as_many_as_fit([1, 2], memory.Room(), run, "clip 'a.mp4'")
    assert kind_of(failed.value) == ("out_of_memory", False)


def test_other_errors_pass_at_once() -> None:
    """Only lack of memory makes a call smaller."""
    tried = []

    def run(part: list[int]) -> None:
        tried.append(len(part))
        raise ValueError

    with pytest.raises(ValueError):
        memory.as_many_as_fit([1, 2], memory.Room(), run, "x")
    assert tried == [2]


@pytest.mark.gpu
def test_a_full_gpu_halves_the_batch() -> None:
    """Where CUDA really runs out, half of the work is done on the same card afterwards."""
    card, room = torch.device("cuda"), memory.Room()
    size = torch.cuda.mem_get_info(card)[0] // 3

    def run(part: list[int]) -> int:
        return sum(len(x) for x in [torch.empty(size, dtype=torch.uint8, device=card) for _ in part])

    part, done = memory.as_many_as_fit([1, 2, 3, 4], room, run, "x")
    assert (len(part), done, room.most) == (2, 2 * size, 2)
