"""Recipe files: YAML, TOML or JSON with a group `recipe` and perhaps `inversion`, as `tune` writes them."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import ValidationError

from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.recipes import RECIPES
from cogvideo_core.settings.specs import InversionSpec, RecipeSpec

ENDINGS = (".yaml", ".yml", ".toml", ".json")
MOST_BYTES = 100_000
LIKE_THIS = "give a file with a group recipe, as cogvideo-edit tune writes it"


class RecipeFile(NamedTuple):
    """A recipe, and the fields of the inversion that the file names."""

    recipe: RecipeSpec
    inversion: dict[str, Any]


def is_recipe_file(name: str) -> bool:
    """Whether a recipe's name is that of a file."""
    return name.lower().endswith(ENDINGS)


def read_recipe(path: Path) -> RecipeFile:
    """The recipe of a file on this machine. Raises BadSpec."""
    try:
        with path.open("rb") as file:
            return parsed_recipe(str(path), file.read(MOST_BYTES + 1))
    except OSError as error:
        raise BadSpec(f"field recipe: {str(path)!r} can't be read ({error.strerror}); {LIKE_THIS}") from error


def parsed_recipe(name: str, raw: bytes) -> RecipeFile:
    """The recipe of a file's bytes. Raises BadSpec, which names the file and the field."""
    try:
        if len(raw) > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES:,} bytes")
        text = raw.decode("utf-8")
        found = tomllib.loads(text) if name.lower().endswith(".toml") else yaml.load(text, _NoAliases)
    except (ValueError, yaml.YAMLError, RecursionError) as error:
        why = " ".join(str(error).split())[:200]
        raise BadSpec(f"field recipe: {name!r} can't be read ({why}); {LIKE_THIS}") from error
    if not isinstance(found, dict) or not isinstance(found.get("recipe"), dict):
        raise BadSpec(f"field recipe: {name!r} holds no recipe; {LIKE_THIS}")
    inversion = found.get("inversion") or {}
    try:
        recipe = RecipeSpec(**{str(field): value for field, value in found["recipe"].items()})
        InversionSpec(**inversion)
    except (ValidationError, TypeError) as error:
        raise BadSpec(f"field recipe: {name!r}: {_first(error)}; correct the file") from error
    if recipe.name in RECIPES and recipe != _preset(recipe.name):
        problem = f"its name {recipe.name!r} is that of a preset, and it is another recipe"
        raise BadSpec(f"field recipe: {name!r}: {problem}; give it a name of its own")
    return RecipeFile(recipe, dict(inversion))


def _preset(name: str) -> RecipeSpec:
    return RecipeSpec(**RecipeSpec(preset=name).as_json())


def _first(error: Exception) -> str:
    if not isinstance(error, ValidationError):
        return "its groups hold no fields"
    first = error.errors()[0]
    return f"{'.'.join(map(str, first['loc']))}: {first['msg'].removeprefix('Value error, ')}".removeprefix(": ")


class _NoAliases(yaml.SafeLoader):
    """Plain YAML: a short file can't stand for a huge value."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("it has aliases")
        return super().compose_node(parent, index)
