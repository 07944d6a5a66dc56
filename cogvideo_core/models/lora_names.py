"""How published LoRA files name their tensors, brought to one form: module -> its A, B, alpha and DoRA magnitude.

It reads diffusers' and peft's names with any prefix and adapter name, `lora_down`/`lora_up` with `alpha`, and kohya's
names, whose underscores replace the dots of module names.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cogvideo_core.errors import ModelError

PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "model.", "module.", "unet.")
FLAT = re.compile(r"lora_(?:unet|transformer)_+")
KINDS = (
    (re.compile(r"\.lora_A(?:\.[\w-]+)?\.weight$|\.lora_down(?:\.[\w-]+)?\.weight$|\.lora\.down\.weight$"), "down"),
    (re.compile(r"\.lora_B(?:\.[\w-]+)?\.weight$|\.lora_up(?:\.[\w-]+)?\.weight$|\.lora\.up\.weight$"), "up"),
    (re.compile(r"\.lora_magnitude_vector(?:\.[\w-]+)?(?:\.weight)?$|\.dora_scale$"), "magnitude"),
    (re.compile(r"\.alpha$"), "alpha"),
)
TEXT = re.compile(r"^(?:lora_te\d*_|text_encoder|te\d*\.|cond_stage_model)")
SAT = re.compile(r"matrix_[AB]\b|attention\.query_key_value|attention\.dense|mlp\.dense_h_to_4h")
RENAME = "the naming is at fault, not the training"


@dataclass
class Adapter:
    """What a file says of one module: down [r,in], up [out,r], magnitude [out] for DoRA, alpha."""

    down: Tensor | None = None
    up: Tensor | None = None
    magnitude: Tensor | None = None
    alpha: float | None = None


def adapters(
    file: str, tensors: Mapping[str, Tensor], modules: Iterable[str], about: Mapping[str, Any]
) -> dict[str, Adapter]:
    """Module name of the transformer -> its adapter, alpha folded in: the change of a weight is up · down.

    `about` is what the file says of rank and alpha. Raises ModelError unless each tensor has its place.
    """
    known = set(modules)
    flat = {name.replace(".", "_"): name for name in known}
    found: dict[str, Adapter] = {}
    for name, values in tensors.items():
        module, kind = place(file, name, known, flat)
        if not bool(torch.isfinite(values).all()):
            raise unfit(file, f"{name!r} holds values that are no finite numbers", "train or download it again")
        adapter = found.setdefault(module, Adapter())
        if getattr(adapter, kind) is not None:
            raise unfit(file, f"two tensors for {module!r}", "give a file with one adapter")
        setattr(adapter, kind, float(values) if kind == "alpha" else values)
    if not found:
        raise unfit(file, "it holds no tensors", "give a LoRA")
    for module, adapter in found.items():
        fold(file, module, adapter, about)
    return found


def place(file: str, name: str, known: set[str], flat: Mapping[str, str]) -> tuple[str, str]:
    """(module, down | up | magnitude | alpha) of a tensor's name. Raises ModelError."""
    if TEXT.search(name):
        problem = f"{name!r} is for a text encoder; {RENAME}: only the transformer's part can be used here"
        raise unfit(file, problem, "save the transformer's LoRA alone")
    if SAT.search(name):
        problem = f"{name!r} is named as SAT, the model's first code base, names it; {RENAME}"
        raise unfit(file, problem, "convert it to diffusers' names first")
    for pattern, kind in KINDS:
        if match := pattern.search(name):
            if module := module_of(name[: match.start()], known, flat):
                return module, kind
            problem = f"{name!r} is for no module of this transformer"
            raise unfit(file, problem, "give a LoRA that was trained on this model")
    problem = f"{name!r} is named as no LoRA's tensor that is known here; {RENAME}"
    raise unfit(file, problem, "convert it to diffusers' names first")


def module_of(stem: str, known: set[str], flat: Mapping[str, str]) -> str:
    """The module that a tensor's name without its ending refers to, or ""."""
    if match := FLAT.match(stem):
        return flat.get(stem[match.end() :], "")
    while stem not in known:
        prefix = next((prefix for prefix in PREFIXES if stem.startswith(prefix)), "")
        if not prefix:
            return flat.get(stem, "")
        stem = stem.removeprefix(prefix)
    return stem


def fold(file: str, module: str, adapter: Adapter, about: Mapping[str, Any]) -> None:
    """Multiplies alpha / rank into `up`. Raises ModelError for a missing half or shapes that don't match."""
    down, up = adapter.down, adapter.up
    if down is None or up is None:
        raise unfit(file, f"{module!r} has only half of its tensors", "download or save it again")
    if down.dim() != 2 or up.dim() != 2 or len(down) != up.shape[1]:
        raise unfit(
            file, f"{module!r} has tensors of {list(down.shape)} and {list(up.shape)}", "give a LoRA of linear layers"
        )
    rank = len(down)
    alpha = adapter.alpha if adapter.alpha is not None else _said(about, module)
    if alpha is None:
        return
    factor = alpha / (rank**0.5 if about.get("use_rslora") else rank)
    adapter.up, adapter.alpha = up * factor, None


def _said(about: Mapping[str, Any], module: str) -> float | None:
    """Alpha by the file's description: per module, else for all."""
    for pattern, value in dict(about.get("alpha_pattern") or {}).items():
        if module == pattern or module.endswith(f".{pattern}"):
            return float(value)
    value = about.get("lora_alpha")
    return None if value is None else float(value)


def unfit(file: str, problem: str, remedy: str) -> ModelError:
    return ModelError(f"field lora: {file!r} does not fit this transformer: {problem}; {remedy}")
