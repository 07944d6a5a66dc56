"""The presets: what each changes in the default recipe and in the default inversion."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Literal

Preset = Literal["balanced", "faithful", "bold", "fast", "insert", "remove", "seed", "text"]
MASKED = ("insert", "remove")  # what is outside of a mask alone keeps their edits like the clip
FIRST: dict[str, Any] = {  # how all edits were made before these fields came
    **{"sampler": "ddim", "cache": "off"},
    **{"anchor": "none", "anchor_weight": 0.25},
}
# Fields that came after the first version
LATER = {"preset", "strengths", "recipes", "ladder", "most_candidates", *FIRST}
# Plain concatenation and guidance in all steps and layers, all steps whole: what the default recipe narrows
OPEN: dict[str, Any] = {
    **{"reference_weight": 1.0, "layer_start": 0.0, "guidance_end": 1.0, "start_at": 0.0},
    **FIRST,
}
RECIPES: dict[str, dict[str, Any]] = {
    "balanced": {},
    "faithful": {"reference_weight": 1.0},
    "bold": {"reference_start": 0.2, "start_at": 0.0},
    "fast": {"guidance_end": 0.4},
    # fresh noise holds nothing of what was there; what comes into the mask is the prompt's, and fits what is around it
    "insert": {"start": "fresh", "reference_weight": 0.1},
    "remove": {"start": "fresh", "reference_weight": 0.0},
    "seed": OPEN | {"reference_prompt": "per_half", "start": "fresh"},
    "text": OPEN | {"reference_end": 0.0, "reference_weight": 0.0, "start": "fresh"},
}
INVERSIONS: dict[str, dict[str, Any]] = {
    "fast": {"steps": 12, "first_iterations": 5},
    "seed": {"steps": 50, "method": "ddim", "prompt": "empty", "gate": "off"},  # as the first public script inverts
    "text": {"steps": 50, "method": "none"},  # plain generation looks at no trajectory
}


def filled(given: dict[str, Any], changes: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """`given`, with the preset's value in every field that is left out or at its default."""
    return given | {name: new for name, new in changes.items() if given.get(name, defaults[name]) == defaults[name]}


def of_first_version(given: Any, fields: Iterable[str]) -> Any:
    """A recipe's fields as they were meant: whoever names all that there were at first has them from settings or a
    form, and what is missing from `FIRST` came later: its edits were made so. Anything else unchanged."""
    named = isinstance(given, dict) and set(fields) - LATER <= given.keys()
    return FIRST | given if named else given


def with_preset(given: Any, defaults: dict[str, Any]) -> Any:
    """A recipe's fields with the values and the name of the preset they name; anything else unchanged."""
    preset = given.get("preset", "balanced") if isinstance(given, dict) else None
    if not isinstance(preset, str) or preset not in RECIPES:
        return given
    return filled(given, RECIPES[preset] | {"name": preset}, defaults)
