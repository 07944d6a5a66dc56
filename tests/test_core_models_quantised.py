"""Folders of weights in 8 bits, as diffusers and torchao save them in safetensors; all others are refused."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import CogVideoXTransformer3DModel, TorchAoConfig
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig

from cogvideo_core.errors import BadSpec, ModelError
from cogvideo_core.models import model, placement, quantised
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.study import flops

CONFIGS = {"int8": Int8WeightOnlyConfig, "int8_dynamic": Int8DynamicActivationInt8WeightConfig}
FILE = "transformer/diffusion_pytorch_model.safetensors"


def saved(plain: Path, folder: Path, kind: str) -> Path:
    """A copy whose transformer diffusers has quantised and saved, with its defaults."""
    shutil.copytree(plain, folder)
    shutil.rmtree(folder / "transformer")
    how = TorchAoConfig(CONFIGS[kind]())
    part = CogVideoXTransformer3DModel.from_pretrained(
        plain, subfolder="transformer", quantization_config=how, torch_dtype=torch.bfloat16
    )
    part.save_pretrained(folder / "transformer")
    return folder


@pytest.fixture(scope="module")
def folders(tiny_pipeline_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("quantised")
    return {kind: saved(tiny_pipeline_folder, root / kind, kind) for kind in CONFIGS}


def edited(of: VideoModel) -> torch.Tensor:
    return flops.shared(of, flops.given(of, 3, 4))


@pytest.mark.parametrize(("kind", "tolerance"), [("int8", 0.05), ("int8_dynamic", 0.08)])
def test_a_folder_in_8_bits_edits_as_the_plain_one(
    folders: dict[str, Path], tiny_pipeline_folder: Path, kind: str, tolerance: float
) -> None:
    """What diffusers saved loads as it is: edits over a reference lie within 5 and 8 % of the plain folder's, by norm;
    its weights are torchao's, half of the file's size in 16 bits; it has a fingerprint of its own."""
    plain = model.load(ModelSpec(path=str(tiny_pipeline_folder), dtype="bfloat16"))
    low = model.load(ModelSpec(path=str(folders[kind]), dtype="bfloat16"))
    want, got = edited(plain), edited(low)
    assert 0 < float((got - want).norm() / want.norm()) < tolerance
    assert low.spec.weights == kind and low.fingerprint != plain.fingerprint
    assert type(low.transformer.transformer_blocks[0].attn1.to_q.weight).__name__ == "Int8Tensor"
    assert (folders[kind] / FILE).stat().st_size < 0.4 * (tiny_pipeline_folder / FILE).stat().st_size


def test_the_plan_knows_what_it_holds(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its precision on a GPU is the one that it was quantised from, its weights count one byte each, and it is not
    shrunk again."""
    spec = ModelSpec(path=str(folders["int8"]), fit="auto")
    monkeypatch.setattr(placement, "chosen_device", lambda spec: torch.device("cuda"))
    monkeypatch.setattr(placement, "total_bytes", lambda device: 2**40)
    found = placement.placed(spec)
    assert (found.dtype, found.weights, found.offload) == ("bfloat16", "int8", "none")
    size = (folders["int8"] / FILE).stat().st_size
    held = placement.held_bytes(found, placement.weight_bytes(folders["int8"] / "transformer", "bfloat16"))
    assert 0.5 * size < held < size


@pytest.mark.parametrize(
    ("fields", "error", "words"),
    [
        ({"weights": "float8"}, BadSpec, r"weights: 'float8' is asked of a folder that holds int8; set it to stored"),
        ({"lora": "some.safetensors"}, ModelError, r"holds int8 weights, into which no LoRA can be merged; take"),
        ({"offload": "blocks", "device": "cuda"}, BadSpec, r"'int8' can't be combined with offload=blocks"),
    ],
)
def test_what_8_bits_rule_out_is_refused(
    folders: dict[str, Path], fields: dict[str, Any], error: type, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sentence, before a weight is read."""
    if "device" in fields:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(error, match=words):
        model.load(ModelSpec(path=str(folders["int8"]), **fields))


def test_without_torchao_it_is_said(folders: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    """The package that reads such a folder is named."""
    monkeypatch.setattr(quantised.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"holds int8 weights of torchao; install cogvideo-edit\[int8\]"):
        model.load(ModelSpec(path=str(folders["int8"])))
    assert sys.modules["torchao"]


def config(**about: Any) -> Callable[[Path], None]:
    """Another quantization_config in the transformer's config.json."""
    return in_part("transformer", **about)


def in_part(part: str, **about: Any) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / part / "config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"quantization_config": about}))

    return change


def metadata(change: Callable[[dict[str, str]], dict[str, str]]) -> Callable[[Path], None]:
    """Other descriptions in the weight file."""

    def damage(folder: Path) -> None:
        with safe_open(folder / FILE, framework="pt") as opened:
            about = dict(opened.metadata())
        save_file(load_file(folder / FILE), folder / FILE, change(about))

    return damage


def without(suffix: str) -> Callable[[Path], None]:
    """A file that lacks the tensors of that name."""

    def damage(folder: Path) -> None:
        with safe_open(folder / FILE, framework="pt") as opened:
            about = dict(opened.metadata())
        kept = {name: values for name, values in load_file(folder / FILE).items() if not name.endswith(suffix)}
        save_file(kept, folder / FILE, about)

    return damage


WEIGHT = "transformer_blocks.0.attn1.to_q.weight"
FOREIGN = {"_type": "Int8WeightOnlyConfig", "_version": 2, "_data": {"granularity": {"_type": "os", "_data": {}}}}
DAMAGE = {
    "bitsandbytes": (config(quant_method="bitsandbytes", load_in_8bit=True), "weights by bitsandbytes, where only"),
    "4 bits": (config(quant_method="torchao", quant_type={"default": {"_type": "Int4WeightOnlyConfig"}}), "by torchao"),
    "another class": (config(quant_method="torchao", quant_type={"default": FOREIGN}), "by torchao"),
    "several": (config(quant_method="torchao", quant_type={"a": FOREIGN, "b": FOREIGN}), "by torchao"),
    "no method": (config(), "quantised weights, where only"),
    "text encoder": (in_part("text_encoder", quant_method="torchao"), "text_encoder.*; take .* set model.text_weights"),
    "a tensor's class": (metadata(lambda about: about | {WEIGHT: '{"_type": "NVFP4Tensor"}'}), "as a NVFP4Tensor"),
    "undescribed": (metadata(lambda about: {"format": "pt"}), "does not describe its quantised weights"),
    "garbled": (metadata(lambda about: about | {WEIGHT: "{"}), "does not describe its quantised weights"),
    "no list": (metadata(lambda about: about | {"tensor_names": "7"}), "does not describe its quantised weights"),
    "no values": (without("_weight_qdata"), r"holds no .*weight"),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_other_quantised_folders_are_refused(folders: dict[str, Path], tmp_path: Path, case: str) -> None:
    """Other methods, other classes and files that don't say what they hold: one sentence, before weights are read."""
    damage, words = DAMAGE[case]
    folder = Path(shutil.copytree(folders["int8"], tmp_path / "m"))
    damage(folder)
    with pytest.raises(ModelError, match=words) as refused:
        model.load(ModelSpec(path=str(folder)))
    assert "\n" not in str(refused.value) and "; " in str(refused.value)
