"""What an export has come to: counts, and sentences about the rows that had to be left out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from cogvideo_core.storage.uris import printable

SENTENCES = 20


class Counted(Protocol):
    """Of an item: what is counted."""

    @property
    def row(self) -> dict[str, Any]: ...
    @property
    def split(self) -> str: ...
    @property
    def size(self) -> int: ...


class Outcome:
    """Counts of an export while it runs. `step` is called once for each wanted row that is dealt with."""

    def __init__(self, step: Callable[[], None] = lambda: None) -> None:
        self.step = step
        self.edits: Counter[str] = Counter()  # by split
        self.clips: Counter[str] = Counter()
        self.video_bytes = self.left_out = self.duplicates = self.shards = self.shards_kept = 0
        self.sentences: list[str] = []  # about the first that were left out
        self.models: set[str] = set()
        self.recipes: set[str] = set()
        self._last: dict[str, tuple[Any, ...]] = {}

    def add(self, item: Counted) -> None:
        """Counts an edit of the export. A split's edits of one clip, part and window come one after the other."""
        clip = tuple(item.row.get(name) for name in ("clip", "start_s", "end_s", "window"))
        self.clips[item.split] += self._last.get(item.split) != clip
        self._last[item.split] = clip
        self.edits[item.split] += 1
        self.video_bytes += item.size
        self.models.add(str(item.row.get("model")))
        self.recipes.add(str(item.row.get("recipe")))
        self.step()

    def leave_out(self, clip: str, problem: str) -> None:
        """Counts an edit whose video can't be had."""
        self.left_out += 1
        if len(self.sentences) < SENTENCES:
            remedy = "the edit is left out; run the clip again, then export again"
            self.sentences.append(printable(f"clip {clip!r}: {problem}; {remedy}"))
        self.step()

    def drop_duplicate(self) -> None:
        self.duplicates += 1
        self.step()

    def as_json(self) -> dict[str, Any]:
        """Counts: edits, clips, edits of each split, bytes of video, left out, duplicates, shards written and kept."""
        return {
            "edits": sum(self.edits.values()),
            "clips": sum(self.clips.values()),
            "splits": dict(sorted(self.edits.items())),
            "video_bytes": self.video_bytes,
            "left_out": self.left_out,
            "duplicates": self.duplicates,
            "shards": self.shards,
            "shards_kept": self.shards_kept,
            "sentences": self.sentences,
        }
