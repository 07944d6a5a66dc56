"""What a person said of edits: `reviews.jsonl` under the root, one line for each word, the last of which counts."""

from __future__ import annotations

import fcntl
import json
import logging
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal, cast, get_args

from cogvideo_core.storage.keys import is_key
from cogvideo_core.storage.ledger import Ledger

Said = Literal["keep", "reject", "prefer", "undo"]
SAID: tuple[str, ...] = get_args(Said)
FILE = "reviews.jsonl"
logger = logging.getLogger(__name__)


def append_review(root: Path, edit_key: str, said: str) -> None:
    """Adds a line, and is on disk when this returns; several processes may do so at once. Raises ValueError.

    A line that a killed process has left half-written is closed first, and is skipped when reading.
    """
    if not is_key(edit_key) or said not in SAID:
        raise ValueError(f"a review names an edit's key and one of {', '.join(SAID)}")
    line = json.dumps({"edit_key": edit_key, "said": said, "when": datetime.now(UTC).isoformat(timespec="seconds")})
    handle = os.open(root / FILE, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        size = os.fstat(handle).st_size
        whole = size == 0 or os.pread(handle, 1, size - 1) == b"\n"
        os.write(handle, ("" if whole else "\n").encode() + f"{line}\n".encode())
        os.fsync(handle)
    finally:
        os.close(handle)


def read_reviews(ledger: Ledger) -> dict[str, Said]:
    """Edit key -> what was said last, without what was undone; lines that can't be read are skipped, the log tells."""
    lines = ledger.objects.read(FILE).splitlines() if ledger.objects.exists(FILE) else []
    found: dict[str, Said] = {}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            key, said = row["edit_key"], row["said"]
        except (ValueError, KeyError, TypeError, RecursionError):
            key = said = ""
        if not is_key(key) or said not in SAID:
            logger.warning("line %d of %s is no review and is skipped", number, FILE)
            continue
        found.pop(key, None)  # so that the order is that of the last words
        if said != "undo":
            found[key] = cast(Said, said)
    return found


def labels_of(reviews: Mapping[str, Said]) -> dict[str, bool]:
    """Reviews as labels: edit key -> accepted."""
    return {key: said != "reject" for key, said in reviews.items()}
