"""What is measured: an edit beside its source, with its prompts, its mask and the questions asked about it."""

from __future__ import annotations

from typing import Literal, NamedTuple

import numpy as np

from cogvideo_core.errors import ClipError, NotAMask
from cogvideo_core.settings.metric_specs import MetricSpec

MODELS = ("clip", "pickscore", "dino", "lpips", "niqe", "vlm")  # fields of the spec that metrics may need


class Question(NamedTuple):
    """A question about the edit, and the answer that a successful edit gets.

    yes_no: the answer is "yes" or "no". multiple_choice: the answer is the letter of an option, "a" for the first; the
    options may stand in the text already, then `options` is empty.
    """

    kind: Literal["yes_no", "multiple_choice"]
    text: str
    options: tuple[str, ...]
    answer: str


class Sample(NamedTuple):
    """One edit: frames of source and edit uint8 [F,H,W,3] of one shape; mask bool [F,H,W], true where the edit may
    change its clip, or None."""

    source: np.ndarray
    edit: np.ndarray
    mask: np.ndarray | None = None
    source_prompt: str = ""
    target_prompt: str = ""
    questions: tuple[Question, ...] = ()
    name: str = ""  # of the edit, for errors


def checked(sample: Sample) -> Sample:
    """The sample, whose mask is bool. Raises ClipError for frames or questions that can't be compared, and NotAMask."""
    for what, frames in (("source", sample.source), ("edit", sample.edit)):
        if frames.ndim != 4 or frames.shape[-1] != 3 or frames.dtype != np.uint8 or not frames.size:
            problem = f"the {what} has shape {frames.shape} and type {frames.dtype}"
            raise ClipError(sample.name, problem, "give uint8 frames [F,H,W,3]", "edit")
    if sample.source.shape != sample.edit.shape:
        problem = f"source and edit differ in shape, {sample.source.shape} and {sample.edit.shape}"
        raise ClipError(sample.name, problem, "bring both to the same frames and size", "edit")
    if sample.mask is not None and sample.mask.shape != sample.edit.shape[:3]:
        problem = f"its mask has shape {sample.mask.shape}, its frames {sample.edit.shape[:3]}"
        raise NotAMask(sample.name, problem, "give one picture of the frames' size for each frame", "edit")
    for question in sample.questions:
        _check_question(sample.name, question)
    return sample if sample.mask is None else sample._replace(mask=sample.mask.astype(bool))


def _check_question(name: str, question: Question) -> None:
    letters = tuple("abcdefghijklmnopqrstuvwxyz"[: len(question.options) or 26])
    allowed = {"yes_no": ("yes", "no"), "multiple_choice": letters}.get(question.kind, ())
    if question.answer.strip().lower() not in allowed or not question.text.strip():
        problem = f"the question {question.text[:80]!r} of kind {question.kind!r} can't be answered {question.answer!r}"
        raise ClipError(name, problem, "give yes or no, or the letter of an option", "edit")


def has(spec: MetricSpec, sample: Sample) -> set[str]:
    """What a spec and a sample offer to metrics, in the words of `Metric.needs`."""
    found = {name for name in MODELS if getattr(spec, name)} | {question.kind for question in sample.questions}
    found |= {name for name in ("source_prompt", "target_prompt") if getattr(sample, name).strip()}
    return found | ({"mask"} if sample.mask is not None else set()) | ({"motion"} if len(sample.edit) > 1 else set())
