"""What is read out of a model's answers, well formed or not, and which target prompts count as the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvideo_core.captions.answers import Edit, caption_in, edits_in
from cogvideo_core.captions.duplicates import distinct, similarity
from cogvideo_core.inputs.fields import MAX_PROMPT
from cogvideo_core.storage.uris import has_control

SOURCE = "a red car on a road"
BLUE = {"target_prompt": "a blue car on a road", "instruction": "paint it blue", "edit_type": "colour"}
NIGHT = {"target_prompt": "a red car on a road at night", "instruction": "make it night", "edit_type": "time"}
BOTH = [Edit(**BLUE), Edit(**NIGHT)]
LIST = json.dumps([BLUE, NIGHT])


@pytest.mark.parametrize(
    "answer",
    [
        LIST,
        f"```json\n{LIST}\n```",
        f"Sure! Here are [two] edits:\n\n{LIST}\nTell me {{if}} you need more.",
        json.dumps({"edits": [BLUE, NIGHT]}),
        f"{json.dumps(BLUE)}\n{json.dumps(NIGHT)}",
        f"1. {json.dumps(BLUE)}\n2. {json.dumps(NIGHT)}",
        f"<think>[{{'no': 1}}] {json.dumps([{'target_prompt': 'no'}])}</think>{LIST}",
        LIST[:-1] + ', {"target_prompt": "a car that bre',
        json.dumps([{"Target Prompt": e["target_prompt"], "Instruction": e["instruction"], "type": e["edit_type"]}
                    for e in (BLUE, NIGHT)]),
    ],
    ids=["plain", "fenced", "amid text", "wrapped", "lines", "numbered", "thoughts", "cut", "other names"],
)  # fmt: skip
def test_edits_are_found_in_any_wrapping(answer: str) -> None:
    """The two edits, with instruction and kind, however the model has put them."""
    assert edits_in(answer, SOURCE) == BOTH


@pytest.mark.parametrize(
    "answer",
    [
        '["a blue car on a road", "a red car on a beach"]',
        "1. a blue car on a road\n2) “a red car on a beach”",
        "Ideas:\n- a blue car on a road\n* a red car on a beach",
    ],
)
def test_mere_prompts_get_the_grammars_instruction(answer: str) -> None:
    """JSON texts, or lines of a list."""
    found = edits_in(answer, SOURCE)
    assert [edit.target_prompt for edit in found] == ["a blue car on a road", "a red car on a beach"]
    assert [edit.instruction for edit in found] == ["change the red car to a blue car", "replace the road with a beach"]


@pytest.mark.parametrize(
    "answer",
    [
        "",
        "I'm sorry, I can't help with that.",
        "[]",
        "[1, 2]",
        '[{"target_prompt": 7}]',
        '[{"target_prompt": "A red car on a road"}]',  # changes nothing
        json.dumps([{"target_prompt": "x" * (MAX_PROMPT + 1)}]),
        json.dumps([{"target_prompt": "a \x00 car"}]),
        '[{"target_prompt": "a \\ud800 car"}]',
        "[" * 50_000,
        '{"a":' * 20_000,
        "[{" * 20_000,
        "[" + "</think" * 7_000,
        "\n" * 50_000,
        '["' + " " * 40_000 + '"]',
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_edit_is_none(answer: str) -> None:
    """Refusals, other JSON, what can't be a prompt, and brackets without end."""
    assert edits_in(answer, SOURCE) == []


@pytest.mark.parametrize(
    ("answer", "caption"),
    [
        ("A red car drives.", "A red car drives."),
        ('  "A red car\n drives."  ', "A red car drives."),
        ("Caption: A red car drives.", "A red car drives."),
        ("**Description:** A red car drives.", "A red car drives."),
        ("```\nA red car drives.\n```", "A red car drives."),
        ('{"caption": "A red car drives."}', "A red car drives."),
        ("<think>hm</think>A red car drives.", "A red car drives."),
        ("A \u202ered\u202c car", "A red car"),  # marks that turn the reading direction
        ("I'm sorry, but I can't see the video.", ""),
        ("", ""),
        ("\x07", ""),
        ("word " * 1_000, ""),
    ],
)
def test_captions(answer: str, caption: str) -> None:
    """One line without wrapping, or nothing."""
    assert caption_in(answer) == caption


@settings(max_examples=30)
@given(st.text() | st.recursive(st.text() | st.integers() | st.none(), st.lists).map(json.dumps))
def test_any_answer_is_read(answer: str) -> None:
    """What comes out fits a manifest: no control character, no line break, not too long."""
    for text in [caption_in(answer), *(part for edit in edits_in(answer, "") for part in edit)]:
        assert len(text) <= MAX_PROMPT and not has_control(text)


def prompts(kept: list[str], *new: str, limit: float = 0.75, source: str = SOURCE) -> list[str]:
    return [edit.target_prompt for edit in distinct(source, kept, [Edit(text, "") for text in new], limit)]


def test_of_two_alike_the_first_stays() -> None:
    """Equal but for case, articles and order; one like a prompt of the row; one that says what the source says."""
    blue, beach = "a blue car on a road", "a red car on a beach"
    assert prompts([], blue, "The blue car, on the road!", beach) == [blue, beach]
    assert prompts([blue], "on a road a blue car", beach) == [beach]
    assert prompts([], "On the road: a red car") == []
    assert prompts([], "a red car", "the red car") == ["a red car"]  # the road is left out twice


def test_one_new_word_in_a_long_prompt_is_an_edit() -> None:
    """Prompts are compared by what they add, not as a whole: those of one clip have nearly all words in common."""
    source = "a red sports car with black wheels drives along a winding road by the sea"
    blue, green = source.replace("red", "blue"), source.replace("red", "green")
    assert prompts([], blue, green, source=source) == [blue, green]
    assert similarity(frozenset(blue.split()), frozenset(green.split())) > 0.85  # which would have been dropped


def test_the_limit_is_a_share_of_new_words() -> None:
    """Four of five new words in common: dropped at 0.75, kept at 0.85; without spaces each character is a word."""
    one, other = "a red car in deep white snow", "a red car in deep white cold snow"
    assert (prompts([], one, other), prompts([], one, other, limit=0.85)) == ([one], [one, other])
    assert prompts([], "一只狗", "一只 狗", "一只鸟", source="一只猫") == ["一只狗", "一只鸟"]


@given(st.lists(st.text(max_size=20), max_size=5), st.text(max_size=20))
def test_distinct_ones_stay_distinct(new: list[Any], source: str) -> None:
    """Filtering what was filtered changes nothing."""
    once = prompts([], *new, source=source)
    assert prompts([], *once, source=source) == once
