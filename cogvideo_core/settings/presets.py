"""Named recipes, and the inversion of each."""

from __future__ import annotations

from typing import Any, get_args

from cogvideo_core.settings.recipes import INVERSIONS, OPEN, Preset
from cogvideo_core.settings.specs import InversionSpec, RecipeSpec

PRESETS: dict[str, RecipeSpec] = {
    name: RecipeSpec(**RecipeSpec(preset=name).as_json())  # its values alone
    for name in get_args(Preset)
}
PRESET_INVERSIONS: dict[str, InversionSpec] = {name: InversionSpec(**INVERSIONS.get(name, {})) for name in PRESETS}


def unwindowed(**changes: Any) -> RecipeSpec:
    """The default recipe with its windows wide open, the reference at its plain weight, and `changes`."""
    return RecipeSpec(**OPEN | {"name": "plain"} | changes)
