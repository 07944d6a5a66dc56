"""A component's weight files, looked at without reading a weight: are they whole, and do they hold what is needed?

Only headers and index files are read. Format of safetensors: 8 bytes with the header's length, the header as JSON (name
-> dtype, shape, data_offsets), then the data.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from cogvideo_core.errors import ModelError
from cogvideo_core.models.memory import ran_out_of_memory

PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}
LFS = b"version https://git-lfs"
LONGEST_HEADER = 100_000_000  # bytes, the library's own limit
MOST_SHOWN = 3
AGAIN = "download it again"
Shapes = dict[str, tuple[int, ...]]


def unusable(path: Path, problem: str, remedy: str = AGAIN, field: str = "model") -> ModelError:
    return ModelError(f"field {field}: {str(path)!r} {problem}; {remedy}")


def unreadable(folder: Path, error: Exception) -> Exception:
    """A loading error as a ModelError; out-of-memory errors as they are. The libraries raise many kinds, among
    them OSError, which would be taken for a store's and retried."""
    if ran_out_of_memory(error) or isinstance(error, ModelError):
        return error
    why = " ".join(str(error).split())[:200]
    return unusable(folder, f"can't be loaded ({type(error).__name__}: {why})")


def check_whole(path: Path, field: str = "model") -> None:
    """Refuses a file that is missing, empty, or a git-LFS pointer in place of its content. Raises ModelError."""
    if not path.is_file():
        raise unusable(path, "is missing", "download the folder again, with all its files", field=field)
    with path.open("rb") as file:
        head = file.read(len(LFS))
    if not head:
        raise unusable(path, "is empty", field=field)
    if head == LFS:
        raise unusable(
            path, "is a git-LFS pointer and not the file itself", "run git lfs pull in the folder", field=field
        )


def read_json(path: Path, field: str = "model") -> dict[str, Any]:
    """A JSON object. Raises ModelError."""
    check_whole(path, field)
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise unusable(path, f"can't be read ({type(error).__name__})", field=field) from error
    if not isinstance(found, dict):
        raise unusable(path, "holds no JSON object", field=field)
    return found


def check_weights(part: Path, make: Callable[[], torch.nn.Module], joined: Callable[[Shapes], Shapes] = dict) -> None:
    """Refuses a component whose files are damaged, or lack tensors of the model that `make` gives on torch's meta
    device, or have them in another shape. `joined`: the weights that the files' tensors make up. Raises ModelError."""
    held: Shapes = {}
    for file, names in weight_files(part).items():
        shapes = header(file)
        if missing := sorted(set(names or ()) - set(shapes)):
            raise unusable(file, f"lacks {_some(missing)}, which the index says it holds")
        held |= shapes
    held = joined(held)
    with torch.device("meta"):
        model = make()
    wanted = {name: tuple(values.shape) for name, values in model.state_dict().items()}
    tied = _tied(model)
    if missing := sorted(name for name in wanted if not any(other in held for other in tied.get(name, [name]))):
        raise unusable(part, f"holds no {_some(missing)}, which its configuration asks for")
    if others := sorted(name for name in wanted if name in held and held[name] != wanted[name]):
        found = f"{list(held[others[0]])} instead of {list(wanted[others[0]])}"
        raise unusable(part, f"holds {others[0]} of shape {found}: weights and config.json are of different models")


def _tied(model: torch.nn.Module) -> dict[str, list[str]]:
    """name -> all names of its tensor: files may use any name of a tied weight."""
    by_tensor: dict[int, list[str]] = {}
    for name, values in model.state_dict(keep_vars=True).items():
        by_tensor.setdefault(id(values), []).append(name)
    return {name: names for names in by_tensor.values() for name in names}


def weight_files(part: Path) -> dict[Path, list[str] | None]:
    """The files that are loaded for a component, and which tensors an index expects in each; None without an index.

    Raises ModelError where the libraries would find none, or not all of them.
    """
    found = sorted(part.glob("*.safetensors"))
    for stem in ("diffusion_pytorch_model", "model"):
        index = part / f"{stem}.safetensors.index.json"
        if index.exists():
            return _indexed(part, index)
        if (part / f"{stem}.safetensors").exists():
            return {part / f"{stem}.safetensors": None}
    names = ", ".join(file.name for file in found[:MOST_SHOWN])
    if any("-of-" in file.name for file in found):
        raise unusable(part, f"holds shards ({names}) without their index", "download the *.safetensors.index.json too")
    remedy = "download the plain files, or rename them without the variant (diffusion_pytorch_model.safetensors)"
    raise unusable(part, f"holds weights of a variant or of another layout only ({names})", remedy)


def _indexed(part: Path, index: Path) -> dict[Path, list[str] | None]:
    listed = read_json(index).get("weight_map")
    if not isinstance(listed, dict) or not listed or not all(isinstance(name, str) for name in listed.values()):
        raise unusable(index, "names no shards")
    shards: dict[Path, list[str] | None] = {}
    for tensor, name in listed.items():
        if Path(name).name != name or not name.endswith(".safetensors"):
            raise unusable(index, f"names {name[:80]!r}, which is no safetensors file of this folder")
        names = shards.setdefault(part / name, [])
        assert names is not None
        names.append(tensor)
    for shard in shards:
        check_whole(shard)
    return shards


def header(file: Path, field: str = "model") -> Shapes:
    """name -> shape of each tensor of a safetensors file, whose length is checked too. Raises ModelError."""
    check_whole(file, field)
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(LONGEST_HEADER, size - 8):
            raise unusable(file, "is cut off or no safetensors file", field=field)
        raw = stream.read(length)
    try:
        about: dict[str, Any] = json.loads(raw)
        tensors = {name: entry for name, entry in about.items() if name != "__metadata__"}
        shapes = {name: tuple(map(int, entry["shape"])) for name, entry in tensors.items()}
        end = max((int(entry["data_offsets"][1]) for entry in tensors.values()), default=0)
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise unusable(file, "has no readable header", field=field) from error
    if end != size - 8 - length:
        raise unusable(file, f"is cut off: {size} bytes instead of {8 + length + end}", field=field)
    return shapes


def check_fields(part: str, path: Path, config: Mapping[str, Any], least: Mapping[str, int]) -> None:
    """Refuses a config.json where a field of `least` is no whole number from its minimum up. Raises ModelError."""
    for name, minimum in least.items():
        value = config.get(name, minimum)
        if not isinstance(value, int) or isinstance(value, bool) or value < minimum:
            problem = f"has {name} = {value!r}, where a {part} needs a whole number from {minimum} up"
            raise unusable(path, problem, "download the original config.json")


def _some(names: list[str]) -> str:
    more = f" and {len(names) - MOST_SHOWN} more" if len(names) > MOST_SHOWN else ""
    return ", ".join(names[:MOST_SHOWN]) + more
