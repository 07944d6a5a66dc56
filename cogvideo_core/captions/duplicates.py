"""Target prompts of a clip that ask for the same thing: told by the words that they change."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from cogvideo_core.captions.answers import Edit

# Chinese and Japanese are written without spaces: there each character counts as a word
WORD = re.compile(r"[\u3040-\u30ff\u3400-\u9fff]|[^\W\u3040-\u30ff\u3400-\u9fff]+")
LITTLE = frozenset({"a", "an", "the", "of", "is", "are", "and", "with"})


def distinct(source_prompt: str, kept: Sequence[str], new: Iterable[Edit], limit: float) -> list[Edit]:
    """The new edits that differ enough from the source prompt, from the kept target prompts and from each other; of two
    that are alike the earlier one."""
    source, found = _words(source_prompt), list[Edit]()
    seen = [frozenset[str](), *(_change(source, _words(prompt)) for prompt in kept)]
    for edit in new:
        change = _change(source, _words(edit.target_prompt))
        if all(similarity(change, other) < limit for other in seen):
            seen.append(change)
            found.append(edit)
    return found


def _change(source: frozenset[str], target: frozenset[str]) -> frozenset[str]:
    """The words that a target prompt adds, or else those that it leaves out, marked."""
    return target - source or frozenset(f"-{word}" for word in source - target)


def similarity(one: frozenset[str], other: frozenset[str]) -> float:
    """Share of the common words among all words of two sets; 1 for two empty ones."""
    return len(one & other) / len(one | other) if one | other else 1.0


def _words(text: str) -> frozenset[str]:
    return frozenset(WORD.findall(text.casefold())) - LITTLE
