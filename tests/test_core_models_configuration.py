"""A configuration alone tells what a loaded model tells of itself."""

from __future__ import annotations

import json
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
