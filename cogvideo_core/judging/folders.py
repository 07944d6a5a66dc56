"""The folder of a judge's model: where it is, what is refused before it is loaded, and its fingerprint."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from huggingface_hub import snapshot_download

from cogvideo_core.errors import ModelError
from cogvideo_core.models.checkpoint_files import PICKLED, header, read_json
from cogvideo_core.models.file_hashes import digest_of
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.judge_specs import JudgeSpec

FORMAT = 1  # raised when a score changes its meaning
TEXT_KINDS = ("clip", "siglip", "siglip2", "metaclip_2", "xclip")
STRUCTURE_KINDS = ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit")
FILES = ("*.json", "*.txt", "*.model", "*.safetensors")


def judge_folder(field: str, path: str, kinds: tuple[str, ...]) -> Path:
    """`model_folder` of a judge's model, which the setting judge.`field` names."""
    return model_folder(f"judge.{field}", path, kinds)


def model_folder(field: str, path: str, kinds: tuple[str, ...]) -> Path:
    """The local folder of a model, checked: the shipped one for "shapes", a folder, or the hub's download.

    field: the setting that names it, for errors. kinds: the `model_type`s that can be used. Raises ModelError.
    """
    folder = _place(field, path)
    kind = read_json(folder / "config.json", field).get("model_type")
    if kind not in kinds:
        raise bad_model(field, path, f"is a {kind!r}", f"give a model of one of these types: {', '.join(kinds)}")
    _check_weights(field, path, folder)
    return folder


def weights_folder(field: str, path: str) -> Path:
    """`model_folder` of weights that have no configuration beside them. Raises ModelError."""
    folder = _place(field, path)
    _check_weights(field, path, folder)
    return folder


def _check_weights(field: str, path: str, folder: Path) -> None:
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        pickled = any(file.suffix in PICKLED for file in folder.glob("*"))
        problem = "holds only pickled weights, which are never loaded" if pickled else "holds no weights"
        raise bad_model(field, path, problem, "convert or download model.safetensors")
    for file in weights:
        header(file, field)


def folders_of(spec: JudgeSpec) -> dict[str, Path]:
    """The checked folders of the judges that have a model; `spec` has no `auto`. Raises ModelError."""
    wanted = {"text": (spec.text, TEXT_KINDS), "structure": (spec.structure, STRUCTURE_KINDS)}
    return {name: judge_folder(name, path, kinds) for name, (path, kinds) in wanted.items() if path not in ("", "none")}


def check_judges(spec: JudgeSpec) -> None:
    """Refuses judges that can't be used, where they are named. Raises ModelError."""
    folders_of(spec.model_copy(update={"text": "none"}) if spec.text == "auto" else spec)


def loaded_from(folder: Path) -> list[Path]:
    """The files that a judge is loaded from; a calibration beside them changes no score."""
    files = [path for pattern in FILES for path in folder.glob(pattern)]
    return [file for file in files if file.name != "calibration.json"]


def judge_fingerprint(spec: JudgeSpec) -> str:
    """sha256 of what determines the scores: the models' files and the fields that say what is measured."""
    models = {name: digest_of(loaded_from(folder)) for name, folder in folders_of(spec).items()}
    about = {"format": FORMAT, "models": models, "motion": spec.motion, "frames": spec.frames}
    asked = {"vlm": spec.vlm, "vlm_model": spec.vlm_model, "vlm_questions": spec.vlm_questions}
    return fingerprint(about | {"contrasts": spec.contrasts} | (asked if spec.vlm else {}))


def _place(field: str, path: str) -> Path:
    if path == "shapes":
        return Path(str(resources.files("cogvideo_core.shapes"))) / "judge"
    if (folder := Path(path)).exists():
        return folder
    if path.count("/") != 1 or path.startswith((".", "/")):
        raise bad_model(field, path, "is no folder and no hub id", "give a folder, a hub id, or none")
    try:
        return Path(snapshot_download(path, allow_patterns=list(FILES)))
    except Exception as error:  # the hub raises many kinds; all mean the same to the user
        problem = f"is not in the local cache and could not be had from the hub ({type(error).__name__})"
        raise bad_model(field, path, problem, "check id and network, or download it and give the folder") from error


def bad_model(field: str, path: str, problem: str, remedy: str) -> ModelError:
    """The error about a model that the setting `field` names."""
    return ModelError(f"field {field}: {path!r} {problem}; {remedy}")
