"""An instruction from two simple prompts, without a model: what changes between them, word by word, said in English.

"a red car on a road", "a blue car on a beach" -> "change the red car to a blue car and replace the road with a beach".
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence

WORD = re.compile(r"\w+(?:['’-]\w+)*")


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ARTICLES = _words("a an the")
PREPOSITIONS = _words(
    "in on at under over near beside behind during through by into inside outside against across along as from before "
    "after among between above below"
)
JOINS = _words("with and wearing holding carrying")  # before what is added or removed
VERBS = _words("is are was were has have sat ran stood lay rode drove flew swam ate held that which who")
FUNCTION = ARTICLES | PREPOSITIONS | JOINS | VERBS | _words("of to or then while")
ADJECTIVES = _words(
    "red green blue yellow orange purple violet pink brown black white grey gray golden silver cyan magenta dark "
    "bright light pale small large big little huge tiny tall short long round old new young wooden metallic wet dry "
    "hot cold snowy rainy sunny cloudy foggy stormy striped dotted spotted shiny transparent fluffy furry smooth rough "
    "empty full clean dirty"
)
MOST_CHANGES, MOST_WORDS, MOST_SHARE = 3, 8, 0.7
Span = tuple[int, int]


def instruction_of(source_prompt: str, target_prompt: str) -> str:
    """What turns the source prompt into the target prompt, as an instruction; the target prompt itself where the two
    have too little in common, or nothing differs. Deterministic, and empty only where the target prompt is.
    """
    whole = " ".join(target_prompt.split())
    old, new = WORD.findall(source_prompt), WORD.findall(whole)
    changes = _changes(old, new)
    changed = sum(j2 - j1 for _, (j1, j2) in changes)
    widest = max((max(i2 - i1, j2 - j1) for (i1, i2), (j1, j2) in changes), default=0)
    if not new or not 1 <= len(changes) <= MOST_CHANGES or widest > MOST_WORDS or changed > MOST_SHARE * len(new):
        return whole
    return " and ".join(_said(old, new, *change) for change in changes)


def _changes(old: Sequence[str], new: Sequence[str]) -> list[tuple[Span, Span]]:
    """(words of `old`, words of `new`) wherever the two differ, "a" and "an" being the same; changes with nothing but
    adjectives between them are one."""
    matcher = difflib.SequenceMatcher(None, [_key(word) for word in old], [_key(word) for word in new], autojunk=False)
    found: list[tuple[Span, Span]] = []
    for tag, i1, i2, j1, j2 in matcher.get_opcodes():
        if tag != "equal" and found and _describes(old[found[-1][0][1] : i1]):
            (i1, _), (j1, _) = found.pop()
        found += [] if tag == "equal" else [((i1, i2), (j1, j2))]
    return found


def _key(word: str) -> str:
    word = word.casefold()
    return "a" if word == "an" else word


def _said(old: Sequence[str], new: Sequence[str], before: Span, after: Span) -> str:
    """One change in words."""
    (i1, i2), (j1, j2) = before, after
    if i1 == i2:
        return _added(new, j1, j2, _noun_at(old, i2))
    if j1 == j2:
        return _removed(old, i1, i2)
    return _replaced(old, new, before, after)


def _added(new: Sequence[str], start: int, end: int, thing: str) -> str:
    words = list(new[start:end])
    first = words[0].casefold()
    if _describes(words) and thing:
        return f"make the {thing} {' '.join(words)}"
    if first in JOINS and len(words) > 1:
        return f"add {_text(words[1:])}"
    if first in PREPOSITIONS:
        return f"make it {_text(words)}"
    if first.endswith("ing") and len(first) > 4:
        return f"show it {_text(words)}"
    # "a car and | a dog |" and "a | dog and a | car" are the same change: the article before belongs to what is added
    lead = [new[start - 1]] if start and _key(new[start - 1]) in ARTICLES and _key(words[-1]) in ARTICLES else []
    words = lead + words[:-1] if lead else words
    while len(words) > 1 and words[-1].casefold() in JOINS | ARTICLES:
        words.pop()
    return f"add {_text(words)}"


def _removed(old: Sequence[str], start: int, end: int) -> str:
    words = list(old[start:end])
    if _describes(words) and (thing := _noun_at(old, end)):
        return f"make the {thing} no longer {' '.join(words)}"
    while len(words) > 1 and words[0].casefold() in JOINS:
        words = words[1:]
    while len(words) > 1 and words[-1].casefold() in JOINS | ARTICLES:
        words.pop()
    return f"remove {_definite(words)}"


def _replaced(old: Sequence[str], new: Sequence[str], before: Span, after: Span) -> str:
    (i1, i2), (j1, j2) = before, after
    if all(words[0].casefold().endswith("ing") for words in (old[i1:i2], new[j1:j2])):
        return f"show it {_text(new[j1:j2])} instead of {_text(old[i1:i2])}"
    following = _following(old, i2, old[i1:i2], new[j1:j2])
    while i1 and j1 and old[i1 - 1].casefold() in ADJECTIVES:  # "a red | car" becomes "| a red truck"
        i1, j1 = i1 - 1, j1 - 1
    lead = i1 and j1 and _key(old[i1 - 1]) in ARTICLES and _key(new[j1 - 1]) in ARTICLES
    was = _definite([*old[i1:i2], *following]) if lead or following else _definite(old[i1:i2], "")
    becomes = _text([*([new[j1 - 1]] if lead else []), *new[j1:j2], *following])
    return f"change {was} to {becomes}" if following else f"replace {was} with {becomes}"


def _following(old: Sequence[str], end: int, was: Sequence[str], becomes: Sequence[str]) -> list[str]:
    """The noun behind two changed adjectives, further adjectives included; [] where the nouns themselves changed."""
    words: list[str] = []
    while end < len(old) and old[end].casefold() in ADJECTIVES:
        words, end = [*words, old[end]], end + 1
    known = _describes(was) or _describes(becomes) or bool(words)
    if end < len(old) and (_may_be_noun(old[end]) or (known and old[end].casefold() not in FUNCTION)):
        return [*words, old[end]]
    return []


def _describes(words: Sequence[str]) -> bool:
    return all(word.casefold() in ADJECTIVES for word in words)


def _noun_at(words: Sequence[str], at: int) -> str:
    """The word there with the adjectives before it, unless it is no noun."""
    end = at
    while end < len(words) and words[end].casefold() in ADJECTIVES:
        end += 1
    return " ".join(words[at : end + 1]) if end < len(words) and words[end].casefold() not in FUNCTION else ""


def _may_be_noun(word: str) -> bool:
    """Whether a word after a changed one is the noun that it describes, as far as its ending tells: "drives",
    "driving" and "slowly" are none."""
    word = word.casefold()
    return word not in FUNCTION and not word.endswith(("ing", "ed", "ly")) and (word[-1] != "s" or word.endswith("ss"))


def _definite(words: Sequence[str], article: str = "the") -> str:
    """With "the" in place of "a"."""
    if _key(words[0]) in ARTICLES:
        return " ".join(["the", *words[1:]])
    return " ".join([article, *words] if article else words)


def _text(words: Sequence[str]) -> str:
    """The words, the first one small where it is an article or another function word."""
    first = words[0].casefold() if words[0].casefold() in FUNCTION else words[0]
    return " ".join([first, *words[1:]])
