"""A client of OpenAI-compatible chat endpoints.

The endpoint may be anyone's: answers are limited in bytes and time, redirects are not followed, and the key, which is
read from the environment, goes to the named address alone and into no message.
"""

from __future__ import annotations

import base64
import io
import json
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple

import httpx
import numpy as np
from PIL import Image

from cogvideo_core.errors import EndpointUnreachable

WAIT_S, MOST_BYTES = 1.0, 1_000_000
WORTH_ANOTHER = {408, 409, 425, 429, 500, 502, 503, 504}


class Endpoint(NamedTuple):
    """Whom to ask: an address such as http://host:8000/v1, and how long to be patient."""

    url: str
    field: str  # the setting that names it, for errors
    key: str  # the variable of the environment that may hold its key
    timeout_s: float  # for one answer as a whole
    tries: int = 3
    patience_s: float = 0.0  # the longest Retry-After that is waited for; a longer one is not


class _Reply(NamedTuple):
    status: int
    body: bytes
    retry_after: str


def posted(endpoint: Endpoint, request: Mapping[str, Any]) -> Any:
    """The chat completion, as parsed JSON of any shape. Busy and broken endpoints are tried again.

    Raises EndpointUnreachable.
    """
    why, wait_s, headers = "", 0.0, _headers(endpoint)
    for attempt in range(endpoint.tries):
        time.sleep(wait_s)
        wait_s = WAIT_S * 2**attempt
        try:
            reply = _sent(endpoint, request, headers)
        except httpx.InvalidURL as error:
            why = type(error).__name__
            break
        except httpx.HTTPError as error:
            why = type(error).__name__
            continue
        if reply.status == 200:
            try:
                return json.loads(reply.body)
            except (ValueError, RecursionError):
                why = "its answer is no JSON"
                break
        why, asked_s = f"status {reply.status}", _asked_wait_s(reply.retry_after)
        if reply.status not in WORTH_ANOTHER:
            break
        if endpoint.patience_s and asked_s > endpoint.patience_s:
            why = f"{why}, it asks to wait {asked_s:.0f} s"
            break
        wait_s = max(wait_s, min(asked_s, endpoint.patience_s))
    raise _unreachable(endpoint, why)


def _unreachable(endpoint: Endpoint, why: str) -> EndpointUnreachable:
    return EndpointUnreachable(
        f"field {endpoint.field}: {endpoint.url!r} gives no answer ({why}); check address, model and {endpoint.key}"
    )


def _headers(endpoint: Endpoint) -> dict[str, str]:
    key = os.environ.get(endpoint.key, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise _unreachable(endpoint, f"{endpoint.key} holds characters that no key has")
    return {"Authorization": f"Bearer {key}"} if key else {}


def _asked_wait_s(retry_after: str) -> float:
    """Seconds of a Retry-After header, which is a number or a date; 0 for none."""
    try:
        return max(0.0, float(int(retry_after)))
    except (ValueError, OverflowError):  # no number, or none of seconds
        pass
    try:
        until = parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())


def _sent(endpoint: Endpoint, request: Mapping[str, Any], headers: Mapping[str, str]) -> _Reply:
    """Raises httpx.HTTPError, also for an answer that takes too long as a whole or is too large."""
    address = endpoint.url.rstrip("/") + "/chat/completions"
    ends, parts, size = time.monotonic() + endpoint.timeout_s, [], 0
    with (
        httpx.Client(timeout=endpoint.timeout_s, follow_redirects=False) as client,
        client.stream("POST", address, json=request, headers=dict(headers)) as answer,
    ):
        for part in answer.iter_bytes(1 << 16):
            parts.append(part)
            size += len(part)
            if size > MOST_BYTES or time.monotonic() > ends:
                raise httpx.ReadError("too large or too slow")
        return _Reply(answer.status_code, b"".join(parts), answer.headers.get("Retry-After", ""))


def text_of(answer: Any) -> str:
    """The text of a completion's first choice; "" where it has none. Some endpoints give it in parts."""
    content = at(answer, "choices", 0, "message", "content")
    if isinstance(content, list):
        content = "".join(str(at(part, "text") or "") for part in content)
    return content if isinstance(content, str) else ""


def at(value: Any, *path: str | int) -> Any:
    """What lies there in parsed JSON of any shape; None for nothing."""
    for step in path:
        try:
            value = value[step]
        except (TypeError, KeyError, IndexError):
            return None
    return value


def picture(frame: np.ndarray) -> dict[str, Any]:
    """A frame, uint8 [H,W,3], as a part of a message."""
    sink = io.BytesIO()
    Image.fromarray(frame).save(sink, "JPEG", quality=90)
    url = f"data:image/jpeg;base64,{base64.b64encode(sink.getvalue()).decode()}"
    return {"type": "image_url", "image_url": {"url": url}}
