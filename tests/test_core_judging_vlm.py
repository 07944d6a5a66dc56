"""The question judge against a real HTTP server: probabilities, stored answers, endpoints that fail or are evil."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import Answer, Endpoint, said

from cogvideo_core.endpoints import chat
from cogvideo_core.errors import EndpointUnreachable, ModelError
from cogvideo_core.judging import vlm
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.stages import judge
from cogvideo_core.storage.ledger import Ledger

FRAMES = np.full((2, 16, 16, 3), 90, np.uint8)
WISH = {"source_prompt": "a red car", "target_prompt": "a blue car {x}"}


def sensible(request: dict[str, Any]) -> Answer:
    return said("yes" if "yes or no" in request["messages"][0]["content"][-1]["text"] else "A")


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(chat, "WAIT_S", 0.01)
    monkeypatch.setattr(judge, "_silent", {})
    with Endpoint(sensible) as found:
        yield found


def spec(endpoint: Endpoint, **fields: Any) -> JudgeSpec:
    return JudgeSpec(
        **{"text": "none", "motion": False, "vlm": endpoint.url, "vlm_model": "m", "preset": "off"} | fields
    )


def scores(endpoint: Endpoint, **fields: Any) -> dict[str, float]:
    return vlm.vlm_scores(spec(endpoint, **fields), FRAMES, WISH, lambda _: None, lambda *_: None)


def test_probabilities_come_from_the_first_token(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """By hand: yes .6 against no .2 is .75; the choice is asked in both orders and averaged. The question is filled in,
    each still is sent, and the key goes along."""
    monkeypatch.setenv(vlm.KEY, "s3cret")

    def answer(request: dict[str, Any]) -> Answer:
        text = request["messages"][0]["content"][-1]["text"]
        if "yes or no" in text:
            return said("Yes", yes=0.6, no=0.2, maybe=0.1)
        return said("A", a=0.9, b=0.1) if "A: a blue" in text else said("A", a=0.7, b=0.3)

    endpoint.answer = answer
    assert scores(endpoint) == pytest.approx({"vlm_yes": 0.75, "vlm_choice": (0.9 + 0.3) / 2})
    assert len(endpoint.asked) == 3 and endpoint.asked[0]["path"] == "/v1/chat/completions"
    *pictures, question = endpoint.asked[0]["messages"][0]["content"]
    assert len(pictures) == 2 and pictures[0]["image_url"]["url"].startswith("data:image/jpeg;base64,")
    assert question["text"].endswith("Does the video show this: a blue car {x}?")
    assert endpoint.headers[0]["Authorization"] == "Bearer s3cret"


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ({"choices": [{"message": {"content": "Yes, it does."}}]}, 1.0),
        ({"choices": [{"message": {"content": "**No**"}}]}, 0.0),
        ({"choices": [{"message": {"content": "A yesterday"}}]}, None),
        ({"choices": []}, None),
        ({"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "yes", "logprob": "x"}]}]}}]}, None),
        ({"choices": [{"logprobs": {"content": [{"top_logprobs": [{"token": "yes", "logprob": 99.0}]}]}}]}, 1.0),
        ([1], None),
        (None, None),
    ],
)
def test_answers_of_any_shape_are_read_or_refused(answer: Any, wanted: float | None) -> None:
    """Text alone gives 1 or 0; what says neither gives nothing; nothing raises."""
    assert vlm.probability(answer, ("yes", "no")) == wanted


def test_an_endpoint_that_recovers_is_asked_again(endpoint: Endpoint) -> None:
    """Busy answers are retried, up to three tries; a wrong request is not."""
    codes = [503, 429]
    endpoint.answer = lambda request: (codes.pop(), b"", {}) if codes else sensible(request)
    assert scores(endpoint, vlm_questions=["really?"])["vlm_yes"] == 1.0
    endpoint.asked.clear()
    endpoint.answer = lambda _: (401, b"no", {})
    with pytest.raises(EndpointUnreachable, match=r"gives no answer \(status 401\); check address, model and"):
        scores(endpoint)
    assert len(endpoint.asked) == 1


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        ((500, b"", {}), "status 500"),
        ((302, b"", {"Location": "http://127.0.0.1:1/secret"}), "status 302"),
        ((200, b"{", {}), "its answer is no JSON"),
        ((200, b"[" * 100_000, {}), "its answer is no JSON"),
        ((200, b"x" * 2_000_000, {}), "ReadError"),
        ((200, b"x", {"Content-Length": "9"}), "RemoteProtocolError"),
    ],
    ids=["broken", "redirect", "half", "deep", "large", "cut"],
)
def test_bad_endpoints_end_in_one_sentence(
    endpoint: Endpoint, answer: Answer, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it sends back: no redirect is followed, no more than a megabyte is read, and the key is not told."""
    monkeypatch.setenv(vlm.KEY, "s3cret")
    endpoint.answer = lambda _: answer
    with pytest.raises(EndpointUnreachable, match=told) as caught:
        scores(endpoint)
    assert "s3cret" not in str(caught.value)


def test_a_slow_endpoint_is_left(endpoint: Endpoint) -> None:
    """The time-out holds for an answer as a whole."""

    def answer(_: dict[str, Any]) -> Answer:
        time.sleep(1)
        return said("yes")

    endpoint.answer = answer
    began = time.monotonic()
    with pytest.raises(EndpointUnreachable, match="Timeout"):
        scores(endpoint, vlm_timeout_s=0.1)
    assert time.monotonic() - began < 3


def row(number: int) -> dict[str, Any]:
    return {"edit_key": f"{number:064x}"} | WISH


def test_answers_of_earlier_versions_are_found(endpoint: Endpoint) -> None:
    """An answer's key is the hash of the endpoint, the whole request with its pictures, and the words."""
    keys: list[str] = []
    vlm.vlm_scores(spec(endpoint), FRAMES, WISH, lambda _: None, lambda key, _: keys.append(key))
    requests = [{name: value for name, value in asked.items() if name != "path"} for asked in endpoint.asked]
    words = (["yes", "no"], ["a", "b"], ["b", "a"])
    about = [{"endpoint": endpoint.url, "request": r, "words": w} for r, w in zip(requests, words, strict=True)]
    assert keys == [fingerprint(each) for each in about]
    part = {"type": "image_url", "image_url": {"url": requests[0]["messages"][0]["content"][0]["image_url"]["url"]}}
    asked = f"{vlm.ASK}\nDoes the video show this: a blue car {{x}}?"
    content = [part, part, {"type": "text", "text": asked}]
    chat_of = {"model": "m", "messages": [{"role": "user", "content": content}], "temperature": 0, "max_tokens": 4}
    assert requests[0] == chat_of | {"logprobs": True, "top_logprobs": 10}


def test_answers_are_stored_by_content(endpoint: Endpoint, tmp_path: Path) -> None:
    """Another edit with the same frames and words, and another set of judges, ask nothing new."""
    ledger = Ledger(str(tmp_path))
    assert judge.judge_edit(ledger, spec(endpoint), row(1), lambda: FRAMES, FRAMES)
    assert len(endpoint.asked) == 3
    assert judge.judge_edit(ledger, spec(endpoint), row(2), lambda: FRAMES, FRAMES)
    assert judge.judge_edit(ledger, spec(endpoint, motion=True), row(1), lambda: FRAMES, FRAMES)
    assert len(endpoint.asked) == 3
    assert judge.judge_edit(ledger, spec(endpoint, vlm_model="other"), row(1), lambda: FRAMES, FRAMES)
    assert len(endpoint.asked) == 6


def test_an_endpoint_that_is_down_leaves_edits_unjudged(
    endpoint: Endpoint, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The first edit is told in one line, the others wait for nothing, and nothing is committed of either."""
    ledger, gone = Ledger(str(tmp_path)), JudgeSpec(text="none", vlm="http://127.0.0.1:9/v1", vlm_model="m")
    assert not any(judge.judge_edit(ledger, gone, row(i), lambda: FRAMES, FRAMES) for i in range(5))
    assert caplog.text.count("stay unjudged") == 1 and "ConnectError" in caplog.text
    assert not list(ledger.units("judgements"))


def test_a_model_that_says_neither_costs_one_edit(endpoint: Endpoint, tmp_path: Path) -> None:
    """An answer without yes or no leaves that edit unjudged, and the next one is asked about."""
    ledger, words = Ledger(str(tmp_path)), ["perhaps", "yes", "a", "b"]
    endpoint.answer = lambda _: said(words.pop(0))
    with pytest.raises(ModelError, match="answered neither 'yes' nor 'no'"):
        vlm.vlm_scores(spec(endpoint), FRAMES, WISH, lambda _: None, lambda *_: None)
    assert judge.judge_edit(ledger, spec(endpoint), row(1), lambda: FRAMES, FRAMES)


@pytest.mark.parametrize("address", ["ftp://x/v1", "http://me:word@host/v1", "localhost:80", "http://host/v1?key=1"])
def test_addresses_are_plain(address: str) -> None:
    """No credentials, no query: a key belongs into the environment."""
    with pytest.raises(ValueError, match="vlm"):
        JudgeSpec(vlm=address)
