"""The folder of a model: where it is, what is refused before any weight is read, and the fingerprints of its parts."""

from __future__ import annotations

import hashlib
import json
from importlib import resources
from pathlib import Path

import diffusers

from cogvideo_core.errors import ModelError
from cogvideo_core.options import check_config
from cogvideo_core.specs import ModelSpec

IMAGE_TO_VIDEO = "CogVideoXImageToVideoPipeline"
PIPELINES = ("CogVideoXPipeline", IMAGE_TO_VIDEO, "CogVideoXVideoToVideoPipeline")
COMPONENTS = ("vae", "transformer", "text_encoder", "tokenizer", "scheduler")
PICKLED = {".bin", ".pt", ".pth", ".ckpt", ".pkl"}


def model_folder(spec: ModelSpec) -> Path:
    """A local diffusers folder: the shipped one for "shapes", the one given, or the hub's download of safetensors."""
    if spec.path == "shapes":
        return Path(str(resources.files("cogvideo_core.shapes"))) / "model"
    folder = Path(spec.path)
    if folder.exists():
        return folder
    if spec.path.count("/") != 1 or spec.path.startswith((".", "/")):
        raise ModelError(
            f"field model: {spec.path!r} is no folder and no hub id; give shapes, a diffusers folder or a hub id"
        )
    try:
        return Path(
            diffusers.DiffusionPipeline.download(
                spec.path, revision=spec.revision or None, use_safetensors=True, trust_remote_code=False
            )
        )
    except Exception as error:  # the hub raises many kinds; all mean the same to the user
        raise ModelError(
            f"field model: {spec.path!r} could not be had from the hub ({type(error).__name__}); "
            "check the id and the network, or download it and give the folder"
        ) from error


def check_folder(folder: Path) -> str:
    """The pipeline class named in model_index.json, after the checks that need no weights. Raises ModelError."""
    index = folder / "model_index.json"
    if not index.is_file():
        raise ModelError(f"field model: {str(folder)!r} has no model_index.json; give a folder in the diffusers layout")
    name = json.loads(index.read_text()).get("_class_name")
    if name not in PIPELINES:
        raise ModelError(f"field model: {str(folder)!r} is a {name}; supported are {', '.join(PIPELINES)}")
    for part in ("vae", "transformer", "text_encoder"):
        files = [file.suffix for file in (folder / part).glob("*")]
        if ".safetensors" not in files:
            found = "only pickled weights, which are never loaded" if PICKLED & set(files) else "no weights"
            raise ModelError(f"field model: {str(folder / part)!r} holds {found}; convert or download safetensors")
    check_layout(folder, name)
    check_config(folder)
    return str(name)


def component_fingerprints(folder: Path) -> dict[str, str]:
    """sha256 by component, over the names and bytes of its files."""
    found = {}
    for part in COMPONENTS:
        digest = hashlib.sha256()
        for file in sorted((folder / part).glob("*")):
            if file.suffix in PICKLED or file.name.startswith(".") or not file.is_file():
                continue
            digest.update(file.name.encode())
            with file.open("rb") as stream:
                digest.update(hashlib.file_digest(stream, "sha256").digest())
        found[part] = digest.hexdigest()
    return found


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
    try:
        return int(json.loads((part / "config.json").read_text()).get(name, 16))
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"field model: {str(part / 'config.json')!r} can't be read ({type(error).__name__}); download it again"
        ) from error
