"""Instructions from pairs of prompts: a table read by eye, and what holds for any pair."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvideo_core.captions.grammar import ADJECTIVES, FUNCTION, PREPOSITIONS, WORD, instruction_of

PAIRS = [
    ("a red car drives on a road", "a blue car drives on a road", "change the red car to a blue car"),
    ("a red apple", "an orange apple", "change the red apple to an orange apple"),
    ("A wooden table.", "A glass table.", "change the wooden table to a glass table"),
    ("red cars drive", "blue cars drive", "change the red cars to blue cars"),
    ("a woman in a red dress dances", "a woman in a blue dress dances", "change the red dress to a blue dress"),
    ("a cat sleeps on a sofa", "a dog sleeps on a sofa", "replace the cat with a dog"),
    ("the large red ball rolls", "the large red cube rolls", "replace the large red ball with the large red cube"),
    ("a red big car drives", "a blue big truck drives", "replace the red big car with a blue big truck"),
    ("a man with a hat", "a man with an umbrella", "replace the hat with an umbrella"),
    ("a street in summer", "a street in winter", "replace summer with winter"),
    ("the sky is blue", "the sky is orange", "replace blue with orange"),
    ("a dog running on a beach", "a dog jumping on a beach", "show it jumping instead of running"),
    ("a car on a road", "a red car on a road", "make the car red"),
    ("a red car", "a car", "make the car no longer red"),
    ("a man walks", "a man with a hat walks", "add a hat"),
    ("a car", "a car and a dog", "add a dog"),
    ("a car", "a dog and a car", "add a dog"),
    ("a man with a hat walks", "a man walks", "remove the hat"),
    ("a dog and a car", "a car", "remove the dog"),
    ("a city street", "a city street at night", "make it at night"),
    ("a boat on a lake", "a boat on a lake in the style of Van Gogh", "make it in the style of Van Gogh"),
    (
        "a red car on a road",
        "a blue car on a beach",
        "change the red car to a blue car and replace the road with a beach",
    ),
    ("a cat on a sofa", "an astronaut rides a horse through space", "an astronaut rides a horse through space"),
    ("", "a cat", "a cat"),
    ("a cat", "a cat", "a cat"),
    ("一只猫", "一只狗", "一只狗"),
]
NOUNS = ["car", "dog", "house", "lake", "tree", "woman"]
noun_phrase = st.builds(
    lambda article, adjectives, noun: " ".join([article, *adjectives, noun]),
    st.sampled_from(["a", "the"]),
    st.lists(st.sampled_from(sorted(ADJECTIVES)), max_size=2),
    st.sampled_from(NOUNS),
)
prompt = st.lists(noun_phrase, min_size=1, max_size=4).flatmap(
    lambda parts: st.sampled_from(sorted(PREPOSITIONS)).map(lambda word: f" {word} ".join(parts))
)


@pytest.mark.parametrize(("source", "target", "wanted"), PAIRS)
def test_pairs(source: str, target: str, wanted: str) -> None:
    """What a person would ask for, in plain English."""
    assert instruction_of(source, target) == wanted


def new_words(source: str, target: str) -> set[str]:
    """Words of the target that the source lacks, function words left out."""
    return {word.casefold() for word in WORD.findall(target)} - {w.casefold() for w in WORD.findall(source)} - FUNCTION


@given(prompt, prompt)
def test_instructions_name_what_is_new(source: str, target: str) -> None:
    """Every new word stands in the instruction, on one line, and the same pair gives the same words."""
    found = instruction_of(source, target)
    assert new_words(source, target) <= {word.casefold() for word in WORD.findall(found)}
    assert found == instruction_of(source, target) and re.fullmatch(r"\S.*\S|\S", found)


@given(st.text(max_size=80), st.text(max_size=80))
def test_any_texts_have_an_instruction(source: str, target: str) -> None:
    """It is empty only where the target is, and nothing raises."""
    assert bool(instruction_of(source, target)) == bool(target.strip())
