"""Model options beside the engine: precisions, CPU offload, LoRA adapters, and what is refused."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from diffusers import FirstBlockCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks import apply_first_block_cache
from safetensors.torch import save_file
from torch import Tensor

from cogvideo_core.diffusion.attention import Reference
from cogvideo_core.errors import BadSpec, ModelError
from cogvideo_core.models import model
from cogvideo_core.models.lora import shown
from cogvideo_core.models.model import VideoModel
from cogvideo_core.models.placement import chosen_device
from cogvideo_core.settings.specs import ModelSpec, fingerprint
from cogvideo_core.shapes import build, world
from cogvideo_core.stages.prompts import prompt_spec
from cogvideo_core.stages.units import InversionSpec, trajectory_spec
from cogvideo_core.study import flops

RANK, ALPHA = 4, 8
STEPS = 4


def edited(of: VideoModel) -> Tensor:
    """Three edits over a shared reference row, denoised to the end."""
    return flops.shared(of, flops.given(of, 3, STEPS))


@pytest.fixture(scope="module")
def plain(tiny_pipeline_folder: Path) -> VideoModel:
    return model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cpu"))


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_edits_in_16_bits_stay_near(
    plain: VideoModel, tiny_pipeline_folder: Path, dtype: str, tolerance: float
) -> None:
    """Final latents of whole edits lie within 5 % (bfloat16) and 1 % (float16) of float32's, by norm."""
    low = model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cpu", dtype=dtype))
    want, got = edited(plain), edited(low)
    assert got.dtype == torch.float32
    assert 0 < (got - want).norm() / want.norm() < tolerance


def offloaded(how: str) -> VideoModel:
    """accelerate's hooks as diffusers sets them, with the CPU in the GPU's place: weights come and go all the same."""
    pipe = build.build_pipeline("5b")
    if how == "model":
        pipe.enable_model_cpu_offload(device="cpu")
    else:  # diffusers would ask for "cpu:0", which accelerate does not take for the CPU
        for part in (pipe.text_encoder, pipe.transformer, pipe.vae):
            cpu_offload(part, torch.device("cpu"), offload_buffers=bool(part._parameters))
    return VideoModel(pipe, ModelSpec())


EIGHT_BITS = ["int8", "int8_dynamic", "float8"]


@pytest.mark.parametrize(("weights", "tolerance"), [("int8", 0.01), ("int8_dynamic", 0.03), ("float8", 0.05)])
def test_edits_with_weights_in_8_bits_stay_near(
    plain: VideoModel, tiny_pipeline_folder: Path, weights: str, tolerance: float
) -> None:
    """Final latents of whole edits over a shared reference lie within 1, 3 and 5 % of float32's, by norm, and are not
    the same; activations and states keep their precision."""
    low = model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cpu", dtype="float32", weights=weights))
    want, got = edited(plain), edited(low)
    assert got.dtype == torch.float32 and low.transformer.dtype == torch.float32
    assert 0 < float((got - want).norm() / want.norm()) < tolerance


@pytest.mark.parametrize("weights", EIGHT_BITS)
def test_weights_in_8_bits_leave_edits_independent_of_their_batch(tiny_pipeline_folder: Path, weights: str) -> None:
    """Two edits over one reference row equal the same edits one by one within 1e-4: activations too are rounded token
    by token, not over the batch."""
    low = model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cpu", dtype="float32", weights=weights))
    of = flops.given(low, 2, STEPS)
    together = flops.shared(low, of)
    alone = torch.cat([flops.shared(low, of.one(edit)) for edit in range(2)])
    assert float((together - alone).abs().max()) < 1e-4


def test_weights_in_8_bits_are_part_of_the_keys(plain: VideoModel, tiny_pipeline_folder: Path) -> None:
    """Each way of holding weights gives trajectories keys of their own; `stored` is not named, so old keys hold."""
    specs = [trajectory_spec("0" * 64, InversionSpec(), plain, "")]
    for weights in EIGHT_BITS:
        low = model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cpu", weights=weights))
        specs.append(trajectory_spec("0" * 64, InversionSpec(), low, ""))
        assert low.fingerprint != plain.fingerprint
    assert len({fingerprint(spec) for spec in specs}) == 4 and "weights" not in specs[0]


def test_the_text_encoder_can_stay_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """By default it goes where the model is; with text_device=cpu it does not."""
    pipe = build.build_pipeline("5b")
    monkeypatch.setattr(type(pipe), "_execution_device", property(lambda _: torch.device("meta")))
    assert VideoModel(pipe, ModelSpec()).text_encoder.device.type == "meta"
    here = VideoModel(pipe, ModelSpec(text_device="cpu"))
    assert here.device.type == "meta" and here.text_encoder.device.type == "cpu"
    assert here.embed(["a red circle"]).device.type == "cpu"


def test_missing_torchao_is_said(tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package, the message names the field, the package and what works without it."""
    monkeypatch.setitem(sys.modules, "torchao", None)
    with pytest.raises(ModelError, match=r"field model.weights: 'int8' needs the package torchao; .*float8"):
        model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cpu", weights="int8"))
    model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cpu", weights="float8"))


def test_8_bits_and_sequential_offload_are_refused() -> None:
    """The combination that accelerate can't move is refused before a weight is read."""
    with pytest.raises(BadSpec, match=r"field weights: 'int8' can't be combined with offload=sequential"):
        chosen_device(ModelSpec(weights="int8", offload="sequential"))


@pytest.mark.parametrize("how", ["model", "sequential"])
def test_offloaded_models_edit_the_same(how: str) -> None:
    """Prompts, latents, edits over a reference row and frames are equal to the bit, and the weights are gone again."""
    here, away = VideoModel(build.build_pipeline("5b"), ModelSpec()), offloaded(how)
    frames = world.render(world.scene_from_seed(3))
    latents = here.encode(frames)
    for _ in range(2):
        assert torch.equal(away.embed(["a red circle"]), here.embed(["a red circle"]))
        assert torch.equal(away.encode(frames), latents)
        assert torch.equal(edited(away), edited(here))
        assert np.array_equal(away.decode(latents), here.decode(latents))
    assert how == "model" or all(weight.device.type == "meta" for weight in away.transformer.parameters())


@pytest.mark.gpu
def test_a_gpu_computes_what_the_cpu_does(plain: VideoModel, tiny_pipeline_folder: Path) -> None:
    """In float32, without TF32: prompts, latents, edits over a reference row, frames."""
    there = model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cuda"))
    frames, prompts = world.render(world.scene_from_seed(3)), ["a red circle"]
    latents = plain.encode(frames)
    assert (there.embed(prompts).cpu() - plain.embed(prompts)).abs().max() < 1e-5
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):  # convolutions have it by default
        assert (there.encode(frames).cpu() - latents).abs().max() < 1e-4
        assert (edited(there).cpu() - edited(plain)).abs().max() < 1e-4
        assert np.abs(there.decode(latents).astype(int) - plain.decode(latents)).max() <= 1


@pytest.mark.gpu
@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 0.05), ("float16", 0.01)])
def test_edits_in_16_bits_stay_near_on_a_gpu(
    plain: VideoModel, tiny_pipeline_folder: Path, dtype: str, tolerance: float
) -> None:
    """Through CUDA's 16-bit kernels they are as near to float32's as on the CPU."""
    low = model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cuda", dtype=dtype))
    want, got = edited(plain), edited(low).cpu()
    assert 0 < (got - want).norm() / want.norm() < tolerance


@pytest.mark.gpu
@pytest.mark.parametrize("how", ["model", "sequential"])
def test_offloaded_models_edit_the_same_on_a_gpu(tiny_pipeline_folder: Path, how: str) -> None:
    """Loaded with `offload`, edits equal those of a model that stays on the GPU."""
    here, away = (
        model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cuda", offload=offload))
        for offload in ("none", how)
    )
    assert (edited(away) - edited(here)).abs().max() < 1e-5


def lora_weights(targets: tuple[str, ...] = ("to_q", "to_v", "to_out.0"), seed: int = 1) -> dict[str, Tensor]:
    """A seeded LoRA for the miniature, named as diffusers saves it."""
    draw, width, weights = torch.Generator().manual_seed(seed), 64, {}
    for layer in range(2):
        for target in targets:
            name = f"transformer.transformer_blocks.{layer}.attn1.{target}"
            weights[f"{name}.lora_A.weight"] = torch.randn(RANK, width, generator=draw) / 8
            weights[f"{name}.lora_B.weight"] = torch.randn(width, RANK, generator=draw) / 8
    return weights


def save_lora(path: Path, weights: dict[str, Tensor], about: dict[str, Any] | None = None) -> Path:
    described = {f"transformer.{name}": value for name, value in (about or {}).items()}
    save_file(weights, path, {"format": "pt"} | ({"lora_adapter_metadata": json.dumps(described)} if about else {}))
    return path


def merged_by_hand(weights: dict[str, Tensor], scale: float) -> VideoModel:
    """W + scale · B A in every target."""
    pipe = build.build_pipeline("5b")
    for name in {key.rsplit(".lora_", 1)[0] for key in weights}:
        layer = pipe.transformer.get_submodule(name.removeprefix("transformer."))
        layer.weight.data += scale * weights[f"{name}.lora_B.weight"] @ weights[f"{name}.lora_A.weight"]
    return VideoModel(pipe, ModelSpec())


@pytest.mark.parametrize(
    "about", [None, {"r": RANK, "lora_alpha": ALPHA, "target_modules": ["to_q", "to_v", "to_out.0"]}]
)
def test_a_lora_equals_its_weights_merged_by_hand(
    plain: VideoModel, tiny_pipeline_folder: Path, tmp_path: Path, about: dict[str, Any] | None
) -> None:
    """W + scale · alpha/rank · B A, alpha from the file where it says so: equal velocities within 1e-4, and not those
    without it. Nothing of peft is left in the way of the processors."""
    file = save_lora(tmp_path / "lora.safetensors", lora_weights(), about)
    adapted = model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cpu", lora=str(tmp_path), lora_scale=0.5))
    by_hand = merged_by_hand(lora_weights(), 0.5 * (ALPHA / RANK if about else 1))
    of = flops.given(plain, 2, 1)
    v = adapted.velocity(of.x, 500, of.texts.cond)
    assert (v - by_hand.velocity(of.x, 500, of.texts.cond)).abs().max() < 1e-4
    assert (v - plain.velocity(of.x, 500, of.texts.cond)).abs().max() > 0.01
    assert type(adapted.transformer.transformer_blocks[0].attn1.to_q) is torch.nn.Linear and file.exists()


def test_editing_with_a_lora_equals_duplicated_references(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    """One shared reference row gives what a duplicated one for each row gives, within 1e-4."""
    file = save_lora(tmp_path / "lora.safetensors", lora_weights())
    adapted = model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cpu", lora=str(file)))
    of = flops.given(adapted, 3, 1)
    layers, x_ref = range(adapted.layers), of.trajectory[1][None]
    together = adapted.velocity(
        torch.cat([x_ref, of.x]), 500, torch.cat([of.texts.reference, of.texts.cond]), Reference(1, layers)
    )
    for row in range(3):
        text = torch.cat([of.texts.reference, of.texts.cond[row : row + 1]])
        alone = adapted.velocity(torch.cat([x_ref, of.x[row : row + 1]]), 500, text, Reference(1, layers))
        assert (together[row + 1] - alone[1]).abs().max() < 1e-4


def test_a_lora_is_part_of_the_keys(plain: VideoModel, tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    """Its bytes and its scale change a trajectory's key, its name does not; without one the key is as it was."""

    def spec(of: VideoModel) -> dict[str, Any]:
        return trajectory_spec("0" * 64, InversionSpec(), of, "")

    def adapted(name: str, scale: float, seed: int) -> dict[str, Any]:
        file = save_lora(tmp_path / name, lora_weights(seed=seed))
        return spec(model.load(ModelSpec(path=str(tiny_pipeline_folder), lora=str(file), lora_scale=scale)))

    first = adapted("a.safetensors", 1.0, 1)
    assert first == adapted("b.safetensors", 1.0, 1)
    assert first != adapted("c.safetensors", 0.5, 1) and first != adapted("d.safetensors", 1.0, 2)
    assert set(spec(plain)["model"]) == {"transformer", "text_encoder", "scheduler"}
    assert spec(plain)["model"] == {k: v for k, v in first["model"].items() if k != "lora"}


@pytest.mark.parametrize("case", ["layer", "shape", "half", "no LoRA", "garbage"])
def test_a_lora_that_does_not_fit_is_refused(tiny_pipeline_folder: Path, tmp_path: Path, case: str) -> None:
    """Layers or shapes of another model, names of another tool, missing halves, other files: one sentence, no guess."""
    good, file = lora_weights(), tmp_path / "lora.safetensors"
    weights = {
        "layer": {name.replace("blocks.1", "blocks.7"): tensor for name, tensor in good.items()},
        "shape": {name: torch.zeros(len(tensor) + 4, tensor.shape[1] + 4) for name, tensor in good.items()},
        "half": {name: tensor for name, tensor in good.items() if "blocks.1" not in name or "lora_A" in name},
        "no LoRA": {"weight": torch.zeros(3)},
    }
    save_lora(file, weights.get(case, good))
    if case == "garbage":
        file.write_bytes(b"no safetensors at all")
    with pytest.raises(ModelError, match=r"field lora: .*lora\.safetensors.* does not fit this transformer"):
        model.load(ModelSpec(path=str(tiny_pipeline_folder), lora=str(file)))


@pytest.mark.parametrize("name", ["lora.bin", "lora.pt", "lora"])
@pytest.mark.parametrize("folder", [False, True])
def test_a_pickled_lora_is_refused_unopened(tmp_path: Path, name: str, folder: bool) -> None:
    """Whatever its name and wherever it lies, before the model is read."""
    (tmp_path / "here").mkdir()
    file = tmp_path / "here" / name
    torch.save(lora_weights(), file)
    with pytest.raises(ModelError, match=r"field lora: .*pickles are never loaded"):
        model.load(ModelSpec(lora=str(file.parent if folder else file)))


def test_two_loras_in_a_folder_or_none_at_all_are_refused(tmp_path: Path) -> None:
    """Which one is meant must be said."""
    for name in ("a", "b"):
        save_lora(tmp_path / f"{name}.safetensors", lora_weights())
    with pytest.raises(ModelError, match="2 safetensors files"):
        model.load(ModelSpec(lora=str(tmp_path)))
    with pytest.raises(ModelError, match="no hub id"):
        model.load(ModelSpec(lora=str(tmp_path / "missing")))
    with pytest.raises(ModelError, match="could not be had from the hub"):
        model.load(ModelSpec(lora="nobody/nothing"))


def test_tables_name_the_lora() -> None:
    """A dataset's reader sees what made it."""
    assert shown(ModelSpec(path="a/b", lora="c/d", lora_scale=0.5)) == "a/b + c/d x 0.5"
    assert shown(ModelSpec(path="a/b")) == "a/b"


def test_a_description_can_not_name_code(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    """What peft would import or do on a file's word alone is left out; the weights load as they are."""
    about = {"r": RANK, "lora_alpha": RANK, "target_modules": ["to_q", "to_v", "to_out.0"]}
    hostile = {"megatron_config": {"a": 1}, "megatron_core": "antigravity", "bias": "all", "use_dora": True}
    file = save_lora(tmp_path / "lora.safetensors", lora_weights(), about | hostile)
    adapted = model.load(ModelSpec(path=str(tiny_pipeline_folder), lora=str(file)))
    of = flops.given(adapted, 1, 1)
    wanted = merged_by_hand(lora_weights(), 1.0).velocity(of.x, 500, of.texts.cond)
    assert (adapted.velocity(of.x, 500, of.texts.cond) - wanted).abs().max() < 1e-4


def test_the_text_encoder_in_8_bits_stays_near(plain: VideoModel, tiny_pipeline_folder: Path) -> None:
    """Embeddings lie within 2 % of the stored weights' by norm and are not the same; its linear layers take a quarter
    of float32's bytes. Prompts and trajectories get keys of their own, and without torchao it is said."""
    low = model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cpu", text_weights="int8"))
    want, got = plain.embed(["a red circle moving left"]), low.embed(["a red circle moving left"])
    assert 0 < float((got - want).norm() / want.norm()) < 0.02
    layers = [m for m in low.pipe.text_encoder.modules() if isinstance(m, torch.nn.Linear)]
    assert layers and all(layer.weight.qdata.dtype == torch.int8 for layer in layers)
    assert low.fingerprint != plain.fingerprint
    for spec in (prompt_spec, lambda of, prompt: trajectory_spec("0" * 64, InversionSpec(), of, prompt)):
        assert spec(low, "")["text_weights"] == "int8" and "text_weights" not in spec(plain, "")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torchao", None)
        with pytest.raises(ModelError, match=r"field model.text_weights: 'int8' needs the package torchao; .*stored"):
            model.load(ModelSpec(path=str(tiny_pipeline_folder), text_weights="int8")).embed(["a red circle"])


def compiled(pipe: Any) -> None:
    pipe.transformer = torch.compile(pipe.transformer)


def compiled_blocks(pipe: Any) -> None:
    for block in pipe.transformer.transformer_blocks:
        block.compile()


def quantised(pipe: Any) -> None:
    pipe.transformer.hf_quantizer = object()


def quantised_later(pipe: Any) -> None:
    """Weights that were exchanged after loading."""
    layer = pipe.transformer.transformer_blocks[0].attn1.to_q
    layer.weight = torch.nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)


def broadcasting(pipe: Any) -> None:
    config = PyramidAttentionBroadcastConfig(
        spatial_attention_block_skip_range=2, current_timestep_callback=lambda: pipe.current_timestep
    )
    pipe.transformer.enable_cache(config)


def first_block_cache(pipe: Any) -> None:
    """Through diffusers' function, which leaves the model's own switch untouched."""
    apply_first_block_cache(pipe.transformer, FirstBlockCacheConfig())


# torch's own doing, when it imports its compiler
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
@pytest.mark.parametrize(
    ("change", "words"),
    [
        (compiled, "torch.compile"),
        (compiled_blocks, "torch.compile"),
        (quantised, "quantised"),
        (quantised_later, "quantised"),
        (broadcasting, "step cache"),
        (first_block_cache, "step cache"),
    ],
)
def test_what_would_bypass_the_engine_is_refused(change: Any, words: str) -> None:
    """A compiled or quantised transformer and one with a step cache: one sentence each, no wrong result."""
    pipe = build.build_pipeline("5b")
    change(pipe)
    with pytest.raises(ModelError, match=r"field model: .*not supported yet") as refused:
        VideoModel(pipe, ModelSpec())
    assert words in str(refused.value)
