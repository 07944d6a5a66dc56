"""What is done: a unit of work is done when its `commit.json` exists beside its data, and the two agree.

A unit is the folder `<root>/<stage>/<key[:2]>/<key>/`. Its data are under an attempt's name, so that writers never
collide; `commit.json` is created only if absent, after the data, and ends with a sha256 of itself. Data that do not
match their commit go to `<root>/quarantine/`, and the work counts as not done.
"""

from __future__ import annotations

import logging
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from cogvideo_core.errors import CorruptObject, StorageError
from cogvideo_core.settings.specs import canonical
from cogvideo_core.storage.commit import Commit, StoredObject, make_commit, plain
from cogvideo_core.storage.keys import Stage, check_name, check_stage, is_key, unit_folder
from cogvideo_core.storage.objects import Objects
from cogvideo_core.storage.opening import open_objects

__all__ = ["Commit", "Ledger", "Stage", "StoredObject", "Verify"]

Verify = Literal["none", "size", "full"]
logger = logging.getLogger(__name__)
SETTLES_S = 0.2  # stores without an atomic create make an empty commit.json and then fill it


class Ledger:
    """All units under one root: a local path, an fsspec URL, or an `Objects` of one's own. Threads may share one."""

    def __init__(self, root: str | Objects) -> None:
        self.objects = open_objects(root) if isinstance(root, str) else root

    def find(self, stage: Stage, key: str, verify: Verify = "size") -> Commit | None:
        """The commit of a unit, or None when the work is still to be done.

        `none` trusts the commit's own sha256, `size` also asks each object's size, `full` reads and hashes all of it.
        A mismatch is set aside with a warning and counts as not done. Raises StorageError when the store fails.
        """
        name = f"{unit_folder(stage, key)}/commit.json"
        try:
            raw = self.objects.read(name)
        except FileNotFoundError:
            return None
        try:
            commit = Commit.from_bytes(raw, stage, key)
        except ValueError as error:
            time.sleep(SETTLES_S)
            if not self._holds(name, raw):  # another writer was just filling it
                return self.find(stage, key, verify)
            self._set_aside(stage, key, raw, {"commit.json": str(error)}, [])
            return None
        if problems := self.check(commit, verify):
            self.set_aside(commit, problems)
            return None
        return commit

    def read(self, stage: Stage, key: str) -> Commit:
        """The commit as stored. Raises FileNotFoundError for none, ValueError for one that can't be trusted."""
        return Commit.from_bytes(self.objects.read(f"{unit_folder(stage, key)}/commit.json"), stage, key)

    def check(self, commit: Commit, verify: Verify = "full") -> dict[str, str]:
        """{logical name: what is wrong with it}; empty when all is well. Changes nothing."""
        problems = {name: self.differs(commit, name, self.object_name(commit, name), verify) for name in commit.files}
        return {name: problem for name, problem in problems.items() if problem}

    def differs(self, commit: Commit, name: str, where: str, verify: Verify) -> str:
        """How the object at `where` differs from a file of the commit; "" for not at all."""
        stored = commit.files[name]
        if verify == "none":
            return ""
        if verify == "full":
            return _differs(stored, lambda: self.objects.digest(where))
        return _differs(stored, lambda: (self.objects.size(where), stored.sha256))

    def commit(
        self, stage: Stage, key: str, files: Mapping[str, Path], spec: Mapping[str, Any], record: Mapping[str, Any]
    ) -> Commit:
        """Store local files and declare the unit done; without files it is its record alone.

        Where another writer was first, its commit is verified in full and returned, and ours is removed. Raises
        StorageError when the store fails (nothing is trusted then), ValueError for names or JSON that can't be stored.
        """
        folder, attempt = unit_folder(stage, key), uuid.uuid4().hex
        names = {check_name(name): f"{folder}/{attempt}/{name}" for name in files}
        spec, record = plain(spec, f"spec of {stage} {key}"), plain(record, f"record of {stage} {key}")
        try:
            stored = {name: self.objects.put(names[name], Path(path)) for name, path in files.items()}
        except Exception:
            self._discard(names.values())
            raise
        ours = make_commit(stage, key, attempt, stored, spec, record)
        for _ in range(3):
            present = self._create(ours) or self.find(stage, key, verify="full")
            if present is not None:
                if present.attempt != attempt:
                    self._discard(names.values())
                return present
        raise StorageError(f"{stage} {key}: commit.json can't be created, nor read; check the store and run again")

    def object_name(self, commit: Commit, name: str) -> str:
        """Where a logical file lies, relative to the root. Raises ValueError for a name the commit does not hold."""
        if name not in commit.files:
            raise ValueError(f"{commit.stage} {commit.key}: no file {name!r}; it holds {sorted(commit.files)}")
        return f"{unit_folder(commit.stage, commit.key)}/{commit.files[name].object}"

    def fetch(self, commit: Commit, name: str, folder: Path) -> Path:
        """A local path of a file, to be read only: the stored one where the root is local, else a checked copy.

        Raises CorruptObject when the copy is not what was committed.
        """
        where, target = self.object_name(commit, name), folder / name
        if self.objects.local:
            return Path(self.objects.path(where))
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f"{target.name}.{uuid.uuid4().hex}.part")
        try:
            problem = _differs(commit.files[name], lambda: self.objects.fetch(where, partial))
            if problem:
                remedy = "run again with verify='full', which sets it aside and redoes it"
                raise CorruptObject(f"{commit.stage} {commit.key}: {name!r} {problem}; {remedy}")
            return partial.replace(target)
        finally:
            partial.unlink(missing_ok=True)

    def open_url(self, commit: Commit, name: str) -> tuple[Any, str]:
        """(fsspec file system, path on it) of a file."""
        return self.objects.fs, self.objects.path(self.object_name(commit, name))

    def remove(self, commit: Commit) -> None:
        """Undo a commit: first `commit.json`, if it is still this one, then its objects."""
        name = f"{unit_folder(commit.stage, commit.key)}/commit.json"
        if self._holds(name, commit.to_bytes()):
            self.objects.remove(name)
        self._discard([self.object_name(commit, name) for name in commit.files])

    def keys(self, stage: Stage) -> Iterator[str]:
        """Keys of all units that have a folder, committed or not, in order."""
        for k2 in self.objects.names(check_stage(stage)):
            yield from filter(is_key, self.objects.names(f"{stage}/{k2}"))

    def units(self, stage: Stage, beginning: str = "") -> Iterator[Commit]:
        """Committed units whose key starts so, in order; a commit.json that can't be trusted is left out with a
        warning. Changes nothing."""
        for key in (key for key in self.keys(stage) if key.startswith(beginning)):
            try:
                yield self.read(stage, key)
            except FileNotFoundError:
                continue
            except ValueError as error:
                logger.warning("%s %s: commit.json %s; it is left out", stage, key, error)

    def set_aside(self, commit: Commit, problems: Mapping[str, str]) -> None:
        """Withdraw a commit whose objects are bad and move them to `quarantine/`, with a record and a warning."""
        objects = [self.object_name(commit, name) for name in commit.files]
        self._set_aside(commit.stage, commit.key, commit.to_bytes(), problems, objects)

    def _set_aside(self, stage: str, key: str, raw: bytes, problems: Mapping[str, str], objects: list[str]) -> None:
        folder, place = unit_folder(stage, key), f"quarantine/{stage}/{key}/{uuid.uuid4().hex}"
        for name, problem in problems.items():
            logger.warning("%s %s: %s %s; set aside in %s, the work is redone", stage, key, name, problem, place)
        if not self._holds(f"{folder}/commit.json", raw):
            return  # someone else was faster: what lies there now is not what was checked
        why = {"stage": stage, "key": key, "problems": dict(problems)}
        self.objects.create(f"{place}/why.json", canonical(why).encode())
        self.objects.create(f"{place}/commit.json", raw)
        self.objects.remove(f"{folder}/commit.json")
        for name in objects:
            try:
                self.objects.move(name, f"{place}/{name.removeprefix(folder + '/')}")
            except FileNotFoundError:
                continue

    def _create(self, ours: Commit) -> Commit | None:
        """Our commit, once stored; None if another one is there."""
        name, raw = f"{unit_folder(ours.stage, ours.key)}/commit.json", ours.to_bytes()
        if self.objects.exists(name):  # for stores that would overwrite it
            return None
        try:
            self.objects.create(name, raw)
        except FileExistsError:
            return None
        except StorageError:
            # The write may have succeeded unanswered, and s3fs has no FileExistsError for If-None-Match.
            if not self.objects.exists(name):
                raise
        # A store that ignores "only if absent" may have let another writer overwrite ours.
        return ours if self._holds(name, raw) else None

    def _holds(self, name: str, raw: bytes) -> bool:
        try:
            return self.objects.read(name) == raw
        except FileNotFoundError:
            return False

    def _discard(self, names: Iterable[str]) -> None:
        for name in names:
            try:
                self.objects.remove(name)
            except StorageError as error:
                logger.warning("%s; it is left behind, and nothing refers to it", error)


def _differs(stored: StoredObject, measure: Callable[[], tuple[int, str]]) -> str:
    """What is wrong with an object, "" for nothing."""
    try:
        size, sha256 = measure()
    except FileNotFoundError:
        return "is missing"
    if size != stored.size:
        return f"has {size} bytes instead of {stored.size}"
    return "" if sha256 == stored.sha256 else "does not match its sha256"
