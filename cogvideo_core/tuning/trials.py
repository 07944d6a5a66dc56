"""Trials in the ledger: each finished one is a commit of its own, and together they are the study."""

from __future__ import annotations

import base64
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from cogvideo_core.settings.specs import RecipeSpec, fingerprint
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.tuning.marks import Marks, clip_marks, mean_marks
from cogvideo_core.tuning.space import Point

FORMAT = 1
Kind = Literal["trial", "preset", "layers", "held_out"]


class Seen(NamedTuple):
    """What a recipe made of one clip: the scores of its edits, a JPEG of one of them, and evaluations spent."""

    scores: list[dict[str, float]]
    tile: bytes = b""
    evaluations: int = 0

    def as_json(self) -> dict[str, Any]:
        return self._asdict() | {"tile": base64.b64encode(self.tile).decode()}

    @classmethod
    def from_json(cls, given: dict[str, Any]) -> Seen:
        return cls(given["scores"], base64.b64decode(given["tile"]), given["evaluations"])


class Trial(NamedTuple):
    """One recipe on the first so many clips. state: complete, pruned, failed; why: it was given up."""

    kind: Kind
    number: int
    params: dict[str, Any]
    recipe: dict[str, Any]
    steps: int
    cost: float
    state: Literal["complete", "pruned", "failed"]
    why: str
    scores: list[list[dict[str, float]]]  # by clip, then by edit
    evaluations: int
    seconds: float

    @property
    def point(self) -> Point:
        return Point(RecipeSpec(**self.recipe), self.steps)

    @property
    def clips(self) -> list[Marks]:
        return [clip_marks(edits) for edits in self.scores]

    def marks(self, clips: int = 0) -> Marks:
        """The means over the first so many clips; 0: over all that it has seen."""
        return mean_marks(self.clips[: clips or None])


class Store:
    """The trials of one study, whose `about` holds all that determines what they find."""

    def __init__(self, ledger: Ledger, about: dict[str, Any]) -> None:
        self.ledger, self.study = ledger, fingerprint({"format": FORMAT} | about)

    def _spec(self, kind: Kind, number: int) -> dict[str, Any]:
        return {"format": FORMAT, "study": self.study, "kind": kind, "number": number}

    def find(self, kind: Kind, number: int) -> Trial | None:
        commit = self.ledger.find("trials", fingerprint(self._spec(kind, number)))
        return Trial(**commit.record["trial"]) if commit else None

    def all(self, kind: Kind = "trial") -> list[Trial]:
        """Those that are committed, in order, without a gap."""
        found: list[Trial] = []
        while (trial := self.find(kind, len(found))) is not None:
            found.append(trial)
        return found

    def keep(self, trial: Trial, tiles: Sequence[bytes] = ()) -> Trial:
        """Commits a trial with the pictures of its first clips; what is returned is what lies there."""
        spec = self._spec(trial.kind, trial.number)
        with tempfile.TemporaryDirectory() as folder:
            files = {f"{clip}.jpg": Path(folder) / f"{clip}.jpg" for clip, tile in enumerate(tiles) if tile}
            for clip, tile in enumerate(tiles):
                if tile:
                    files[f"{clip}.jpg"].write_bytes(tile)
            commit = self.ledger.commit("trials", fingerprint(spec), files, spec, {"trial": trial._asdict()})
        return Trial(**commit.record["trial"])

    def tiles(self, kind: Kind, number: int) -> dict[int, bytes]:
        """The pictures of a trial by clip."""
        commit = self.ledger.find("trials", fingerprint(self._spec(kind, number)))
        if commit is None:
            return {}
        names = [name for name in commit.files if name.endswith(".jpg")]
        return {int(name[:-4]): self.ledger.objects.read(self.ledger.object_name(commit, name)) for name in names}
