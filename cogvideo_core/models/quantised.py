"""A transformer whose folder holds weights in 8 bits: as diffusers saves what torchao has quantised, in safetensors.

Its config.json says how. A weight `layer.weight` lies in the file as `layer._weight_qdata`, `layer._weight_scale` and
so on; the file's metadata say of each weight what its parts make up. Both are checked before a weight is read: classes
other than those of 8-bit weights are refused. Format: torchao.prototype.safetensors, diffusers' TorchAoConfig.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from safetensors import safe_open

from cogvideo_core.errors import BadSpec
from cogvideo_core.models.checkpoint_files import Shapes, read_json, unusable, weight_files
from cogvideo_core.settings.specs import ModelSpec

KINDS = {"Int8WeightOnlyConfig": "int8", "Int8DynamicActivationInt8WeightConfig": "int8_dynamic"}
ALLOWED = {*KINDS, "PerRow", "PerTensor", "PerGroup", "MappingType", "torch.dtype"}  # in a configuration
TENSORS = {"Tensor", "Int8Tensor"}
PART = re.compile(r"(.+)\._(\w+?)_(qdata|scale|zero_point)")


def check_quantised(folder: Path) -> None:
    """Refuses weights that are stored quantised, but for those of a transformer in torchao's 8 bits. Raises
    ModelError."""
    for part, field in (("transformer", "weights"), ("text_encoder", "text_weights"), ("vae", "vae_dtype")):
        about = _about(folder / part)
        if about is not None and not (part == "transformer" and _kind(about)):
            how = str(about.get("quant_method", ""))[:40] if isinstance(about, dict) else ""
            named = f" by {how}" if how else ""
            problem = f"holds quantised weights{named}, where only a transformer's can be, in torchao's int8"
            raise unusable(folder / part, problem, f"take it in 16 or 32 bits, and set model.{field}")


def kind_of(folder: Path) -> str:
    """What `ModelSpec.weights` calls the transformer's stored weights; "stored" where they are not quantised."""
    return _kind(_about(folder / "transformer")) or "stored"


def held_as(spec: ModelSpec, folder: Path) -> ModelSpec:
    """The settings with `weights` as the folder has them. Raises BadSpec for others, and for what they rule out."""
    kind = kind_of(folder)
    if kind == "stored" or spec.weights == kind:
        return spec
    if spec.weights != "stored":
        raise BadSpec(f"field model.weights: {spec.weights!r} is asked of a folder that holds {kind}; set it to stored")
    return spec.model_copy(update={"weights": kind})


def check_loadable(spec: ModelSpec, folder: Path) -> None:
    """Refuses what can't be done to a quantised transformer. Raises ModelError."""
    if (kind := kind_of(folder)) == "stored":
        return
    if not importlib.util.find_spec("torchao"):
        raise unusable(folder / "transformer", f"holds {kind} weights of torchao", "install cogvideo-edit[int8]")
    if spec.lora:
        problem = f"holds {kind} weights, into which no LoRA can be merged"
        raise unusable(folder / "transformer", problem, "take it in 16 or 32 bits, and set model.weights")


def stored_dtype(part: Path) -> str:
    """The precision that quantised weights stand for: "bfloat16"; "" where the files don't say."""
    found = (_dtype(about) for _, about in _described(part))
    return next(filter(None, found), "")


def joined(part: Path, shapes: Shapes) -> Shapes:
    """name -> shape of the weights that a file's tensors make up. Raises ModelError for tensors of other classes."""
    for name, about in _described(part):
        if about.get("_type") not in TENSORS:
            kind = str(about.get("_type"))[:40]
            raise unusable(
                part,
                f"holds {name} as a {kind}, which can't be loaded",
                "take it in 16 or 32 bits, and set model.weights",
            )
    plain = {name: shape for name, shape in shapes.items() if not PART.fullmatch(name)}
    data = [(PART.fullmatch(name), shape) for name, shape in shapes.items()]
    return plain | {f"{found[1]}.{found[2]}": shape for found, shape in data if found and found[3] == "qdata"}


def _about(part: Path) -> Any:
    path = part / "config.json"
    return read_json(path).get("quantization_config") if path.is_file() else None


def _kind(about: Any) -> str:
    """ "int8", "int8_dynamic", or "" for anything else."""
    if not isinstance(about, dict) or about.get("quant_method") != "torchao" or not _named(about) <= ALLOWED:
        return ""
    chosen = about.get("quant_type")
    default = chosen.get("default") if isinstance(chosen, dict) and set(chosen) == {"default"} else None
    return KINDS.get(str(default.get("_type")), "") if isinstance(default, dict) else ""


def _named(value: Any) -> set[str]:
    """All classes that a configuration names, however deep."""
    inner = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    own = {str(value["_type"])} if isinstance(value, dict) and "_type" in value else set[str]()
    return own.union(*map(_named, inner))


def _described(part: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(name, description) of each weight, from the files' metadata. Raises ModelError."""
    for file in weight_files(part):
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
        try:
            names = json.loads(metadata.get("tensor_names", "[]"))
            found = [(str(name), json.loads(metadata[name])) for name in names]
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise unusable(file, "does not describe its quantised weights") from error
        if not found or not all(isinstance(about, dict) for _, about in found):
            raise unusable(file, "does not describe its quantised weights")
        yield from found


def _dtype(about: dict[str, Any]) -> str:
    data = about.get("_data")
    named = data.get("dtype") if isinstance(data, dict) else None
    found = str(named.get("_data")) if isinstance(named, dict) else ""
    return found if found in ("float32", "bfloat16", "float16") else ""
