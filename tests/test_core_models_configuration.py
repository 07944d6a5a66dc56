"""A configuration alone tells what a loaded model tells of itself."""

from __future__ import annotations

import json
import shutil
from fnmatch import fnmatch
from pathlib import Path

import pytest

from cogvideo_core.errors import ModelError
from cogvideo_core.models import checkpoint
from cogvideo_core.models.configuration import configured
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.shapes import build


@pytest.mark.parametrize("variant", ["2b", "5b", "5b-i2v", "1.5-5b", "1.5-5b-i2v"])
def test_it_tells_what_the_loaded_model_tells(variant: str, tmp_path: Path) -> None:
    """Size, pixels a latent cell and kind of each public variant, also where the file leaves defaults out."""
    pipeline = build.build_pipeline(variant)
    pipeline.save_pretrained(tmp_path)
    loaded, spec = VideoModel(pipeline, ModelSpec()), ModelSpec(path=str(tmp_path))
    file = tmp_path / "transformer/config.json"
    config = json.loads(file.read_text())
    for name in ("patch_size_t", "temporal_compression_ratio"):
        if config[name] in (None, 4):
            del config[name]
    file.write_text(json.dumps(config))
    found = configured(spec)
    for name in ("shape", "image_to_video", "pixels_a_cell"):
        assert getattr(found, name) == getattr(loaded, name)
    assert found.pixels_a_cell == pipeline.vae_scale_factor_spatial
    wanted = ("patch_size", "patch_size_t", "use_learned_positional_embeddings", "temporal_compression_ratio")
    for name in wanted:
        assert getattr(found.transformer_config, name) == getattr(loaded.transformer.config, name)


def test_the_model_that_comes_along_is_configured() -> None:
    """As any other."""
    assert configured(ModelSpec()).shape.frames % 8 == 1
    assert checkpoint.model_folder(ModelSpec()).is_dir()


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    """With the sentence that loading it would give."""
    with pytest.raises(ModelError, match=r"has no model_index\.json"):
        configured(ModelSpec(path=str(tmp_path)))


def test_a_hub_id_is_planned_without_weights(
    tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What planning asks the hub for holds no weights and is enough; loading asks for all."""
    asked: list[list[str]] = []
    folder = shutil.copytree(tiny_pipeline_folder, tmp_path / "m", ignore=shutil.ignore_patterns("*.safetensors"))

    def download(name: str, revision: str | None, allow_patterns: list[str]) -> str:
        asked.append(allow_patterns)
        return str(folder)

    monkeypatch.setattr(checkpoint, "snapshot_download", download)
    found = configured(ModelSpec(path="someone/some-model", revision="v1"))
    assert found.shape == configured(ModelSpec(path=str(tiny_pipeline_folder))).shape
    (patterns,) = asked
    names = [path.relative_to(tiny_pipeline_folder).as_posix() for path in tiny_pipeline_folder.rglob("*.*")]
    taken = {name for name in names if any(fnmatch(name, pattern) for pattern in patterns)}
    assert taken and not any(name.endswith(".safetensors") for name in taken)
    assert {name for name in names if name.endswith(".json")} == {name for name in taken if name.endswith(".json")}


@pytest.mark.parametrize("weights", [True, False])
def test_a_revision_that_is_not_at_hand_is_said(weights: bool) -> None:
    """Offline, a hub id and its revision are named, with what to do."""
    with pytest.raises(ModelError, match=r"revision 'v9' of 'someone/some-model' is not in the local cache.*network"):
        checkpoint.model_folder(ModelSpec(path="someone/some-model", revision="v9"), weights)


def test_a_folder_has_no_revisions(tiny_pipeline_folder: Path) -> None:
    """A revision beside a folder would be ignored without a word; it is refused."""
    with pytest.raises(ModelError, match=r"field model\.revision: 'v1' .* leave it empty"):
        configured(ModelSpec(path=str(tiny_pipeline_folder), revision="v1"))
