"""Clips that show an earlier one again: the same bytes, or frames that look the same."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from cogvideo_core.media.figures import distances, packed
from cogvideo_core.settings.specs import fingerprint
from cogvideo_core.stages.units import part_of
from cogvideo_core.storage.uris import shown_clip

Record = dict[str, Any]
FIRST_ROWS = 1024


class Seen:
    """The clips of a plan so far, by content and by perceptual hashes: about 200 bytes a clip, which stay in memory."""

    def __init__(self, most_distance: float) -> None:
        self.most_distance, self.names, self.uris = most_distance, list[str](), list[int]()
        self.by_content: dict[bytes, int] = {}
        self.hashes, self.owners, self.hashed = np.zeros((FIRST_ROWS, 3), np.uint64), list[int](), 0

    def first_like(self, clip: Record, content: str, hashes: Sequence[str] = ()) -> str:
        """The name of the first clip that this one shows again, "" for none: then it is remembered itself.

        `content` is the file's sha256, `hashes` those of frames of its first window; none: bytes alone are compared.
        Another row of the same file is no duplicate.
        """
        # another part of the same bytes is no duplicate of them
        uri, digest = hash(clip["uri"]), bytes.fromhex(fingerprint([content, *part_of(clip)]))[:16]
        found = self.by_content.get(digest)
        if found is None and len(hashes):
            found = self._near(packed(hashes))
        if found is not None:
            return "" if self.uris[found] == uri else self.names[found]
        self.by_content[digest] = len(self.names)
        if len(hashes):
            self._remember(packed(hashes))
        self.names.append(shown_clip(clip["clip"]))
        self.uris.append(uri)
        return ""

    def _near(self, hashed: np.ndarray) -> int | None:
        near = np.flatnonzero(distances(self.hashes[: self.hashed], hashed) <= self.most_distance)
        return self.owners[int(near[0])] if len(near) else None

    def _remember(self, hashed: np.ndarray) -> None:
        if self.hashed == len(self.hashes):
            self.hashes = np.concatenate([self.hashes, np.zeros_like(self.hashes)])
        self.hashes[self.hashed] = hashed
        self.owners.append(len(self.names))
        self.hashed += 1
