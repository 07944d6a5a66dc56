"""Where a clip may lie: allowed protocols, resolving against the input root, and names that are safe to show.

A manifest may come from anyone, so a clip's text is hostile until `resolve` has returned.
"""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import unquote, urlsplit

from fsspec import AbstractFileSystem
from fsspec.core import url_to_fs

from cogvideo_core.errors import ForbiddenUri, StorageError

REMOTE = frozenset({"memory", "s3", "gs", "az", "abfs", "http", "https", "hf"})  # hf: the hub, hf://datasets/owner/name
MAX_URI = 4096
MAX_NAME = 60
UNPRINTABLE = frozenset({"Cc", "Cs", "Zl", "Zp"})  # control, lone surrogates, line and paragraph separators


def printable(text: str) -> str:
    """The same text with lone surrogates written as escapes, so that UTF-8 can hold it."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def scrubbed(text: object) -> str:
    """One line of an error's text, at most 200 characters, without what may be a secret in a URL: query and user."""
    return printable(unsigned(" ".join(str(text).split())))[:200]


def unsigned(text: str) -> str:
    """The text without what may be a secret in its URLs: query, fragment, user and password."""
    return re.sub(r"://[^\s/@'\"]*@", "://", re.sub(r"(://[^\s'\"?#]*)[?#][^\s'\"]*", r"\1", text))


def shown_clip(clip: str) -> str:
    """The clip as written, without the query of an HTTP URL: that may hold a signature, and tables are published."""
    return printable(path_part(clip))


def has_control(text: str) -> bool:
    """Whether a character would break a line, a table or UTF-8 (lone surrogates stand for bytes that are no UTF-8)."""
    return any(unicodedata.category(c) in UNPRINTABLE for c in text)


def protocol(uri: str) -> str:
    """Lower-case protocol of a URL; "" for a plain local path."""
    head, mark, _ = uri.partition("://")
    return head.lower() if mark and re.fullmatch(r"[A-Za-z0-9+.-]+", head) else ""


def is_remote(uri: str) -> bool:
    return protocol(uri) not in ("", "file")


def path_part(uri: str) -> str:
    """The URI without an HTTP query or fragment, to read names and endings from."""
    return re.split(r"[?#]", uri, maxsplit=1)[0] if protocol(uri) in ("http", "https") else uri


def parent(uri: str) -> str:
    """The folder a manifest lies in: `s3://b/a/m.csv` -> `s3://b/a`. A symlink to a manifest lies where the link is."""
    if is_remote(uri):
        return posixpath.dirname(path_part(uri))
    return os.path.dirname(os.path.abspath(_plain(uri)))


def local_path(uri: str) -> str:
    """Absolute local path, symlinks resolved, of a path or a file:///absolute/path URL."""
    return os.path.realpath(_plain(uri))


def check_uri(uri: str, is_clip: bool = False) -> str:
    """The URI itself. Raises ForbiddenUri for a protocol, form or character that is not allowed.

    A clip's local path may hold `::`, for it is never given to fsspec, which would take it for a chain.
    """
    if not uri.strip() or len(uri) > MAX_URI:
        raise _forbidden(uri, "it is empty or too long", f"give 1 to {MAX_URI} characters")
    if has_control(uri):
        raise _forbidden(uri, "it has control characters or is not UTF-8", "rename the file")
    if "::" in uri and not (is_clip and "://" not in uri):
        raise _forbidden(uri, "chained URLs are not allowed", "name the file itself")
    kind = protocol(uri)
    if kind and kind not in REMOTE | {"file"}:
        raise _forbidden(uri, f"protocol {kind[:20]!r} is not allowed", f"use a path or {', '.join(sorted(REMOTE))}")
    if kind == "file" and not uri.partition("://")[2].startswith("/"):
        raise _forbidden(uri, "a file URL must be absolute", "write file:///folder/name or a plain path")
    return _check_remote(uri, kind) if is_remote(uri) else uri


def resolve(clip: str, base: str, allow_outside: bool = False, from_remote: bool = False) -> str:
    """Absolute path or URL of a clip, relative to the folder `base`.

    Local clips must lie under `base` after symlinks are resolved, unless `allow_outside`. `from_remote` says that a
    remote manifest names the clip: it may not name absolute local paths, and never leaves `base`.
    Raises ForbiddenUri.
    """
    clip = check_uri(clip, is_clip=True)
    if is_remote(clip):
        return clip
    absolute = protocol(clip) == "file" or clip.startswith("/")
    if absolute and (from_remote or is_remote(base)):
        raise _forbidden(clip, "a remote manifest may not name a local path", "copy the manifest here, or use a URL")
    if is_remote(base):
        return check_uri(f"{base.rstrip('/')}/{clip}")
    root = local_path(base)
    path = os.path.realpath(local_path(clip) if absolute else os.path.join(root, clip))
    if not (allow_outside and not from_remote) and os.path.commonpath([root, path]) != root:
        raise _forbidden(clip, "it lies outside the source folder", "move it inside, or set allow_outside")
    return path if os.path.lexists(path) else _in_other_form(path)


def _in_other_form(path: str) -> str:
    """The path in Unicode's composed or decomposed form, if such a file exists: macOS writes names decomposed."""
    forms = (unicodedata.normalize(form, path) for form in ("NFC", "NFD"))
    return next((form for form in forms if os.path.isfile(form) and not os.path.islink(form)), path)


def safe_name(clip: str) -> str:
    """A display name of [A-Za-z0-9._-], 1 to 60 characters, from the last part of a clip's path, without its ending."""
    stem = posixpath.splitext(posixpath.basename(path_part(clip).rstrip("/")))[0]
    return plain_name(stem)


def plain_name(text: str) -> str:
    """Any text as [A-Za-z0-9._-], 1 to 60 characters."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode()
    return re.sub(r"[^A-Za-z0-9._]+", "-", plain)[:MAX_NAME].strip("-._") or "clip"


def open_store(uri: str) -> tuple[AbstractFileSystem, str]:
    """The fsspec file system of a URI, and the path in it. Raises ForbiddenUri, or StorageError when out of reach."""
    uri = check_uri(uri)
    try:
        return url_to_fs(uri)
    except ImportError as error:
        raise _forbidden(uri, f"its store needs a package ({scrubbed(error)})", "install that package") from error
    except Exception as error:  # every backend has its own classes of credential and address errors
        problem = f"store of {scrubbed(uri)!r}: can't be reached ({scrubbed(error)})"
        raise StorageError(f"{problem}; check address and credentials") from error


def walk_videos(
    folder: str,
    endings: frozenset[str],
    skipped: Counter[str] | None = None,
    is_clip: Callable[[list[str]], bool] = lambda names: False,
) -> Iterator[str | OSError]:
    """Relative POSIX paths of videos below a local folder, in sorted order; hidden names and linked folders are not
    entered. Holds one folder's names at a time. A folder that can't be read yields its OSError. `skipped` counts the
    endings of all other files. A folder below, of whose names `is_clip` is true, is a video itself.
    """
    waiting = [(folder, "")]
    while waiting:
        path, relative = waiting.pop()
        if relative.endswith("/") or not relative:
            try:
                entries = _entries(path)
            except OSError as error:
                yield error
                continue
            if relative and is_clip([name for name, _ in entries]):
                yield relative.rstrip("/")
            else:
                waiting += reversed([(e.path, relative + n) for n, e in entries])
        elif is_video(relative, endings):
            yield relative
        elif skipped is not None and not is_hidden(relative):
            skipped[posixpath.splitext(relative)[1].lower()] += 1


def is_video(relative: str, endings: frozenset[str]) -> bool:
    """Whether its ending fits and no part of it is hidden."""
    return not is_hidden(relative) and posixpath.splitext(relative)[1].lower() in endings


def is_hidden(relative: str) -> bool:
    """Whether a part of the path begins with a dot."""
    return any(part.startswith(".") for part in relative.split("/"))


def _plain(uri: str) -> str:
    """A plain path of a local path or a file URL, whose %20 means a space (RFC 8089), unless a file is called so."""
    if protocol(uri) != "file":
        return uri
    written = uri.partition("://")[2]
    meant = unquote(written)
    return written if meant != written and os.path.lexists(written) and not os.path.lexists(meant) else meant


def _entries(path: str) -> list[tuple[str, Any]]:
    with os.scandir(path) as entries:
        named = [(e.name + "/" if e.is_dir(follow_symlinks=False) else e.name, e) for e in entries]
    return sorted((pair for pair in named if not pair[0].startswith(".")), key=lambda pair: pair[0])


def _check_remote(uri: str, kind: str) -> str:
    if ".." in path_part(uri).split("/"):
        raise _forbidden(uri, "a URL may not contain '..'", "write the full address")
    try:
        parts = urlsplit(uri)
    except ValueError as error:
        raise _forbidden(uri, f"it is no valid URL ({error})", "correct it") from error
    if kind in ("http", "https") and "@" in parts.netloc:
        raise _forbidden(uri, "it carries a user name", "give credentials through the environment")
    return kind + uri[len(kind) :]


def _forbidden(uri: str, problem: str, remedy: str) -> ForbiddenUri:
    return ForbiddenUri(printable(uri[:200]), problem, remedy)
