"""The client of chat endpoints against a real HTTP server: waits, keys and shapes of answers. What a judge sees of bad
endpoints is in test_core_judging_vlm."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import numpy as np
import pytest
from chat_server import Endpoint as Server
from chat_server import said
from PIL import Image

from cogvideo_core.endpoints import chat
from cogvideo_core.endpoints.chat import Endpoint
from cogvideo_core.errors import EndpointUnreachable

KEY = "COGVIDEO_EDIT_TEST_KEY"


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(lambda _: said("hello")) as found:
        yield found


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that the client waited, none of which pass."""
    found: list[float] = []
    monkeypatch.setattr(chat.time, "sleep", found.append)
    return found


def endpoint(url: str, **fields: Any) -> Endpoint:
    return Endpoint(**{"url": url, "field": "captions.url", "key": KEY, "timeout_s": 5.0, "patience_s": 60.0} | fields)


def busy_once(server: Server, status: int, retry_after: str) -> None:
    answers = [(status, b"", {"Retry-After": retry_after} if retry_after else {})]
    server.answer = lambda _: answers.pop() if answers else said("hello")


@pytest.mark.parametrize(
    ("retry_after", "waited"),
    [("7", 7.0), ("0", 1.0), ("", 1.0), ("soon", 1.0), ("-4", 1.0), ("nan", 1.0), ("9" * 400, 1.0), ("61", None)],
)
def test_a_wait_that_is_asked_for_is_kept(
    server: Server, waits: list[float], retry_after: str, waited: float | None
) -> None:
    """Retry-After in seconds is waited for, never less than our own second; what is no time counts as none, and one
    beyond patience ends it at once."""
    busy_once(server, 429, retry_after)
    if waited is None:
        with pytest.raises(EndpointUnreachable, match=r"status 429, it asks to wait 61 s\); check address"):
            chat.posted(endpoint(server.url), {})
        return
    assert chat.text_of(chat.posted(endpoint(server.url), {})) == "hello"
    assert waits == [0.0, waited]


def test_a_wait_may_be_a_date(server: Server, waits: list[float]) -> None:
    """As HTTP allows; one that has passed means now."""
    busy_once(server, 503, format_datetime(datetime.now(UTC) + timedelta(seconds=30), usegmt=True))
    chat.posted(endpoint(server.url), {})
    busy_once(server, 503, "Wed, 21 Oct 2015 07:28:00 GMT")
    chat.posted(endpoint(server.url), {})
    assert 25 < waits[1] <= 30 and waits[3] == 1.0


def test_without_patience_waits_are_our_own(server: Server, waits: list[float]) -> None:
    """As the judge asks, behind whom a GPU waits: 1 s, then 2 s, whatever the endpoint wants."""
    server.answer = lambda _: (429, b"", {"Retry-After": "50"})
    with pytest.raises(EndpointUnreachable, match=r"\(status 429\)"):
        chat.posted(endpoint(server.url, patience_s=0.0), {})
    assert waits == [0.0, 1.0, 2.0]


@pytest.mark.parametrize(("key", "sent"), [("s3cret", "Bearer s3cret"), (" s3cret\n", "Bearer s3cret"), ("", None)])
def test_the_key_goes_along(server: Server, monkeypatch: pytest.MonkeyPatch, key: str, sent: str | None) -> None:
    """From the environment, without the line break that a file ends with; none where there is none."""
    monkeypatch.setenv(KEY, key)
    chat.posted(endpoint(server.url), {})
    assert server.headers[0].get("Authorization") == sent


@pytest.mark.parametrize("key", ["s3cr\net", "s3crét", "s3cr\x00et"])
def test_a_key_that_is_none_is_told_without_it(server: Server, monkeypatch: pytest.MonkeyPatch, key: str) -> None:
    """One sentence that names the variable; nothing is sent, and the exception holds no trace of the key."""
    monkeypatch.setattr(chat.os, "environ", {KEY: key})
    with pytest.raises(EndpointUnreachable, match=f"{KEY} holds characters that no key has") as caught:
        chat.posted(endpoint(server.url), {})
    assert not server.asked and "s3cr" not in repr(caught.value) and caught.value.__context__ is None


@pytest.mark.parametrize("url", ["http://[::1/v1", "http://host:99999/v1", "http://\u2602.\ud800/v1"])
def test_addresses_that_are_none(url: str) -> None:
    """One sentence, at once."""
    with pytest.raises(EndpointUnreachable, match="gives no answer"):
        chat.posted(endpoint(url, tries=1), {})


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        ({"choices": [{"message": {"content": "x"}}]}, "x"),
        ({"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"text": "b"}, 3]}}]}, "ab"),
        ({"choices": [{"message": {"content": None}}]}, ""),
        ({"choices": [{"message": {"content": {"a": 1}}}]}, ""),
        ({"choices": []}, ""),
        ([1], ""),
        (None, ""),
    ],
)
def test_texts_of_any_shape(answer: Any, text: str) -> None:
    """What is no completion has no text, and nothing raises."""
    assert chat.text_of(answer) == text


def test_a_picture_is_the_frame() -> None:
    """A JPEG in a data URL, of the frame's size."""
    frame = np.zeros((16, 24, 3), np.uint8)
    part = chat.picture(frame)
    head, _, data = part["image_url"]["url"].partition(",")
    with Image.open(io.BytesIO(base64.b64decode(data))) as image:
        assert (part["type"], head, image.size) == ("image_url", "data:image/jpeg;base64", (24, 16))
