"""Named recipes, and the inversions of those that do not use the default inversion."""

from __future__ import annotations

from typing import Any, get_args

from cogvideo_core.settings.recipes import INVERSIONS, OPEN, Preset
from cogvideo_core.settings.specs import InversionSpec, RecipeSpec

PRESETS: dict[str, RecipeSpec] = {
    name: RecipeSpec(**RecipeSpec(preset=name).as_json())  # its values alone
    for name in get_args(Preset)
}
PRESET_INVERSIONS: dict[str, InversionSpec] = {name: InversionSpec(**changes) for name, changes in INVERSIONS.items()}


def unwindowed(**changes: Any) -> RecipeSpec:
    """The default recipe with its windows wide open, the reference at its plain weight, and `changes`."""
    return RecipeSpec(**OPEN | {"name": "plain"} | changes)
