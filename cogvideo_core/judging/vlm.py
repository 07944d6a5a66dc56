"""A vision-language model behind an OpenAI-compatible endpoint, asked a few questions about each edit's frames.

Nothing in the project needs one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from cogvideo_core.endpoints.chat import Endpoint, at, picture, posted, text_of
from cogvideo_core.errors import ModelError
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.judge_specs import JudgeSpec

KEY = "COGVIDEO_EDIT_VLM_KEY"  # in the environment
ASK = "These are frames of a video, in order. Answer with one word, yes or no."
CHOOSE = "These are frames of a video, in order. Answer with one letter."
Answers = Callable[[str], float | None]
Keep = Callable[[str, float], None]
Picture = dict[str, Any]


def vlm_scores(
    spec: JudgeSpec, frames: np.ndarray, wish: Mapping[str, str], known: Answers, keep: Keep
) -> dict[str, float]:
    """Scores of an edit's stills, uint8 [F,H,W,3]: `vlm_yes`, the mean probability of yes over the spec's questions,
    and `vlm_choice`, that of the target prompt over the source prompt, where both are given.

    known, keep: look up and store an answer by the hash of all that determines it. Raises EndpointUnreachable,
    and ModelError for an answer that says nothing.
    """
    pictures = [picture(frame) for frame in frames]
    asked = [fill(question, wish) for question in spec.vlm_questions]
    yes = [_answer(spec, pictures, f"{ASK}\n{question}", ("yes", "no"), known, keep) for question in asked]
    scores = {"vlm_yes": sum(yes) / len(yes)} if yes else {}
    if wish["source_prompt"] and wish["source_prompt"] != wish["target_prompt"]:
        options = f"A: {wish['target_prompt']}\nB: {wish['source_prompt']}"
        swapped = f"A: {wish['source_prompt']}\nB: {wish['target_prompt']}"
        question = f"{CHOOSE}\nWhich text describes it better?\n"
        first = _answer(spec, pictures, question + options, ("a", "b"), known, keep)
        second = _answer(spec, pictures, question + swapped, ("b", "a"), known, keep)
        scores["vlm_choice"] = (first + second) / 2  # both orders: models prefer a letter
    return scores


def fill(question: str, wish: Mapping[str, str]) -> str:
    """The question with {target_prompt} and {source_prompt} filled in; other braces mean themselves."""
    return re.sub(r"\{(target_prompt|source_prompt)\}", lambda found: wish[found.group(1)], question)


def _answer(
    spec: JudgeSpec, pictures: Sequence[Picture], question: str, words: tuple[str, str], known: Answers, keep: Keep
) -> float:
    """The probability of the first word against the second."""
    request = {
        "model": spec.vlm_model,
        "messages": [{"role": "user", "content": [*pictures, {"type": "text", "text": question}]}],
        "temperature": 0,
        "max_tokens": 4,
        "logprobs": True,
        "top_logprobs": 10,
    }
    key = fingerprint({"endpoint": spec.vlm, "request": request, "words": list(words)})
    stored = known(key)
    if stored is not None:
        return stored
    found = probability(posted(Endpoint(spec.vlm, "judge.vlm", KEY, spec.vlm_timeout_s), request), words)
    if found is None:
        raise ModelError(
            f"field judge.vlm: the model answered neither {words[0]!r} nor {words[1]!r}; give another judge.vlm_model"
        )
    keep(key, found)
    return found


def probability(answer: Any, words: tuple[str, str]) -> float | None:
    """Of the first word over the second in a chat completion: by the log probabilities of its first token that says
    either, or 1 or 0 by its text where it gives none; None where it says neither."""
    choice = at(answer, "choices", 0)
    for token in at(choice, "logprobs", "content") or []:
        shares = [0.0, 0.0]
        for entry in at(token, "top_logprobs") or []:
            word, value = _plain(at(entry, "token")), at(entry, "logprob")
            if word in words and isinstance(value, int | float) and math.isfinite(value):
                shares[words.index(word)] += math.exp(min(value, 0.0))
        if sum(shares) > 0:
            return shares[0] / sum(shares)
    said = re.findall(r"[a-z]+", text_of(answer).lower()[:200])
    hits = [word for word in said if word in words]
    return float(hits[0] == words[0]) if hits else None


def _plain(token: Any) -> str:
    return re.sub(r"[^a-z]", "", str(token).lower())
