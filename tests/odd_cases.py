"""Odd inputs and the values that are right for them: what the test and the benchmark of odd inputs both go through.

A case makes its input in an empty folder and judges what the project makes of it. The right value comes from how the
input was made, from a standard's formula or from another program, never from this project's code.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Literal, NamedTuple

RIGHT, REFUSED = "right", "refused"


class Case(NamedTuple):
    """One odd input."""

    section: Literal["clips", "rows", "models"]
    name: str  # unique; letters, digits, dots, hyphens and underscores
    expected: str  # what is right, in words
    judge: Callable[[Path], str]  # empty folder -> RIGHT, REFUSED (where a refusal is right), or what is wrong


def one_sentence(message: str) -> str:
    """ "" for an error's message that can be shown as it is, else what is wrong with it."""
    if not message.strip():
        return "an empty message"
    if not message.isprintable():
        return f"a message with control characters: {message!r}"
    return "a traceback" if "Traceback" in message else ""


def all_cases() -> list[Case]:
    """Every case of every module, in a fixed order."""
    import odd_clips
    import odd_models
    import odd_picture
    import odd_rows
    import odd_sources

    return [*odd_clips.cases(), *odd_picture.cases(), *odd_rows.cases(), *odd_sources.cases(), *odd_models.cases()]
