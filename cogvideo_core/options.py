"""What a model may be given on top of its weights (LoRA), and what does not work with reference attention yet."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor

from cogvideo_core.errors import ModelError
from cogvideo_core.specs import ModelSpec

LORA_SETTINGS = {"r", "lora_alpha", "rank_pattern", "alpha_pattern", "target_modules", "use_rslora"}
"""What is taken over from a file's own description; peft would also import a module that is named there."""
NOT_CACHES = ("group_offloading", "layer_execution_tracker", "lazy_", "layerwise_casting", "peft_autocast")
"""Hooks of diffusers that change where weights lie and how they are stored, not what is computed."""


def check_config(folder: Path) -> None:
    """Refuses a folder whose weights are stored quantised. Raises ModelError."""
    for part in ("transformer", "text_encoder", "vae"):
        file = folder / part / "config.json"
        if file.is_file() and "quantization_config" in json.loads(file.read_text()):
            raise ModelError(f"field model: {str(folder / part)!r} {QUANTISED}")


QUANTISED = "holds quantised weights, which are not supported yet; take the checkpoint in 16 or 32 bits"


def check_transformer(transformer: Any) -> None:
    """Refuses what would go past our attention processors, or answer from an earlier call. Raises ModelError."""
    modules = list(transformer.modules())
    if any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in modules):
        raise ModelError(
            "field model: the transformer is compiled by torch.compile, which is not supported yet; "
            "give it as it was loaded"
        )
    if _quantised(transformer):
        raise ModelError(f"field model: the transformer {QUANTISED}")
    if _caches(modules) or transformer.is_cache_enabled:
        raise ModelError(
            "field model: a step cache is enabled on the transformer, which is not supported yet; "
            "call disable_cache() first"
        )


def _quantised(transformer: Any) -> bool:
    if getattr(transformer, "hf_quantizer", None) or "quantization_config" in transformer.config:
        return True
    return any(type(weight.data) is not Tensor or not weight.is_floating_point() for weight in transformer.parameters())


def _caches(modules: list[Any]) -> list[str]:
    """Names of diffusers' hooks that skip work."""
    registries = [module._diffusers_hook for module in modules if hasattr(module, "_diffusers_hook")]
    return [name for each in registries for name in each.hooks if not name.startswith(NOT_CACHES)]


def lora_file(spec: ModelSpec) -> Path | None:
    """The one safetensors file of `spec.lora`, which is a file, a folder or a hub id. Raises ModelError."""
    if not spec.lora:
        return None
    path = Path(spec.lora)
    if not path.exists():
        path = _downloaded(spec.lora)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if [file.suffix for file in files] != [".safetensors"]:
        found = f"{len(files)} safetensors files" if path.is_dir() else f"a {path.suffix or 'nameless'} file"
        raise ModelError(f"field lora: {spec.lora!r} is {found}; give one .safetensors file, pickles are never loaded")
    return files[0]


def _downloaded(name: str) -> Path:
    if name.count("/") != 1 or name.startswith((".", "/")):
        raise ModelError(f"field lora: {name!r} is no file, no folder and no hub id; give one with safetensors in it")
    try:
        return Path(snapshot_download(name, allow_patterns=["*.safetensors"]))
    except Exception as error:  # the hub raises many kinds; all mean the same to the user
        raise ModelError(
            f"field lora: {name!r} could not be had from the hub ({type(error).__name__}); "
            "check the id and the network, or download it and give the file"
        ) from error


def shown(spec: ModelSpec) -> str:
    """The model as tables name it."""
    return f"{spec.path} + {spec.lora} x {spec.lora_scale:g}" if spec.lora else spec.path


def add_lora(pipe: Any, file: Path | None, scale: float) -> dict[str, str]:
    """Adds a LoRA times its scale to the transformer's weights: {"lora": what names it in keys}, {} without one.

    It is merged, so that a call costs what it did and offloading sees plain weights. Raises ModelError.
    """
    if file is None:
        return {}
    try:
        weights, settings = _read(file)
        pipe.load_lora_into_transformer(weights, pipe.transformer, adapter_name="edit", metadata=settings)
    except Exception as error:  # peft and diffusers raise many kinds; all mean that it is for another model
        raise ModelError(f"field lora: {str(file)!r} {UNFIT} ({type(error).__name__})") from error
    taken = sum(".lora_" in name for name, _ in pipe.transformer.named_parameters())
    if taken != len(weights):
        raise ModelError(f"field lora: {str(file)!r} {UNFIT} ({taken} of its {len(weights)} tensors have a place)")
    pipe.fuse_lora(components=["transformer"], lora_scale=scale)
    pipe.unload_lora_weights()
    return {"lora": f"{hashlib.sha256(file.read_bytes()).hexdigest()} x {scale}"}


UNFIT = "does not fit this transformer; give a LoRA that was trained on it and saved by diffusers"


def _read(file: Path) -> tuple[dict[str, Tensor], dict[str, Any] | None]:
    """Tensors by name, and what the file says about their rank and scale."""
    with safe_open(file, framework="pt") as opened:
        weights = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - it is no dict
        about = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    return weights, {k: v for k, v in about.items() if k.removeprefix("transformer.") in LORA_SETTINGS} or None
