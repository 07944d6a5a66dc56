"""What a row of a manifest says of its edits: settings that override the run's, and a list of edits in one field."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator
from typing import Any

from cogvideo_core.errors import ClipError
from cogvideo_core.inputs.columns import ALIASES, OWN, Pairs, Values
from cogvideo_core.inputs.fields import MAX_PROMPTS, is_missing, number_of, one, prompt_of, short, shown
from cogvideo_core.settings.overrides import LEAST_STRENGTH, MOST_SEED, MOST_STRENGTH, override_text
from cogvideo_core.settings.recipe_files import is_recipe_file
from cogvideo_core.settings.recipes import RECIPES

# An edit of `edits` may hold these fields of its row; any other name is a column of its own
EDIT_FIELDS = (
    *("target_prompts", "first_frame_uri", "mask", "recipe", "seed", "strength", "negative_prompt"),
    *("start", "end"),
)
EDIT_NAMES = {name for field in EDIT_FIELDS for name in ALIASES[field]}
LIKE_THIS = 'write a list of objects such as [{"target_prompt": "a blue circle", "seed": 1}]'


def override_of(clip: str, fields: Values) -> str:
    """The settings that a row gives its edits, as `settings.overrides.override_text`; "" for none. Raises ClipError."""
    checks = {"recipe": _recipe, "seed": _seed, "strength": _strength, "negative_prompt": _negative_prompt}
    given = {field: one(clip, field, fields) for field in checks}
    return override_text({field: checks[field](clip, value) for field, value in given.items() if value is not None})


def _recipe(clip: str, value: Any) -> str:
    name = value.strip() if isinstance(value, str) else ""
    if is_recipe_file(name):  # `recipe_columns` reads it, who knows where it lies
        return name
    if name not in RECIPES:
        near = difflib.get_close_matches(name.lower(), RECIPES, 1)
        names = ", ".join(RECIPES)
        remedy = f"did you mean {near[0]}?" if near else f"use one of {names}, a recipe file, or leave it empty"
        raise ClipError(short(clip), f"its recipe {shown(value)} is no preset", remedy)
    return name


def _seed(clip: str, value: Any) -> int:
    number = number_of(value)
    if not isinstance(number, int) or not 0 <= number <= MOST_SEED:
        problem = f"its seed {shown(value)} is no whole number from 0 to 2**63 - 1"
        raise ClipError(short(clip), problem, "correct it, or leave it empty for the run's")
    return number


def _strength(clip: str, value: Any) -> float:
    number = number_of(value)
    if number is None or not LEAST_STRENGTH <= number <= MOST_STRENGTH:
        problem = f"its strength {shown(value)} is no number from {LEAST_STRENGTH} to {MOST_STRENGTH}"
        raise ClipError(short(clip), problem, "correct it, or leave it empty for the run's")
    return float(number)


def _negative_prompt(clip: str, value: Any) -> str:
    return prompt_of(clip, "negative_prompt", value)


def edits_of(clip: str, fields: Values) -> list[Values]:
    """The fields of a row for each edit in its field `edits`, none where it has none: the edit's own before the row's.

    Raises ClipError.
    """
    base = {field: values for field, values in fields.items() if field not in ("edits", "target_prompts")}
    return [_merged(base, pairs) for pairs in _edits(clip, one(clip, "edits", fields))]


def _edits(clip: str, given: Any) -> Iterator[list[tuple[str, Any]]]:
    """The (name, value) pairs of each edit."""
    if isinstance(given, str):
        try:
            given = json.loads(given, object_pairs_hook=Pairs)
        except (ValueError, RecursionError) as error:
            raise ClipError(short(clip), f"its edits are no JSON ({str(error)[:80]})", LIKE_THIS) from error
    if isinstance(given, Pairs) or not isinstance(given, list | None):
        raise ClipError(short(clip), "its edits are no list", LIKE_THIS)
    if len(given or ()) > MAX_PROMPTS:
        raise ClipError(short(clip), f"it has more than {MAX_PROMPTS} edits", "split them over several rows")
    for number, edit in enumerate(given or (), 1):
        if not isinstance(edit, Pairs | dict):
            raise ClipError(short(clip), f"edit {number} of its edits is no object", LIKE_THIS)
        yield list(edit.items()) if isinstance(edit, dict) else edit


def _merged(base: Values, pairs: list[tuple[str, Any]]) -> Values:
    given = [(name.strip(), value) for name, value in pairs if not is_missing(value)]
    named = {f: [value for name, value in given if name.lower() in ALIASES[f]] for f in EDIT_FIELDS}
    own = [(name, value) for name, value in given if name.lower() not in EDIT_NAMES]
    taken = {name for name, _ in own}
    inherited = [(name, value) for name, value in base.get(OWN, []) if name.strip() not in taken]
    return base | {field: values for field, values in named.items() if values} | {OWN: inherited + own}
