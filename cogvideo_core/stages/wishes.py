"""What a clip's record asks for: its target prompts, and the edits that follow from each with the run's recipe."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from typing import Any, NamedTuple, NotRequired, TypedDict

from cogvideo_core.errors import ClipError
from cogvideo_core.settings.overrides import overridden, own_recipe
from cogvideo_core.settings.specs import RecipeSpec
from cogvideo_core.stages.failures import failure, is_failure

Record = dict[str, Any]


class Prompt(NamedTuple):
    """A target prompt of a clip. The same one may come again with another override."""

    text: str
    override: str = ""  # what its row says instead of the run's recipe; see settings.overrides
    own: str = ""  # the user's own columns as JSON


class Asked(TypedDict):
    """What a planned edit asks for, besides what all edits of its clip share."""

    target_prompt: str
    recipe: str
    seed: int
    strength: float
    negative_prompt: str
    own_recipe: NotRequired[str]  # the whole recipe as JSON, where the edit's row names a recipe file


def prompts_of(record: Mapping[str, Any]) -> list[Prompt]:
    """Plans of earlier versions have no overrides, or no columns either."""
    texts = record["target_prompts"]
    overrides, owns = (record.get(name) or [""] * len(texts) for name in ("overrides", "own"))
    return [Prompt(text, override or "", own or "") for text, override, own in zip(texts, overrides, owns, strict=True)]


def asked_of(recipe: RecipeSpec, prompts: Sequence[Prompt], rung: int = 0) -> list[tuple[Asked, str]]:
    """The edits of these prompts on a rung of the ladder, each with the own columns of its prompt: prompts, then
    recipes, seeds, strengths. An edit that several prompts ask for is there once, with the first one's columns."""
    recipes = {override: overridden(recipe, override) for override in {prompt.override for prompt in prompts}}
    rungs = {override: dict(enumerate(own.rungs)).get(rung, []) for override, own in recipes.items()}
    texts = {override: own.model_dump_json() for override, own in recipes.items() if own_recipe(override)}
    found: dict[tuple[str, str, int, float, str, str], str] = {}
    for prompt in prompts:
        for variant in rungs[prompt.override]:
            negative, text = recipes[prompt.override].negative_prompt, texts.get(prompt.override, "")
            found.setdefault((prompt.text, *variant, negative, text), prompt.own)
    return [(_asked(*asked), own) for asked, own in found.items()]


def _asked(target_prompt: str, recipe: str, seed: int, strength: float, negative_prompt: str, text: str) -> Asked:
    asked = Asked(
        target_prompt=target_prompt, recipe=recipe, seed=seed, strength=strength, negative_prompt=negative_prompt
    )
    return asked | {"own_recipe": text} if text else asked


def identity(asked: Mapping[str, Any]) -> tuple[Any, ...]:
    """What tells the edits of a clip apart."""
    return tuple(asked.get(name, "") for name in Asked.__annotations__)


def recipe_of(recipe: RecipeSpec, asked: Asked) -> RecipeSpec:
    """The recipe that an edit is made by, in a run with this recipe."""
    text = asked.get("own_recipe")
    own = _parsed(text) if text else recipe.candidate(asked["recipe"])
    return own.model_copy(update={"negative_prompt": asked["negative_prompt"]})


@lru_cache(maxsize=256)
def _parsed(recipe: str) -> RecipeSpec:
    return RecipeSpec.model_validate_json(recipe)


def recipes_of(recipe: RecipeSpec, overrides: Iterable[str] | None) -> list[RecipeSpec]:
    """The recipe of each candidate of a clip with these overrides, the ladder's included; without any, the run's."""
    found = {}
    for override in dict.fromkeys(overrides or [""]):
        for each in overridden(recipe, override).candidates:
            found[each.name, each.negative_prompt] = each
    return list(found.values())


def edits_by_recipe(recipe: RecipeSpec, record: Mapping[str, Any]) -> Counter[str]:
    """How many edits of each recipe a clip is planned to have; those of the ladder are not among them."""
    if any(record.get("overrides") or ()):
        return Counter(asked["recipe"] for asked, _ in asked_of(recipe, prompts_of(record)))
    variants = Counter(variant.recipe for variant in recipe.rungs[0])
    return Counter({name: count * len(record["target_prompts"]) for name, count in variants.items()})


def fitting(recipe: RecipeSpec, record: Record) -> Iterator[Record]:
    """The record with the prompts whose overrides go with the run's recipe, and a failure for each that does not."""
    prompts, wrong = list[Prompt](), 0
    for prompt in () if is_failure(record) else prompts_of(record):
        try:
            overridden(recipe, prompt.override)
            prompts.append(prompt)
        except ValueError as error:
            wrong += 1
            if not record.get("window"):  # once a row
                yield failure({"clip": record["clip"]}, "discover", _misfit(record["clip"], prompt, error), 1)
    if wrong:
        names = ("target_prompts", "overrides", "own")
        record = record | dict(zip(names, map(list, zip(*prompts, strict=True)), strict=False))
    if prompts or not wrong:
        yield record


def _misfit(clip: str, prompt: Prompt, error: ValueError) -> ClipError:
    why = str(getattr(error, "errors", list)()[0]["msg"]).removeprefix("Value error, ").split(";")[0]
    problem = f"its edit {prompt.text[:60]!r} can't be made with {prompt.override[:200]} in this run: {why}"
    return ClipError(clip, problem, "change its recipe, seed or strength, or the run's")
