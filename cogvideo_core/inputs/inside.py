"""Addresses of clips that are no file of their own: a member of a tar, a cell of a table, a folder of frames.

`tar+s3://bucket/shard.tar#name=0001.mp4&at=1536&size=9000`: what it is, the URL of the file or folder that holds it,
and what finds it there. Any worker can fetch it again. Only the project's readers make them: a manifest that writes
one is refused, for its protocol is not allowed.
"""

from __future__ import annotations

from typing import NamedTuple
from urllib.parse import parse_qsl, urlencode

from cogvideo_core.storage.uris import is_remote, local_path

KINDS = ("tar", "cell", "frames")


class Address(NamedTuple):
    """`holder` is an absolute path or a URL."""

    kind: str
    holder: str
    fields: dict[str, str]


def address(kind: str, holder: str, **fields: object) -> str:
    """The address as one line of text, with symlinks of a local path resolved."""
    url = holder if is_remote(holder) else f"file://{local_path(holder)}"
    return f"{kind}+{url}#{urlencode({name: str(value) for name, value in fields.items()})}"


def parsed(uri: str) -> Address | None:
    """The parts of an address; None for the path or URL of a file."""
    kind, plus, rest = uri.partition("+")
    if not plus or kind not in KINDS:
        return None
    holder, _, query = rest.rpartition("#")
    return Address(kind, holder.removeprefix("file://"), dict(parse_qsl(query, keep_blank_values=True)))
