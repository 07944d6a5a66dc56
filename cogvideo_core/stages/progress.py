"""What the transformer has said of an unfinished edit of a long clip, kept so that a killed process loses seconds.

An edit of minutes is hundreds of calls, and all else follows from their answers: whoever takes it up again is given
the stored answers and computes the rest, with the same result. They are units of the ledger of a few seconds' calls
each, named by the batch, the scene and the number of their first call, and are removed once the edits are committed.
"""

from __future__ import annotations

import tempfile
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideo_core.diffusion.attention import Reference
from cogvideo_core.diffusion.editing import RowVelocity
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.stages.work import Record, Work
from cogvideo_core.storage.ledger import Commit, Ledger

FORMAT = 1
KEEP_EVERY_S, KEEP_EVERY_BYTES = 5.0, 256_000_000
FILE = "answers.safetensors"


def spec_of(edit_keys: Sequence[str], scene: int, first: int) -> Record:
    return {"format": FORMAT, "edits": list(edit_keys), "scene": scene, "first": first}


def _found(ledger: Ledger, edit_keys: Sequence[str], scene: int, first: int) -> Commit | None:
    return ledger.find("progress", fingerprint(spec_of(edit_keys, scene, first)), "full")


class Answers:
    """The answers of one scene of a batch, in the order of the calls. A context manager: when it is left by an error,
    or after more than a few seconds, what is not stored yet is stored."""

    def __init__(self, work: Work, edit_keys: Sequence[str], scene: int) -> None:
        self.work, self.edit_keys, self.scene = work, list(edit_keys), scene
        self.called, self.stored = 0, 0  # calls so far; those of them that are stored
        self.known, self.fresh = deque[Tensor](), list[Tensor]()
        self.behind, self.alone = True, True  # whether there may be stored answers; whether nobody else stores some
        self.spent = 0  # rows that were computed here
        self.kept_at = time.monotonic()

    def __enter__(self) -> Answers:
        return self

    def __exit__(self, *error: object) -> None:
        if self.stored or error[0] is not None:
            self.store()

    def of(self, velocity: RowVelocity) -> RowVelocity:
        """The velocity, computed where its answer is not stored. Reference rows come back as zeros from the store."""

        def answered(x: Tensor, t: int, text: Tensor, reference: Reference | None = None) -> Tensor:
            rows = reference.rows if reference else 0
            before = self._next()
            if before is not None and before.shape == x[rows:].shape:
                return torch.cat([x.new_zeros(rows, *x.shape[1:]), before.to(x)])
            v = velocity(x, t, text, reference)
            self.spent += len(x)
            self._keep(v[rows:])
            return v

        return answered

    def _next(self) -> Tensor | None:
        """The stored answer to the next call."""
        if self.behind and not self.known:
            self.known.extend(self._read(self.called))
            self.behind = bool(self.known)
            self.stored = max(self.stored, self.called + len(self.known))
        if not self.known:
            return None
        self.called += 1
        return self.known.popleft()

    def _read(self, first: int) -> list[Tensor]:
        commit = _found(self.work.ledger, self.edit_keys, self.scene, first)
        if commit is None:
            return []
        with tempfile.TemporaryDirectory() as folder:
            found = load_file(self.work.ledger.fetch(commit, FILE, Path(folder)))
        return [found[f"{number:05d}"].clone().float() for number in range(len(found))]

    def _keep(self, v: Tensor) -> None:
        self.called += 1
        if not self.alone:
            return
        short = v.to("cpu", self.work.model.transformer.dtype)
        self.fresh.append(short if short.float().equal(v.cpu().float()) else v.float().cpu())
        size = sum(each.nbytes for each in self.fresh)
        if time.monotonic() - self.kept_at > KEEP_EVERY_S or size > KEEP_EVERY_BYTES:
            self.store()

    def store(self) -> None:
        """Commits the answers that are not stored yet."""
        if self.fresh and self.alone:
            spec, count = spec_of(self.edit_keys, self.scene, self.stored), len(self.fresh)
            with tempfile.TemporaryDirectory() as folder:
                save_file({f"{n:05d}": v.contiguous() for n, v in enumerate(self.fresh)}, Path(folder) / FILE)
                files, about = {FILE: Path(folder) / FILE}, {"calls": count}
                commit = self.work.ledger.commit("progress", fingerprint(spec), files, spec, about)
            self.alone = commit.record["calls"] == count  # else another process makes the same edits, and was faster
            self.stored += count
        self.fresh, self.kept_at = [], time.monotonic()


def clear(work: Work, edit_keys: Sequence[str], scenes: int) -> None:
    """Removes all that is stored of a batch whose edits are committed."""
    for scene in range(scenes):
        first = 0
        while commit := work.ledger.find("progress", fingerprint(spec_of(edit_keys, scene, first)), "none"):
            work.ledger.remove(commit)
            first += max(int(commit.record["calls"]), 1)
