"""The folder of a model: where it is, what is refused before any weight is read, and the fingerprints of its parts."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import diffusers
from huggingface_hub import snapshot_download

from cogvideo_core.errors import ModelError
from cogvideo_core.models.checkpoint_files import PICKLED, read_json
from cogvideo_core.models.components import check_all_weights, check_configs, check_tokenizer
from cogvideo_core.models.file_hashes import digest_of
from cogvideo_core.models.quantised import check_quantised
from cogvideo_core.settings.specs import ModelSpec

IMAGE_TO_VIDEO = "CogVideoXImageToVideoPipeline"
PIPELINES = ("CogVideoXPipeline", IMAGE_TO_VIDEO, "CogVideoXVideoToVideoPipeline")
COMPONENTS = ("vae", "transformer", "text_encoder", "tokenizer", "scheduler")


CONFIGS = ("model_index.json", "*/*.json", "tokenizer/*", "*/*.txt")


def model_folder(spec: ModelSpec, weights: bool = True) -> Path:
    """A local diffusers folder: the shipped one for "shapes", the one given, or the hub's download of safetensors.

    Without `weights` a hub id costs its configurations alone. Raises ModelError.
    """
    if spec.path == "shapes":
        folder = Path(str(resources.files("cogvideo_core.shapes"))) / "model"
    elif (folder := Path(spec.path)).exists():
        pass
    elif spec.path.count("/") != 1 or spec.path.startswith((".", "/")):
        raise ModelError(
            f"field model: {spec.path!r} is no folder and no hub id; give shapes, a diffusers folder or a hub id"
        )
    else:
        return _from_hub(spec, weights)
    if spec.revision:
        raise ModelError(
            f"field model.revision: {spec.revision!r} is given with {spec.path!r}, which is a folder and has no "
            "revisions; leave it empty, or give a hub id"
        )
    return folder


def _from_hub(spec: ModelSpec, weights: bool) -> Path:
    revision = spec.revision or None
    try:
        if not weights:
            return Path(snapshot_download(spec.path, revision=revision, allow_patterns=list(CONFIGS)))
        return Path(
            diffusers.DiffusionPipeline.download(
                spec.path, revision=revision, use_safetensors=True, trust_remote_code=False
            )
        )
    except Exception as error:  # the hub raises many kinds; all mean the same to the user
        which = f"revision {spec.revision!r} of {spec.path!r}" if revision else repr(spec.path)
        raise ModelError(
            f"field model: {which} is not in the local cache and could not be had from the hub "
            f"({type(error).__name__}); check id, revision and network, or download it and give the folder"
        ) from error


def check_folder(folder: Path, weights: bool = True) -> str:
    """The pipeline class named in model_index.json, after all checks of the folder's components.

    Without `weights`, the configurations alone are looked at. Raises ModelError.
    """
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(f"field model: {str(folder)!r} has no model_index.json; give a folder in the diffusers layout")
    name = read_json(index).get("_class_name")
    if name not in PIPELINES:
        raise ModelError(f"field model: {str(folder)!r} is a {name}; supported are {', '.join(PIPELINES)}")
    if weights:
        _check_safe(folder)
    check_configs(folder)
    check_layout(folder, name)
    check_quantised(folder)
    if weights:
        check_tokenizer(folder)
        check_all_weights(folder)
    return str(name)


def _check_safe(folder: Path) -> None:
    for part in ("vae", "transformer", "text_encoder"):
        files = [file.suffix for file in (folder / part).glob("*")]
        if ".safetensors" not in files:
            found = "only pickled weights, which are never loaded" if PICKLED & set(files) else "no weights"
            raise ModelError(f"field model: {str(folder / part)!r} holds {found}; convert or download safetensors")


def component_fingerprints(folder: Path) -> dict[str, str]:
    """sha256 by component, over the names and bytes of its files."""

    def loaded_from(file: Path) -> bool:
        return file.suffix not in PICKLED and not file.name.startswith(".") and file.is_file()

    return {part: digest_of(filter(loaded_from, (folder / part).glob("*"))) for part in COMPONENTS}


def check_layout(folder: Path, pipeline: str) -> None:
    """Refuses a transformer whose input channels are not its pipeline's: the latents', twice that with an image.

    Raises ModelError. Other layouts are those of Fun and ControlNet models, some of which carry a plain class name.
    """
    takes = _config(folder / "transformer", "in_channels")
    latents = _config(folder / "vae", "latent_channels")
    wanted = latents * (2 if pipeline == IMAGE_TO_VIDEO else 1)
    if takes != wanted:
        raise ModelError(
            f"field model: the transformer in {str(folder)!r} takes {takes} channels, a {pipeline} with this VAE "
            f"{wanted}; Fun and ControlNet models are not supported, use a text-to-video or image-to-video one"
        )


def _config(part: Path, name: str) -> int:
    """A whole number of a component's config.json; 16 where it is left out, as diffusers has it."""
    return int(read_json(part / "config.json").get(name, 16))
