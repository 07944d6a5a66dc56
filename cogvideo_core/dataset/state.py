"""What a collection found and wrote, so that the next one can tell that nothing has changed.

`tables/collected.json` holds a hash of everything that a collection depends on: settings, reviews, calibration, the
judges, and the names and sizes of all committed objects. It also has the size of each file that was written. It is
removed before the first of them is replaced, and written after the last.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any, NamedTuple

from cogvideo_core.dataset import videos
from cogvideo_core.dataset.rows import TABLE_FIELDS
from cogvideo_core.dataset.spool import Spool
from cogvideo_core.dataset.target import Target
from cogvideo_core.dataset.verdicts import Deciding
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.specs import OutputSpec
from cogvideo_core.storage.commit import versions
from cogvideo_core.storage.keys import Stage
from cogvideo_core.storage.objects import storing

Record = dict[str, Any]
FORMAT = 1  # another one makes everything be collected anew
FILE = "tables/collected.json"
STAGES: tuple[Stage, ...] = ("edits", "sources", "judgements")
ADD_OBJECT = "INSERT INTO objects VALUES (?, ?)"
logger = logging.getLogger(__name__)


class Last(NamedTuple):
    """The last collection; empty where there was none, or one that was interrupted."""

    found: Record = {}  # noqa: RUF012 - never written to
    counts: dict[str, int] = {}  # noqa: RUF012
    written: dict[str, int] = {}  # noqa: RUF012 - name -> bytes
    videos: str = ""

    @property
    def judge(self) -> str:
        """Whose scores the tables hold."""
        return str(self.found.get("judge", ""))


def seen(deciding: Deciding, spool: Spool, output: OutputSpec, about: Record) -> Record:
    """What a collection depends on, as hashes. Lists the committed objects into the table `objects` of the spool."""
    inputs = {
        "about": about,
        "reviews": deciding.reviews,
        "calibration": asdict(deciding.calibration) if deciding.calibration else None,
        "output": {name: getattr(output, name) for name in ("gallery", "videos")},
        "columns": [*TABLE_FIELDS],
        "versions": {name: versions().get(name) for name in ("cogvideo-edit", "pyarrow")},
    }
    found: Record = {"format": FORMAT, "inputs": fingerprint(inputs), "judge": deciding.judge}
    for stage in STAGES:
        total = hashlib.sha256()
        spool.add(ADD_OBJECT, _hashed(deciding.ledger.objects.listed(stage), total))
        found[stage] = total.hexdigest()
    return found


def _hashed(objects: Iterator[tuple[str, int]], total: Any) -> Iterator[tuple[str, int]]:
    for name, size in objects:
        total.update(f"{name} {size}\n".encode())
        yield name, size


def last(target: Target) -> Last:
    """What the last collection of this root has left."""
    with storing(FILE):
        try:
            raw = target.fs.cat_file(f"{target.path}/{FILE}")
        except FileNotFoundError:
            return Last()
    try:
        return Last(**json.loads(raw))
    except (ValueError, TypeError):
        logger.warning("%s can't be read; everything is collected anew", FILE)
        return Last()


def unchanged(target: Target, found: Record, before: Last, linked: bool) -> bool:
    """Whether a collection would change nothing: it depends on the same, and its files have their sizes still."""
    same = bool(before.counts) and found == before.found
    same = same and all(target.size(name) == size for name, size in before.written.items())
    return same and videos.digest(target, linked) == before.videos


def write(target: Target, found: Record, counts: dict[str, int], linked: bool) -> None:
    """Keeps what a collection has found and written, when it is done."""
    about = Last(found, counts, dict(target.written), videos.digest(target, linked))
    target.write(FILE, (json.dumps(about._asdict(), indent=1) + "\n").encode())
