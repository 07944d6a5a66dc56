"""Where a clip may lie, and names that are safe to show."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cogvideo_core.errors import ForbiddenUri
from cogvideo_core.storage.uris import resolve, safe_name, scrubbed, unsigned

Record = dict[str, Any]


@given(st.text(max_size=200))
def test_names_are_always_safe(text: str) -> None:
    """Whatever a clip is called, its name has allowed characters only, 1 to 60 of them."""
    name = safe_name(text)
    assert 1 <= len(name) <= 60 and set(name) <= set(
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"
    )
    assert not name.startswith((".", "-"))


@given(st.text(alphabet="./~a\\%2e: \u2025\uff0e", max_size=40))
def test_no_text_resolves_outside_the_root(text: str) -> None:
    """A local clip lies under the root, or is refused."""
    try:
        path = resolve(text, "/srv/clips")
    except ForbiddenUri:
        return
    assert path == "/srv/clips" or path.startswith("/srv/clips/")


def test_names_keep_what_can_be_kept() -> None:
    """Accents are folded, queries and endings dropped, the rest is replaced."""
    assert safe_name("a/Zürich bei Nacht.mp4") == "Zurich-bei-Nacht"
    assert safe_name("https://x/y/a.b.mp4?sig=1/2") == "a.b"
    assert safe_name("猫.mp4") == "clip"


def test_messages_carry_no_secrets() -> None:
    """Queries and users of URLs in an error's text are left out, on one line."""
    text = "GET https://me:pass@host/a.mp4?sig=secret failed\n(s3://k:v@b/c#frag)"
    assert scrubbed(text) == "GET https://host/a.mp4 failed (s3://b/c"


def test_secrets_of_urls_are_taken_out_of_any_text() -> None:
    """Query, fragment, user and password go, in JSON as in a sentence; what names the object stays."""
    text = '{"source": "https://me:pw@host/a.jsonl?X-Amz-Signature=abc#f", "root": "s3://bucket/x"}'
    assert unsigned(text) == '{"source": "https://host/a.jsonl", "root": "s3://bucket/x"}'
    assert unsigned("clip 'https://host/b.mp4?token=1': bad; a ? stays") == "clip 'https://host/b.mp4': bad; a ? stays"
