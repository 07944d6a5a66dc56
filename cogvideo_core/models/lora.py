"""LoRA adapters: which files are meant, and their merging into the transformer's weights, checked weight by weight."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import snapshot_download
from safetensors import safe_open
from torch import Tensor

from cogvideo_core.errors import BadSpec, ModelError
from cogvideo_core.models.lora_names import Adapter, adapters, unfit
from cogvideo_core.settings.specs import ModelSpec

ABOUT = {"r", "lora_alpha", "alpha_pattern", "use_rslora"}
"""What is taken over from a file's own description; peft would also import a module that is named there."""
ROUNDING = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 3e-3}
"""How far a merged weight may be from W + scale · B A, as a share of the longer of W and the change."""


class Lora(NamedTuple):
    """One file and its strength."""

    file: Path
    scale: float


def named(spec: ModelSpec) -> list[tuple[str, float]]:
    """("a.safetensors", scale) of each LoRA in `spec.lora`: one, or several with commas between, each with *scale."""
    if not spec.lora or Path(spec.lora).exists():
        return [(spec.lora, spec.lora_scale)] if spec.lora else []
    found = []
    for part in (part.strip() for part in spec.lora.split(",")):
        name, star, text = part.rpartition("*")
        try:
            own = float(text) if star else 1.0
        except ValueError:
            raise BadSpec(f"field lora: {part!r} ends in no number after *; write file.safetensors*0.5") from None
        if not (name if star else part) or not -4 <= own <= 4:
            raise BadSpec(f"field lora: {part!r} names no file, or a scale outside -4 .. 4; write file.safetensors*0.5")
        found.append(((name if star else part).strip(), own * spec.lora_scale))
    return found


def lora_files(spec: ModelSpec) -> list[Lora]:
    """The one safetensors file of each LoRA, which is a file, a folder or a hub id. Raises ModelError, BadSpec."""
    return [Lora(_file(name), scale) for name, scale in named(spec)]


def _file(name: str) -> Path:
    path = Path(name)
    if not path.exists():
        path = _downloaded(name)
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if [file.suffix for file in files] != [".safetensors"]:
        found = f"{len(files)} safetensors files" if path.is_dir() else f"a {path.suffix or 'nameless'} file"
        raise ModelError(f"field lora: {name!r} is {found}; give one .safetensors file, pickles are never loaded")
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
    try:
        parts = named(spec)
    except BadSpec:
        parts = [(spec.lora, spec.lora_scale)]
    return " + ".join([spec.path, *(f"{name} x {scale:g}" for name, scale in parts)])


def add_loras(pipe: Any, loras: list[Lora]) -> dict[str, str]:
    """Merges LoRAs, each times its scale, into the transformer's weights; returns {"lora": their name in keys}.

    Merged, they add nothing to a call's cost, and offloading sees plain weights. Raises ModelError where a tensor
    has no place, or a merged weight is not what the file says.
    """
    for one in loras:
        _add(pipe, one)
    names = (f"{hashlib.sha256(one.file.read_bytes()).hexdigest()} x {one.scale}" for one in loras)
    return {"lora": " + ".join(names)} if loras else {}


def _add(pipe: Any, lora: Lora) -> None:
    shown_file = str(lora.file)
    modules = {name: part for name, part in pipe.transformer.named_modules() if isinstance(part, torch.nn.Linear)}
    found = _adapters(lora.file, modules)
    expected = {name: _products(shown_file, modules[name], adapter, lora.scale) for name, adapter in found.items()}
    if lora.scale and not any(bool((after != before).any()) for before, after, _ in expected.values()):
        raise unfit(shown_file, "it would change no weight (its lora_B are zero)", "give one that was trained")
    try:
        pipe.load_lora_into_transformer(_as_diffusers(found), pipe.transformer, adapter_name="edit")
        pipe.fuse_lora(components=["transformer"], lora_scale=lora.scale)
        pipe.unload_lora_weights()
    except Exception as error:  # peft and diffusers raise many kinds; all mean that it is for another model
        why = f"it could not be merged ({type(error).__name__})"
        raise unfit(shown_file, why, "give a LoRA that was trained on this model") from error
    merged = {name: part for name, part in pipe.transformer.named_modules() if name in found}
    for name, (before, after, probe) in expected.items():
        got = merged[name].weight.float() @ probe
        if (got - after).norm() > ROUNDING[merged[name].weight.dtype] * max(before.norm(), after.norm()):
            raise unfit(shown_file, f"{name!r} was not merged as the file says", "convert it to diffusers' names first")


def _adapters(file: Path, modules: dict[str, Any]) -> dict[str, Adapter]:
    try:
        with safe_open(file, framework="pt") as opened:
            tensors = {name: opened.get_tensor(name).float() for name in opened.keys()}  # noqa: SIM118 - it is no dict
            about: Any = json.loads((opened.metadata() or {}).get("lora_adapter_metadata", "{}"))
    except Exception as error:  # the library raises its own kind for a damaged file
        raise unfit(str(file), f"it can't be read ({type(error).__name__})", "download it again") from error
    told = (
        {name.removeprefix("transformer."): value for name, value in about.items()} if isinstance(about, dict) else {}
    )
    return adapters(str(file), tensors, modules, {name: told[name] for name in ABOUT & told.keys()})


def _products(file: str, part: torch.nn.Linear, adapter: Adapter, scale: float) -> tuple[Tensor, Tensor, Tensor]:
    """(W p, W' p, p) for a random p [in] and the weight W' that the merging should give: Freivalds' check, which needs
    no copy of the weights. DoRA: W' = m (W + scale · B A), its rows divided by their norms."""
    down, up = adapter.down, adapter.up
    assert down is not None and up is not None
    out, into = part.weight.shape
    if (len(up), down.shape[1]) != (out, into) or (adapter.magnitude is not None and adapter.magnitude.numel() != out):
        problem = f"it is for weights of {len(up)}x{down.shape[1]}, where this transformer has {out}x{into}"
        raise unfit(file, problem, "give a LoRA that was trained on this model")
    probe = torch.randn(into, generator=torch.Generator().manual_seed(0)).to(part.weight.device)
    plain = part.weight.detach().float()
    before = plain @ probe
    after = before + scale * (up.to(probe) @ (down.to(probe) @ probe))
    if adapter.magnitude is not None:
        norms = (plain + scale * up.to(probe) @ down.to(probe)).norm(dim=1)
        after = adapter.magnitude.to(probe).flatten() * after / norms
    return before, after, probe


def _as_diffusers(found: dict[str, Adapter]) -> dict[str, Tensor]:
    """The tensors by diffusers' names; their alpha is folded in."""
    names = {"down": "lora_A.weight", "up": "lora_B.weight", "magnitude": "lora_magnitude_vector.weight"}
    weights: dict[str, Tensor] = {}
    for module, adapter in found.items():
        for field, name in names.items():
            if (values := getattr(adapter, field)) is not None:
                weights[f"transformer.{module}.{name}"] = values.flatten() if field == "magnitude" else values
    return weights
