"""A clip's caption and edits: those of its row, and what a model or the grammar adds to them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from cogvideo_core.captions.answers import Edit, caption_in, edits_in
from cogvideo_core.captions.asking import Asker, Job
from cogvideo_core.captions.duplicates import distinct
from cogvideo_core.captions.grammar import instruction_of
from cogvideo_core.errors import ClipError
from cogvideo_core.inputs.inside import parsed
from cogvideo_core.settings.caption_specs import PLACEHOLDER

Record = dict[str, Any]
FORM = (
    'Answer with a JSON list of {count} objects and nothing else: [{{"target_prompt": "...", "instruction": "...", '
    '"edit_type": "..."}}]'
)
SHARPER = "Write nothing before or after the list. Each target_prompt must differ from the description above"
ONLY = "Answer with one plain sentence in {language} and nothing else: no list, no heading, no apology."


def describe_clip(job: Job, clip: Record) -> Record:
    """The clip's record with source_prompt, `edits` (dicts of manifest columns beside those of the clip), and how many
    questions were asked.

    Raises EndpointUnreachable, and ClipError for a clip that can't be decoded, about which the model says nothing of
    use, or that has no target prompt where none is asked for.
    """
    _check_named(clip)
    asker = Asker(job, clip)
    source = clip["source_prompt"] or _caption(job, asker, clip["clip"])
    told = job.instructions.by != "none"
    edits = [own | {"target_prompt": prompt} | _told(source, prompt, own, told) for prompt, own in _own(clip)]
    if job.instructions.by == "endpoint" and len({edit["target_prompt"] for edit in edits}) < job.instructions.count:
        new = _new_edits(job, asker, clip, source)
        shared = _shared(_columns(clip))
        edits += [shared | {name: text for name, text in edit._asdict().items() if text} for edit in new]
    if not edits and job.instructions.by == "template":
        raise ClipError(clip["clip"], "it has no target prompts", "write them in its row, or name an endpoint")
    if not edits:
        edits = _columns(clip)[:1] or [{}]
    return clip | {"source_prompt": source, "edits": edits, "asked": asker.asked}


def filled(template: str, words: Mapping[str, str]) -> str:
    """A template with its placeholders filled in; other braces, those of the words included, mean themselves."""
    return PLACEHOLDER.sub(lambda found: words.get(found.group(1), found.group(0)), template)


def _caption(job: Job, asker: Asker, clip: str) -> str:
    """Asked at most twice; "" where nobody is to be asked."""
    if not job.captions.url:
        return ""
    words = {"language": job.captions.language}
    question = filled(job.captions.template, words)
    for asked in (question, f"{question}\n{filled(ONLY, words)}"):
        answer = asker.answer(*job.describer, asked)
        if caption := caption_in(answer):
            asker.save()
            return caption
    raise ClipError(
        clip, "the model gave no caption of use, asked twice", "write its source_prompt, or ask another model"
    )


def _new_edits(job: Job, asker: Asker, clip: Record, source: str) -> list[Edit]:
    """As many as the clip lacks, or fewer where the model has no more to say when it is asked for the rest."""
    spec, kept, found = job.instructions, list(dict.fromkeys(clip["target_prompts"])), list[Edit]()
    for again in (False, True):
        wanted = spec.count - len(kept) - len(found)
        if wanted > 0:
            question = _question(job, source, wanted, [*kept, *(edit.target_prompt for edit in found)], again)
            given = edits_in(asker.answer(*job.writer, question), source)
            taken = [*kept, *(edit.target_prompt for edit in found)]
            found += distinct(source, taken, given, spec.similarity)[:wanted]
    if not found and not kept:
        problem = "the model gave no target prompt of use, asked twice"
        raise ClipError(clip["clip"], problem, "write target_prompts, or ask another model")
    asker.save()
    return found


def _question(job: Job, source: str, count: int, others: Sequence[str], again: bool) -> str:
    spec = job.instructions
    words = {"count": str(count), "edit_types": ", ".join(spec.edit_types), "language": spec.language}
    words["source_prompt"] = source or "(no description; look at the frames)"
    parts = [filled(spec.template, words), FORM.format(count=count)]
    parts += [f"{SHARPER}."] if again else []
    parts += [f"None of them may be like these: {' | '.join(others)}"] if others else []
    return "\n".join(parts)


def _check_named(clip: Mapping[str, Any]) -> None:
    where = parsed(clip["uri"])
    if where is not None and where.kind != "frames":
        problem = "it lies inside a tar or table, so no row of a manifest can name it"
        raise ClipError(clip["clip"], problem, "unpack it into files")


def _own(clip: Mapping[str, Any]) -> list[tuple[str, Record]]:
    """The target prompts of the clip's row, each with the settings and the user's own columns that its row gives it."""
    return list(zip(clip["target_prompts"], _columns(clip), strict=False))


def _columns(clip: Mapping[str, Any]) -> list[Record]:
    """Settings and own columns for each target prompt; a row without any may have some as well."""
    overrides = clip.get("overrides") or [""] * len(clip["own"])
    return [_parsed(override) | _parsed(own) for override, own in zip(overrides, clip["own"], strict=True)]


def _told(source: str, prompt: str, own: Record, wanted: bool) -> Record:
    """The instruction of an edit of the row, where it has none and one is wanted."""
    return {"instruction": instruction_of(source, prompt)} if wanted and not own.get("instruction") else {}


def _shared(columns: Sequence[Record]) -> Record:
    """The columns that all edits of a row have in common: those of the clip, not of an edit."""
    first = columns[0] if columns else {}
    alike = {name: value for name, value in first.items() if all(other.get(name) == value for other in columns)}
    return {name: value for name, value in alike.items() if name not in ("instruction", "edit_type")}


def _parsed(own: str) -> Record:
    found = json.loads(own) if own else {}
    return dict(found)
