"""Streams the lines of an untrusted text file from any allowed store."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from contextlib import contextmanager
from typing import BinaryIO

from cogvideo_core.errors import BadManifest
from cogvideo_core.storage.uris import is_remote, local_path, open_store, scrubbed

MAX_LINE_BYTES = 1 << 20
UTF16, UTF32 = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE), (codecs.BOM_UTF32_LE, codecs.BOM_UTF32_BE)


def lines(uri: str) -> Iterator[tuple[str, str]]:
    """("line 1", text) from UTF-8, or from UTF-16 with its byte order mark, as spreadsheets' "Unicode text" is.

    Bytes that are not UTF-8 become lone surrogates, which has_control finds. Raises BadManifest.
    """
    with opened(uri) as file:
        for number, line in enumerate(_utf8_lines(file, uri), 1):
            if len(line) == MAX_LINE_BYTES and not line.endswith(b"\n"):
                raise BadManifest(f"file {uri!r}: line {number} is longer than {MAX_LINE_BYTES} bytes; split it")
            yield f"line {number}", line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")


def _utf8_lines(file: BinaryIO, uri: str) -> Iterator[bytes]:
    """Lines of at most MAX_LINE_BYTES; UTF-16 is turned into UTF-8 on the way."""
    head = file.peek(4)[:4] if isinstance(file, io.BufferedReader) else b""
    if head in UTF32 or not head.startswith(UTF16):
        while line := file.readline(MAX_LINE_BYTES):
            yield line
        return
    text = io.TextIOWrapper(file, "utf-16", newline="")
    try:
        while read := text.readline(MAX_LINE_BYTES // 4):
            yield read.encode() if len(read) < MAX_LINE_BYTES // 4 else b"x" * MAX_LINE_BYTES
    except UnicodeError as error:
        raise BadManifest(f"file {uri!r} begins as UTF-16 and is none further on; save it as UTF-8") from error
    finally:
        text.detach()  # whoever opened the file closes it


@contextmanager
def opened(uri: str, block_bytes: int = 0) -> Iterator[BinaryIO]:
    """Opens a file to read; from a store at least `block_bytes` come at a time, 0 for its own choice.

    Raises BadManifest.
    """
    try:
        if is_remote(uri):
            store, path = open_store(uri)
            file = io.BufferedReader(store.open(path, "rb", **({"block_size": block_bytes} if block_bytes else {})))
        else:
            file = open(local_path(uri), "rb")  # noqa: SIM115 - closed by the with below
    except FileNotFoundError as error:
        raise BadManifest(f"file {uri!r} does not exist; check the path") from error
    except Exception as error:  # every store has its own classes
        raise BadManifest(f"file {uri!r} can't be read ({scrubbed(error)}); check address and access") from error
    with file:
        yield file
