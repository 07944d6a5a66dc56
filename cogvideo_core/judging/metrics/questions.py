"""FiVE-Acc: whether a vision-language model, asked about the edit, answers as it would about a successful one."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from cogvideo_core.endpoints.chat import Endpoint, picture, posted, text_of
from cogvideo_core.judging.metrics.samples import Question
from cogvideo_core.judging.vlm import ASK, CHOOSE, KEY
from cogvideo_core.media.window import spread
from cogvideo_core.settings.metric_specs import MetricSpec

LETTERS = "abcdefghijklmnopqrstuvwxyz"
NAMES = ("yes_no", "multi_choice", "union", "inter")


def five_acc(spec: MetricSpec, edit: np.ndarray, questions: Sequence[Question]) -> dict[str, float]:
    """five_acc_yes_no: 1 where all yes-or-no questions are answered as expected, else 0; five_acc_multi_choice: the
    same of the multiple choices. Where there are both: five_acc_union, 1 where either is; five_acc_inter, 1 where both
    are; five_acc, the mean of the four. Higher is better. edit: uint8 [F,H,W,3]. Raises EndpointUnreachable.

    Source: FiVE-Bench (arXiv 2503.13684, Harvard-AI-and-Robotics-Lab/FiVE-Bench, `evaluation/`), with Qwen2.5-VL-7B.
    Differs: the questions are put in our own words, stills are sent as pictures rather than a video, and an answer may
    have marks before its first word, or be the option's own text.
    """
    stills, right = [picture(frame) for frame in shown(edit, spec.vlm_frames)], {}
    for kind, name in (("yes_no", "yes_no"), ("multiple_choice", "multi_choice")):
        asked = [question for question in questions if question.kind == kind]
        if asked:
            right[name] = all(answered(spec, stills, question) for question in asked)
    if len(right) == 2:
        right |= {"union": any(right.values()), "inter": all(right.values())}
    found = {f"five_acc_{name}": float(value) for name, value in right.items()}
    return found | ({"five_acc": float(np.mean(list(found.values())))} if len(found) == len(NAMES) else {})


def shown(edit: np.ndarray, most: int) -> np.ndarray:
    """The stills, as FiVE-Bench's code takes them: about every fourth frame from the third on; at most so many."""
    stride = max(1, len(edit) // max(1, len(edit) // 4))
    return spread(edit[stride // 2 :: stride], most)


def answered(spec: MetricSpec, stills: Sequence[dict], question: Question) -> bool:
    """Whether the model answers as expected."""
    content = [*stills, {"type": "text", "text": asked_as(question)}]
    request = {"model": spec.vlm_model, "messages": [{"role": "user", "content": content}]}
    endpoint = Endpoint(spec.vlm, "metrics.vlm", KEY, spec.vlm_timeout_s)
    reply = text_of(posted(endpoint, request | {"temperature": 0, "max_tokens": 32}))
    return said(reply, question) == question.answer.strip().lower()


def asked_as(question: Question) -> str:
    """What the model is asked, with the options by letter."""
    options = [f"{letter}) {text}" for letter, text in zip(LETTERS, question.options, strict=False)]
    return "\n".join([ASK if question.kind == "yes_no" else CHOOSE, question.text, *options])


def said(reply: str, question: Question) -> str:
    """The answer in a reply: "yes", "no" or a letter; "" where it gives none."""
    words = _words(reply[:500])
    if question.kind == "yes_no":
        return words[0] if words and words[0] in ("yes", "no") else ""
    options = [_words(option) for option in question.options]
    if words in options:
        return LETTERS[options.index(words)]
    found = re.match(r"[\W_]*([a-z])\b(\s+\w)?", reply.lower())
    return found[1] if found and not (found[1] == "a" and found[2]) else ""  # "A bird" names no option


def _words(text: str) -> list[str]:
    return re.findall(r"[^\W_]+", text.lower())
