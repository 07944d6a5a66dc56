"""The folder of a model beside the one that edits, of transformers' kinds: where it is, and what is refused."""

from __future__ import annotations

from pathlib import Path

from huggingface_hub import snapshot_download

from cogvideo_core.errors import ModelError
from cogvideo_core.models.checkpoint_files import PICKLED, header, read_json

FILES = ("*.json", "*.txt", "*.model", "*.safetensors")


def checked_folder(field: str, path: str, kinds: tuple[str, ...], shipped: Path | None = None) -> Path:
    """A model's local folder, checked: a folder, the hub's download, or the `shipped` one for "shapes".

    field: the setting that names it, as in errors. kinds: the `model_type`s that can be used. Raises ModelError.
    """
    folder = shipped if shipped and path == "shapes" else _place(field, path)
    kind = read_json(folder / "config.json", field).get("model_type")
    if kind not in kinds:
        raise bad_folder(field, path, f"is a {kind!r}", f"give a model of one of these types: {', '.join(kinds)}")
    _check_weights(field, path, folder)
    return folder


def weights_folder(field: str, path: str) -> Path:
    """`checked_folder` of weights that have no configuration beside them. Raises ModelError."""
    folder = _place(field, path)
    _check_weights(field, path, folder)
    return folder


def _check_weights(field: str, path: str, folder: Path) -> None:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = any(file.suffix in PICKLED for file in folder.glob("*"))
        problem = "holds only pickled weights, which are never loaded" if pickled else "holds no weights"
        raise bad_folder(field, path, problem, "convert or download model.safetensors")
    for file in weights:
        header(file, field)


def loaded_from(folder: Path) -> list[Path]:
    """The files that such a model is loaded from."""
    return [path for pattern in FILES for path in folder.glob(pattern)]


def not_loaded(field: str, folder: Path, error: Exception) -> ModelError:
    """What a library raised while it loaded a folder, in a sentence."""
    why = " ".join(str(error).split())[:200]
    return ModelError(
        f"field {field}: {str(folder)!r} can't be loaded ({type(error).__name__}: {why}); "
        "download it again, with all its files"
    )


def _place(field: str, path: str) -> Path:
    if (folder := Path(path)).exists():
        return folder
    if path.count("/") != 1 or path.startswith((".", "/")):
        raise bad_folder(field, path, "is no folder and no hub id", "give a folder, a hub id, or none")
    try:
        return Path(snapshot_download(path, allow_patterns=list(FILES)))
    except Exception as error:  # the hub raises many kinds; all mean the same to the user
        problem = f"is not in the local cache and could not be had from the hub ({type(error).__name__})"
        raise bad_folder(field, path, problem, "check id and network, or download it and give the folder") from error


def bad_folder(field: str, path: str, problem: str, remedy: str) -> ModelError:
    """The error about a model that the setting `field` names."""
    return ModelError(f"field {field}: {path!r} {problem}; {remedy}")
