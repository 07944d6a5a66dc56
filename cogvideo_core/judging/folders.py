"""The folder of a judge's model: where it is, what is refused before it is loaded, and its fingerprint."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from cogvideo_core.models.file_hashes import digest_of
from cogvideo_core.models.model_folders import checked_folder, weights_folder
from cogvideo_core.models.model_folders import loaded_from as files_of
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.judge_specs import JudgeSpec

FORMAT = 1  # raised when a score changes its meaning
TEXT_KINDS = ("clip", "siglip", "siglip2", "metaclip_2", "xclip")
STRUCTURE_KINDS = ("dinov2", "dinov2_with_registers", "dinov3_vit", "vit")


def judge_folder(field: str, path: str, kinds: tuple[str, ...]) -> Path:
    """The local folder of a judge's model, checked: the shipped one for "shapes", a folder, or the hub's download.

    kinds: the `model_type`s that the judge can use. Raises ModelError, which names the setting judge.`field`.
    """
    return checked_folder(f"judge.{field}", path, kinds, shipped())


def shipped() -> Path:
    """The folder of the shapes judge."""
    return Path(str(resources.files("cogvideo_core.shapes"))) / "judge"


def folders_of(spec: JudgeSpec) -> dict[str, Path]:
    """The checked folders of the judges that have a model; `spec` has no `auto`. Raises ModelError."""
    wanted = {"text": (spec.text, TEXT_KINDS), "structure": (spec.structure, STRUCTURE_KINDS)}
    return {name: judge_folder(name, path, kinds) for name, (path, kinds) in wanted.items() if path not in ("", "none")}


def check_judges(spec: JudgeSpec) -> None:
    """Refuses judges that can't be used, where they are named. Raises ModelError."""
    folders_of(spec.model_copy(update={"text": "none"}) if spec.text == "auto" else spec)
    if spec.lpips:
        weights_folder("judge.lpips", spec.lpips)


def loaded_from(folder: Path) -> list[Path]:
    """The files that a judge is loaded from; a calibration beside them changes no score."""
    return [file for file in files_of(folder) if file.name != "calibration.json"]


def judge_fingerprint(spec: JudgeSpec) -> str:
    """sha256 of what determines the scores: the models' files and the fields that say what is measured."""
    models = {name: digest_of(loaded_from(folder)) for name, folder in folders_of(spec).items()}
    about = {"format": FORMAT, "models": models, "motion": spec.motion, "frames": spec.frames}
    asked = {"vlm": spec.vlm, "vlm_model": spec.vlm_model, "vlm_questions": spec.vlm_questions}
    return fingerprint(about | {"contrasts": spec.contrasts} | (asked if spec.vlm else {}))
