"""The recipe files that a manifest's rows name: read once, and put into the rows' overrides in place of their names."""

from __future__ import annotations

import json
from typing import Any

from cogvideo_core.errors import BadSpec, ClipError, ForbiddenUri
from cogvideo_core.inputs.fields import short
from cogvideo_core.settings.overrides import override_text
from cogvideo_core.settings.recipe_files import MOST_BYTES, is_recipe_file, parsed_recipe
from cogvideo_core.settings.specs import RecipeSpec, canonical
from cogvideo_core.storage.uris import open_store, resolve, scrubbed

NOT_STEERING = ("seeds", "strengths", "recipes", "ladder", "most_candidates", "negative_prompt")  # these are the run's


def with_recipe(clip: str, override: str, place: tuple[str, bool, bool], known: dict[str, str]) -> str:
    """The override with a recipe's fields where it names a file.

    place: as `resolve` takes it, for the file lies as clips do. known: fields of files that were read, by address.

    Raises ClipError, ForbiddenUri.
    """
    own: dict[str, Any] = json.loads(override) if override else {}
    name = own.get("recipe", "")
    if not isinstance(name, str) or not is_recipe_file(name):
        return override
    try:
        uri = resolve(name, *place)
    except ForbiddenUri as error:
        raise ForbiddenUri(short(clip), f"recipe {name[:100]!r}: {error.problem}", error.remedy) from error
    try:
        if uri not in known:
            known[uri] = _fields(uri)
        return override_text(own | {"recipe": json.loads(known[uri])})
    except BadSpec as error:
        problem, _, remedy = str(error).removeprefix("field recipe: ").rpartition("; ")
        raise ClipError(short(clip), f"its recipe file {problem}", remedy) from error


def _fields(uri: str) -> str:
    """The steering fields of a recipe file that are not at their defaults, and its name, as canonical JSON."""
    store, path = open_store(uri)
    try:
        with store.open(path, "rb") as file:
            raw = file.read(MOST_BYTES + 1)
    except Exception as error:  # every store has its own classes
        raise BadSpec(f"field recipe: {uri!r} can't be read ({scrubbed(error)}); check its path and access") from error
    recipe, plain = parsed_recipe(uri, raw).recipe.as_json(), RecipeSpec().as_json()
    kept = {name: value for name, value in recipe.items() if value != plain[name] and name not in NOT_STEERING}
    return canonical(kept | {"name": recipe["name"]})
