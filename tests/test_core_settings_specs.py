"""Specs are frozen, bounded and described, and their fingerprints depend on values alone."""

from __future__ import annotations

import hashlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any, Literal, get_origin

import annotated_types as at
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from cogvideo_core.settings import specs
from cogvideo_core.settings.presets import PRESETS
from cogvideo_core.settings.recipes import Preset
from cogvideo_core.settings.specs import (
    DatasetSpec,
    EngineSpec,
    InversionSpec,
    ModelSpec,
    OutputSpec,
    RecipeSpec,
    Spec,
    canonical,
    fingerprint,
)

ROOT = Path(__file__).parents[1]
GROUPS: list[type[Spec]] = [DatasetSpec, ModelSpec, InversionSpec, RecipeSpec, OutputSpec, EngineSpec]
FIELDS = [(group, name, field) for group in GROUPS for name, field in group.model_fields.items()]
FIELD_IDS = [f"{group.__name__}.{name}" for group, name, _ in FIELDS]
FREE = [
    (group, name)
    for group, name, field in FIELDS
    if name != "preset" and len(getattr(field.annotation, "__args__", "many")) > 1
]
PRINT_FINGERPRINTS = """
from cogvideo_core.settings import presets, specs
for group in (specs.DatasetSpec, specs.ModelSpec, specs.InversionSpec, specs.OutputSpec, specs.EngineSpec):
    print(group().fingerprint)
for recipe in presets.PRESETS.values():
    print(recipe.fingerprint)
"""


def pattern_of(field: FieldInfo) -> str:
    return next((m.pattern for m in field.metadata if getattr(m, "pattern", None)), "")


def outside(field: FieldInfo) -> list[Any]:
    """Values just outside each of a field's bounds."""
    steps = {at.Ge: ("ge", -1), at.Gt: ("gt", 0), at.Le: ("le", 1), at.Lt: ("lt", 0)}
    bounds = [(m, *steps[type(m)]) for m in field.metadata if type(m) in steps]
    values = [getattr(bound, attribute) + step for bound, attribute, step in bounds]
    if get_origin(field.annotation) is Literal:
        values.append("no such choice")
    if pattern_of(field):
        values += ["", "bad value!\n"]
    for m in field.metadata:
        whole = "" if field.annotation is str else []
        values += [whole] if isinstance(m, at.MinLen) else []
        values += [list(range(m.max_length + 1))] if isinstance(m, at.MaxLen) else []
    return values


REFUSED = [(group, name, value) for group, name, field in FIELDS for value in outside(field)]


def strategy(name: str, field: FieldInfo) -> st.SearchStrategy[Any]:
    """Values a field accepts. A preset is no value: it is gone once it has given the others theirs."""
    if name == "preset":
        return st.just("balanced")
    if name == "frames":
        return st.sampled_from([0, 9, 17, 49, 81, 241])
    if name == "seeds":
        return st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=64, unique=True)
    if name == "strengths":
        return st.lists(st.floats(0.01, 100), min_size=1, max_size=16, unique=True)
    if name in ("recipes", "ladder"):
        return st.lists(st.sampled_from(["balanced", "bold", "fast", "faithful"]), max_size=4, unique=True)
    if pattern_of(field):
        return st.from_regex(pattern_of(field).replace("$", r"\Z").replace(r"\d", "[0-9]"), fullmatch=True)
    bounds = tuple(field.metadata)
    annotation: Any = Annotated[(field.annotation, *bounds)] if bounds else field.annotation
    finite = st.from_type(annotation)
    return finite.filter(math.isfinite) if field.annotation is float else finite


def in_order(values: dict[str, Any]) -> dict[str, Any]:
    """Fields are drawn at random; a spec wants windows' starts before their ends, and seeds and start that agree."""
    for what in ("guidance", "reference", "layer"):
        pair = [f"{what}_start", f"{what}_end"]
        if pair[0] in values:
            values |= dict(zip(pair, sorted(values[p] for p in pair), strict=True))
    if values.get("start") == "inverted":
        values["seeds"] = values["seeds"][:1]
    if len(values.get("seeds", [0])) > 1:
        values |= {"recipes": [], "ladder": []}
    if "start_at" in values:
        values["start_at"] = min(values["start_at"], values["guidance_end"] / 2, values["reference_end"] / 2)
    if values.get("reference_weight") == 0:
        values["strengths"] = [1.0]
    return values


def any_spec(group: type[Spec]) -> st.SearchStrategy[Spec]:
    fields = {name: strategy(name, field) for name, field in group.model_fields.items()}
    return st.fixed_dictionaries(fields).map(in_order).map(lambda values: group(**values))


ANY_SPEC = st.one_of(*(any_spec(group) for group in GROUPS))


def test_a_fingerprint_is_the_sha256_of_canonical_json() -> None:
    """Its definition by hand, so that a change of it can't pass unseen: every stored key would change with it."""
    assert canonical({"b": [1, 2.5], "a": "é"}) == '{"a":"\\u00e9","b":[1,2.5]}'
    assert fingerprint({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()
    by_hand = json.dumps(InversionSpec().model_dump(), sort_keys=True, separators=(",", ":"))
    assert InversionSpec().fingerprint == hashlib.sha256(by_hand.encode()).hexdigest()


def test_fingerprints_are_the_same_in_every_process() -> None:
    """Processes with different hash seeds print the fingerprints that this one computes."""
    defaults = [group().fingerprint for group in GROUPS if group is not RecipeSpec]
    expected = [*defaults, *(recipe.fingerprint for recipe in PRESETS.values())]
    for seed in ("0", "1", "4242"):
        environment = os.environ | {"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", PRINT_FINGERPRINTS]
        done = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
        assert done.stdout.split() == expected


@given(ANY_SPEC, st.randoms())
def test_fingerprints_ignore_the_order_of_fields(spec: Spec, random: Any) -> None:
    """The same values in another order are the same spec with the same fingerprint."""
    items = list(spec.as_json().items())
    random.shuffle(items)
    again = type(spec)(**dict(items))
    assert again == spec
    assert again.fingerprint == spec.fingerprint


@pytest.mark.parametrize("group", GROUPS)
def test_fingerprints_ignore_how_a_default_was_given(group: type[Spec]) -> None:
    """All defaults written out, and integers in place of whole floats, change nothing."""
    values = group().as_json()
    whole = {k: int(v) if isinstance(v, float) and v.is_integer() else v for k, v in values.items()}
    assert {group().fingerprint, group(**values).fingerprint, group(**whole).fingerprint} == {group().fingerprint}


@given(ANY_SPEC, ANY_SPEC)
def test_fingerprints_tell_values_apart(one: Spec, other: Spec) -> None:
    """Equal fingerprints mean equal values, and the other way round."""
    assert (one.as_json() == other.as_json()) == (one.fingerprint == other.fingerprint)


@pytest.mark.parametrize(("group", "name"), FREE)
@given(data=st.data())
@settings(max_examples=5)
def test_every_field_changes_the_fingerprint(group: type[Spec], name: str, data: st.DataObject) -> None:
    """No field is left out of the key: two specs that differ in it alone have two fingerprints."""
    one = data.draw(any_spec(group))
    value = data.draw(strategy(name, group.model_fields[name]).filter(lambda v: v != getattr(one, name)))
    other = one.model_copy(update={name: value})
    assert other.fingerprint != one.fingerprint


@given(ANY_SPEC)
def test_json_round_trip(spec: Spec) -> None:
    """Written as JSON and read back, a spec is equal and has the same fingerprint."""
    again = type(spec).model_validate_json(json.dumps(spec.as_json()))
    assert again == spec
    assert again.fingerprint == spec.fingerprint


@pytest.mark.parametrize("group", GROUPS)
def test_unknown_fields_are_refused(group: type[Spec]) -> None:
    """A misspelt setting is an error that names it, never silently ignored."""
    with pytest.raises(ValidationError, match="guidance_scael"):
        group(**{"guidance_scael": 3})


@pytest.mark.parametrize(("group", "name", "value"), REFUSED, ids=lambda v: getattr(v, "__name__", None))
def test_values_out_of_bounds_are_refused_by_name(group: type[Spec], name: str, value: Any) -> None:
    """A value just outside a bound, a choice or a pattern is refused, and the message names the field."""
    with pytest.raises(ValidationError, match=rf"(?m)^{name}$"):
        group(**{name: value})


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("name", ["max_seconds", "timeout_s"])
def test_only_finite_numbers_are_taken(name: str, value: float) -> None:
    """Infinity would pass an open bound and then have no JSON, hence no fingerprint."""
    with pytest.raises(ValidationError, match=name):
        DatasetSpec(**{name: value})


@given(st.integers(0, 241))
def test_frames_follow_the_rule(frames: int) -> None:
    """0 (the model's own) and 8k+1 are taken; all else is refused with a number that would be taken."""
    if frames == 0 or frames % 8 == 1:
        assert DatasetSpec(frames=frames).frames == frames
        return
    with pytest.raises(ValidationError, match="frames must be 8k") as refusal:
        DatasetSpec(frames=frames)
    advised = int(str(refusal.value).split("use ")[1].split()[0])
    assert DatasetSpec(frames=advised).frames == advised


@pytest.mark.parametrize("what", ["reference", "layer"])
def test_a_window_that_ends_before_it_starts_is_refused(what: str) -> None:
    """The message names both ends and gives both values."""
    with pytest.raises(ValidationError, match=rf"{what}_start \(0.75\).*{what}_end \(0.25\)"):
        RecipeSpec(**{f"{what}_start": 0.75, f"{what}_end": 0.25})


@pytest.mark.parametrize(
    "fields", [{"strengths": [1, 1.0]}, {"strengths": [0]}, {"strengths": [101]}, {"reference_weight": 0}]
)
def test_strengths_are_distinct_and_divide_something(fields: dict[str, Any]) -> None:
    """Equal strengths would be one edit under two rows; 0 and a weight of 0 have nothing to divide."""
    with pytest.raises(ValidationError, match="strengths"):
        RecipeSpec(**{"strengths": [0.5, 1.0]} | fields)


@pytest.mark.parametrize("seeds", [[1, 1], [-1], [2**63]])
def test_seeds_are_distinct_and_fit_a_generator(seeds: list[int]) -> None:
    """Equal seeds would be one edit under two rows; a generator takes 0 .. 2**63 - 1."""
    with pytest.raises(ValidationError, match="seeds"):
        RecipeSpec(seeds=seeds)


@pytest.mark.parametrize(("group", "name", "field"), FIELDS, ids=FIELD_IDS)
def test_specs_are_frozen(group: type[Spec], name: str, field: FieldInfo) -> None:
    """No field can be assigned after a spec was made."""
    spec = group()
    with pytest.raises(ValidationError, match="frozen"):
        setattr(spec, name, field.default)


@pytest.mark.parametrize(("group", "name", "field"), FIELDS, ids=FIELD_IDS)
def test_every_field_is_described_and_shows_in_a_form(group: type[Spec], name: str, field: FieldInfo) -> None:
    """Title, description and default are there; the type is one that a form shows well: one level, never None."""
    assert field.title and field.title[0].isupper()
    assert field.description and field.description.strip() == field.description
    assert not field.is_required()
    plain = (str, int, float, bool, list[int], list[float], list[Preset])
    assert field.annotation in plain or get_origin(field.annotation) is Literal


def test_every_group_is_looked_at() -> None:
    """The groups named in this file are all that the module defines."""
    defined = {c for c in vars(specs).values() if isinstance(c, type) and issubclass(c, BaseModel)}
    assert defined - {BaseModel, Spec} == set(GROUPS)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_valid_and_carry_their_names(name: str) -> None:
    """A preset passes its own validation, is called what the table calls it, and differs from all others."""
    preset = PRESETS[name]
    assert RecipeSpec(**preset.as_json()) == preset
    assert preset.name == name
    assert [n for n, other in PRESETS.items() if other.fingerprint == preset.fingerprint] == [name]


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_gives_its_values_to_fields_left_at_their_defaults(name: str) -> None:
    """As a form sends it, with every field: defaults become the preset's values, what was changed stays, and the values
    alone make the same recipe, under the same fingerprint."""
    form = RecipeSpec().as_json() | {"preset": name}
    assert RecipeSpec(**form).as_json() == PRESETS[name].as_json()
    changed = RecipeSpec(**form | {"guidance_scale": 3.0, "name": "mine"})
    assert changed.as_json() == PRESETS[name].as_json() | {"guidance_scale": 3.0, "name": "mine"}
    assert RecipeSpec(**changed.as_json()).fingerprint == changed.fingerprint


@pytest.mark.parametrize("preset", ["none such", ["bold"], 3, None])
def test_no_other_presets(preset: Any) -> None:
    """A preset that there is none of is refused by its field's name, whatever its type."""
    with pytest.raises(ValidationError, match="preset"):
        RecipeSpec(preset=preset)


def test_settings_that_would_do_nothing_are_refused() -> None:
    """Several seeds from inverted noise are equal edits; a window that ends before the first step is none."""
    with pytest.raises(ValidationError, match="seeds"):
        RecipeSpec(seeds=[0, 1])
    assert RecipeSpec(seeds=[0, 1], start="noised").seeds == [0, 1]
    with pytest.raises(ValidationError, match=r"guidance_end \(0.6\) is not after start_at \(0.7\)"):
        RecipeSpec(start_at=0.7)
    with pytest.raises(ValidationError, match=r"reference_end \(0.1\) is not after start_at \(0.2\)"):
        RecipeSpec(reference_end=0.1)
    with pytest.raises(ValidationError, match="guidance_end"):
        RecipeSpec(start_at=1.0)
    assert RecipeSpec(start_at=1.0, guidance_end=1.0).start_at == 1.0
    assert RecipeSpec(start_at=0.7, start="fresh").start == "fresh"


def test_rungs_hold_the_candidates_of_a_prompt() -> None:
    """Rival presets first, then the ladder's that are not among them, cut at the most that are allowed."""
    recipe = RecipeSpec(recipes=["balanced", "bold"], ladder=["bold", "fast"], strengths=[1.0, 2.0])
    first, second = recipe.rungs
    assert [(v.recipe, v.strength) for v in first] == [("balanced", 1), ("balanced", 2), ("bold", 1), ("bold", 2)]
    assert [(v.recipe, v.strength) for v in second] == [("fast", 1), ("fast", 2)]
    cut = RecipeSpec(**recipe.as_json() | {"most_candidates": 5})
    assert [len(rung) for rung in cut.rungs] == [4, 1]
    assert [len(rung) for rung in RecipeSpec(most_candidates=3).rungs] == [1]


def test_a_candidate_is_its_preset_with_the_groups_own_seeds() -> None:
    """The recipe of that name is the group itself; others are presets with its seeds, strengths and negative prompt."""
    recipe = RecipeSpec(guidance_scale=9, recipes=["balanced", "bold"], negative_prompt="blurry")
    own, bold = recipe.candidates
    assert own.guidance_scale == 9 and own.recipes == []
    assert bold == RecipeSpec(preset="bold", negative_prompt="blurry")


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"recipes": ["bold", "bold"]}, "recipes must be distinct"),
        ({"recipes": ["text"], "strengths": [2.0]}, "recipes: text can't be edited with these seeds and strengths"),
        ({"start": "noised", "seeds": [1, 2], "ladder": ["bold"]}, "ladder: bold can't be edited .* draws none"),
    ],
)
def test_candidates_that_cannot_be_are_refused(fields: dict[str, Any], told: str) -> None:
    """One sentence names the field, the preset and why."""
    with pytest.raises(ValidationError, match=told):
        RecipeSpec(**fields)
