"""What a row of a manifest changes in the run's recipe, for its own edits alone."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from cogvideo_core.settings.edit_specs import LEAST_STRENGTH as LEAST_STRENGTH
from cogvideo_core.settings.edit_specs import MOST_SEED as MOST_SEED
from cogvideo_core.settings.edit_specs import MOST_STRENGTH as MOST_STRENGTH
from cogvideo_core.settings.edit_specs import RecipeSpec
from cogvideo_core.settings.fingerprints import canonical


def override_text(given: Mapping[str, Any]) -> str:
    """Any of recipe, seed, strength and negative_prompt as canonical JSON; equal ones are equal texts. "": none.

    recipe: a preset's name, or the fields of a recipe file, which `own_recipe` tells apart."""
    return canonical(dict(given)) if given else ""


def overridden(recipe: RecipeSpec, override: str) -> RecipeSpec:
    """The run's recipe as an override changes it: only this seed, only this strength, this negative prompt. A recipe
    that is named takes the place of all candidates, those of the ladder included.

    Raises ValidationError (a ValueError) where that is no recipe, such as a strength for one without a reference.
    """
    return _overridden(recipe.model_dump_json(), override) if override else recipe


def own_recipe(override: str) -> bool:
    """Whether an override brings a recipe of a file."""
    return '"recipe":{' in override and isinstance(json.loads(override).get("recipe"), dict)


@lru_cache(maxsize=4096)
def _overridden(recipe: str, override: str) -> RecipeSpec:
    run, own = RecipeSpec.model_validate_json(recipe), json.loads(override)
    fields = run.as_json()
    if isinstance(own.get("recipe"), dict):  # of a file
        shared = {name: fields[name] for name in ("seeds", "strengths", "negative_prompt", "most_candidates")}
        fields = RecipeSpec(**own["recipe"]).as_json() | shared | {"recipes": [], "ladder": []}
    elif "recipe" in own:
        fields = run.candidate(own["recipe"]).as_json() | {"most_candidates": run.most_candidates}
    fields |= {f"{name}s": [own[name]] for name in ("seed", "strength") if name in own}
    return RecipeSpec(**fields | {name: own[name] for name in ("negative_prompt",) if name in own})
