"""sha256 of large files that rarely change, remembered from one process to the next.

A file is recognised by its real path, size, modification time and inode. Files in the hub's cache have their sha256 as
their name, and are not read.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

SMALL_BYTES = 1 << 20  # read faster than remembered
SETTLED_S = 2.0  # a file that was written just now may still change within its time stamp's resolution
BLOB = re.compile(r"[0-9a-f]{64}")


def sha256_of(file: Path) -> str:
    """64 hex digits. Raises OSError."""
    real = Path(os.path.realpath(file))
    if real.parent.name == "blobs" and BLOB.fullmatch(real.name):
        return real.name
    found = real.stat()
    if found.st_size < SMALL_BYTES:
        return _hashed(real)
    seen = [found.st_size, found.st_mtime_ns, found.st_ino]
    known = _remembered().get(str(real))
    if isinstance(known, list) and known[:3] == seen and BLOB.fullmatch(str(known[3])):
        return str(known[3])
    digest = _hashed(real)
    if time.time() - found.st_mtime > SETTLED_S:
        _remember(str(real), [*seen, digest])
    return digest


def digest_of(files: Iterable[Path]) -> str:
    """sha256 over the names and bytes of these files, whatever their order."""
    digest = hashlib.sha256()
    for file in sorted(files):
        digest.update(file.name.encode())
        digest.update(bytes.fromhex(sha256_of(file)))
    return digest.hexdigest()


def _hashed(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def memory_file() -> Path:
    """Where hashes are remembered; removing it costs nothing but time."""
    folder = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(folder) / "cogvideo-edit" / "sha256.json"


def _remembered() -> dict[str, Any]:
    with suppress(OSError, ValueError):
        known = json.loads(memory_file().read_text("utf-8"))
        return known if isinstance(known, dict) else {}
    return {}


def _remember(path: str, about: list[object]) -> None:
    """If two processes write at once, an entry may be lost; its file is then hashed again."""
    with suppress(OSError):  # a home that can't be written to
        target = memory_file()
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=target.parent, delete=False, encoding="utf-8") as part:
            json.dump(_remembered() | {path: about}, part)
        os.replace(part.name, target)
