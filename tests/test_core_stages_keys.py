"""Keys of units that earlier versions have committed: what they made is found again."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from cogvideo_core.models.configuration import VideoShape
from cogvideo_core.settings.presets import PRESET_INVERSIONS, PRESETS
from cogvideo_core.settings.recipes import FIRST, LATER, MASKED
from cogvideo_core.settings.specs import DatasetSpec, OutputSpec, RecipeSpec, fingerprint
from cogvideo_core.stages import units
from cogvideo_core.stages.prompts import prompt_spec

KNOWN = json.loads((Path(__file__).parent / "keys_of_0_1.json").read_text())
"""Keys by the code of commit 0637201, with this test's inputs, before the core had rooms."""
VALUES_THEN = {"balanced": {"reference_weight": 0.35}, "fast": {"start_at": 0.3, "guidance_end": 0.5}}
PROMPT, TARGET = "a red circle", "a blue circle"


def model() -> Any:
    parts = ("vae", "transformer", "text_encoder", "tokenizer", "scheduler")
    return SimpleNamespace(
        spec=SimpleNamespace(
            dtype="float32", vae_dtype="float32", vae_tiling="off", weights="stored", text_weights="stored"
        ),
        fingerprints={part: part for part in parts},
        shape=VideoShape(9, 48, 48, 8),
        front_padding=0,
        image_to_video=False,
        text_tokens=16,
    )


def test_keys_are_those_of_earlier_versions() -> None:
    """Source, latents, prompt, and trajectory and edit of each preset, with the values that they had then, have
    the keys they had; so a root that was made then is reused whole."""
    frames = units.frames_spec(DatasetSpec(), model(), "c" * 64, 0)
    latents = fingerprint(units.latents_spec(frames, model()))
    found = {
        "source": fingerprint(units.source_spec(frames, OutputSpec())),
        "latents": latents,
        "prompt": fingerprint(prompt_spec(model(), PROMPT)),
    }
    for name, preset in PRESETS.items():
        if name in MASKED:  # which came later
            continue
        recipe = preset.model_copy(update=FIRST | VALUES_THEN.get(name, {}))
        inversion = PRESET_INVERSIONS[name].model_copy(update={"steps": 50})
        levels = units.levels_kept(inversion, recipe, 6)
        key = fingerprint(units.trajectory_spec(latents, inversion, model(), PROMPT, levels))
        found[f"trajectory-{name}"] = key
        found[f"edit-{name}"] = fingerprint(
            units.edit_spec(key, recipe, OutputSpec(), PROMPT, units.Asked(target_prompt=TARGET, seed=0, strength=1.0))
        )
    assert found == KNOWN


def test_settings_of_earlier_versions_mean_what_they_meant() -> None:
    """A recipe that an earlier version wrote in full has each step whole, in DDIM, and so finds its edits, whichever of
    the later fields it lacks; a short one that a person writes has the present defaults."""
    for name, preset in PRESETS.items():
        before = {field: value for field, value in preset.as_json().items() if field not in FIRST}
        assert RecipeSpec(**before) == preset.model_copy(update=FIRST), name
        oldest = {field: value for field, value in before.items() if field not in LATER}
        assert RecipeSpec(**oldest) == preset.model_copy(update=FIRST), name
        between = {field: value for field, value in preset.as_json().items() if field != "cache"}
        assert RecipeSpec(**between) == preset.model_copy(update={"cache": "off"}), name
    assert RecipeSpec(guidance_scale=5.0).cache == "safe"
    assert RecipeSpec(**RecipeSpec().as_json() | {"cache": "bold"}).cache == "bold"
