"""What a model has answered, as captions and edits. Answers are untrusted text of any shape and length."""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterator
from typing import Any, NamedTuple

from cogvideo_core.captions.grammar import instruction_of
from cogvideo_core.inputs.fields import MAX_PROMPT
from cogvideo_core.storage.uris import has_control

MOST_CHARACTERS, MOST_STARTS, MOST_TYPE = 50_000, 2_000, 60
THOUGHT = re.compile(r"</think(?:ing)?>")  # ends what reasoning models put before the answer
FENCE = re.compile(r"```\w*")
LISTED = re.compile(r"^[ \t]*(?:\d{1,3}[.):]|[-*•])\s+(.+)$", re.M)
LABEL = re.compile(r"^\W*(?:caption|description|answer|prompt)\W*:\s*", re.I)
REFUSED = re.compile(r"^\W*(?:i['’]m sorry|sorry|i can(?:no|['’])t|i am (?:sorry|unable)|as an ai)\b", re.I)
START = re.compile(r"[\[{]")
QUOTES = "\"'“”‘’`* \t\r\n"
JOINERS = "\u200c\u200d"  # scripts and emoji need them
CAPTIONS = ("caption", "source_prompt", "description", "prompt")
TARGETS = ("target_prompt", "target", "edited_prompt", "prompt", "caption")
INSTRUCTIONS = ("instruction", "edit_instruction", "edit")
TYPES = ("edit_type", "type", "category")


class Edit(NamedTuple):
    """One edit of a clip: what the edited video shows, what asks for it, and of which kind it is."""

    target_prompt: str
    instruction: str
    edit_type: str = ""


def caption_in(answer: str) -> str:
    """The caption on one line; "" for an answer that is none: empty, too long, a refusal, or full of control
    characters."""
    text = _plain(answer)
    for found in _objects(text):
        text = _field(found, CAPTIONS) or text
        break
    return prompt_of(LABEL.sub("", text))


def edits_in(answer: str, source_prompt: str) -> list[Edit]:
    """The usable edits of an answer, in order: objects of JSON wherever they stand in it, else JSON texts, else the
    lines of a numbered list. One that changes nothing is none; one without an instruction gets that of the grammar.
    """
    text = _plain(answer)
    found = [edit for fields in _objects(text) if (edit := _edit(fields, source_prompt))]
    if found:
        return found
    texts = [each for value in _values(text) if isinstance(value, list) for each in value if isinstance(each, str)]
    texts = texts or LISTED.findall(text)
    return [edit for each in texts if (edit := _edit({TARGETS[0]: each}, source_prompt))]


def prompt_of(text: str) -> str:
    """A prompt as manifests take it: on one line, without quotes around it; "" where it can't be used."""
    text = "".join(c for c in text if unicodedata.category(c) != "Cf" or c in JOINERS)
    text = " ".join(text.strip(QUOTES).split())
    usable = text and len(text) <= MAX_PROMPT and not has_control(text) and not REFUSED.match(text)
    return text if usable else ""


def _plain(answer: str) -> str:
    """Without thoughts and fences, and not too long."""
    return FENCE.sub("", THOUGHT.split(answer[:MOST_CHARACTERS])[-1]).strip()


def _edit(fields: dict[str, Any], source_prompt: str) -> Edit | None:
    target = prompt_of(_field(fields, TARGETS))
    if not target or target.casefold() == source_prompt.casefold():
        return None
    instruction = prompt_of(_field(fields, INSTRUCTIONS)) or instruction_of(source_prompt, target)
    kind = prompt_of(_field(fields, TYPES))
    return Edit(target, instruction, kind if len(kind) <= MOST_TYPE else "")


def _field(fields: dict[str, Any], names: tuple[str, ...]) -> str:
    known = {str(name).strip().lower().replace(" ", "_"): value for name, value in fields.items()}
    return next((known[name] for name in names if isinstance(known.get(name), str)), "")


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects of the text with texts among their values, those inside others' lists included."""
    waiting = list(_values(text))[::-1]
    while waiting:
        value = waiting.pop()
        if isinstance(value, list):
            waiting += value[::-1]
        elif isinstance(value, dict) and any(isinstance(each, str) for each in value.values()):
            yield value
        elif isinstance(value, dict):
            waiting += list(value.values())[::-1]


def _values(text: str) -> Iterator[Any]:
    """JSON lists and objects of the text; of one that breaks off, its complete parts."""
    decoder, at, starts = json.JSONDecoder(), 0, 0
    while (found := START.search(text, at)) and starts < MOST_STARTS:
        starts += 1
        try:
            value, at = decoder.raw_decode(text, found.start())
            yield value
        except ValueError:
            at = found.start() + 1
        except RecursionError:  # brackets without end: nothing of use comes after them
            return
