"""A vision-language model behind an OpenAI-compatible endpoint, asked a few questions about each edit's frames.

Nothing in the project needs one. The endpoint may be anyone's: answers are limited in bytes and time, redirects are not
followed, and the key, which is read from the environment, goes to the named address alone and into no message.
"""

from __future__ import annotations

import base64
import io
import json
import math
import os
import re
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import numpy as np
from PIL import Image

from cogvideo_core.errors import JudgeUnreachable, ModelError
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.judge_specs import JudgeSpec

KEY = "COGVIDEO_EDIT_VLM_KEY"  # in the environment
TRIES, WAIT_S, MOST_BYTES = 3, 1.0, 1_000_000
WORTH_ANOTHER = {408, 409, 425, 429, 500, 502, 503, 504}
ASK = "These are frames of a video, in order. Answer with one word, yes or no."
CHOOSE = "These are frames of a video, in order. Answer with one letter."
Answers = Callable[[str], float | None]
Keep = Callable[[str, float], None]


def vlm_scores(
    spec: JudgeSpec, frames: np.ndarray, wish: Mapping[str, str], known: Answers, keep: Keep
) -> dict[str, float]:
    """Scores of an edit's stills, uint8 [F,H,W,3]: `vlm_yes`, the mean probability of yes over the spec's questions,
    and `vlm_choice`, that of the target prompt over the source prompt, where both are given.

    known, keep: look up and store an answer by the hash of all that determines it. Raises JudgeUnreachable,
    and ModelError for an answer that says nothing.
    """
    pictures = [_data_url(frame) for frame in frames]
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
    spec: JudgeSpec, pictures: Sequence[str], question: str, words: tuple[str, str], known: Answers, keep: Keep
) -> float:
    """The probability of the first word against the second."""
    content: list[dict[str, Any]] = [{"type": "image_url", "image_url": {"url": picture}} for picture in pictures]
    request = {
        "model": spec.vlm_model,
        "messages": [{"role": "user", "content": [*content, {"type": "text", "text": question}]}],
        "temperature": 0,
        "max_tokens": 4,
        "logprobs": True,
        "top_logprobs": 10,
    }
    key = fingerprint({"endpoint": spec.vlm, "request": request, "words": list(words)})
    stored = known(key)
    if stored is not None:
        return stored
    found = probability(_posted(spec, request), words)
    if found is None:
        raise ModelError(
            f"field judge.vlm: the model answered neither {words[0]!r} nor {words[1]!r}; give another judge.vlm_model"
        )
    keep(key, found)
    return found


def probability(answer: Any, words: tuple[str, str]) -> float | None:
    """Of the first word over the second in a chat completion: by the log probabilities of its first token that says
    either, or 1 or 0 by its text where it gives none; None where it says neither."""
    choice = _at(answer, "choices", 0)
    for token in _at(choice, "logprobs", "content") or []:
        shares = [0.0, 0.0]
        for entry in _at(token, "top_logprobs") or []:
            word, value = _plain(_at(entry, "token")), _at(entry, "logprob")
            if word in words and isinstance(value, int | float) and math.isfinite(value):
                shares[words.index(word)] += math.exp(min(value, 0.0))
        if sum(shares) > 0:
            return shares[0] / sum(shares)
    said = re.findall(r"[a-z]+", str(_at(choice, "message", "content") or "").lower()[:200])
    hits = [word for word in said if word in words]
    return float(hits[0] == words[0]) if hits else None


def _at(value: Any, *path: str | int) -> Any:
    for step in path:
        try:
            value = value[step]
        except (TypeError, KeyError, IndexError):
            return None
    return value


def _plain(token: Any) -> str:
    return re.sub(r"[^a-z]", "", str(token).lower())


def _posted(spec: JudgeSpec, request: Mapping[str, Any]) -> Any:
    address = spec.vlm.rstrip("/") + "/chat/completions"
    key = os.environ.get(KEY, "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    why = ""
    for attempt in range(TRIES):
        if attempt:
            time.sleep(WAIT_S * 2 ** (attempt - 1))
        try:
            status, body = _sent(address, request, headers, spec.vlm_timeout_s)
        except httpx.HTTPError as error:
            why = type(error).__name__
            continue
        if status == 200:
            try:
                return json.loads(body)
            except (ValueError, RecursionError):
                why = "its answer is no JSON"
                break
        why = f"status {status}"
        if status not in WORTH_ANOTHER:
            break
    raise JudgeUnreachable(f"field judge.vlm: {spec.vlm!r} gives no answer ({why}); check address, model and {KEY}")


def _sent(address: str, request: Mapping[str, Any], headers: Mapping[str, str], timeout_s: float) -> tuple[int, bytes]:
    """Status and body. Raises httpx.HTTPError, also for an answer that takes too long as a whole or is too large."""
    ends, parts, size = time.monotonic() + timeout_s, [], 0
    with (
        httpx.Client(timeout=timeout_s, follow_redirects=False) as client,
        client.stream("POST", address, json=request, headers=dict(headers)) as answer,
    ):
        for part in answer.iter_bytes(1 << 16):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES or time.monotonic() > ends:
                raise httpx.ReadError("too large or too slow")
        return answer.status_code, b"".join(parts)


def _data_url(frame: np.ndarray) -> str:
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, "JPEG", quality=90)
    return f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
