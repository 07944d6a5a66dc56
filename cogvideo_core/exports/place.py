"""Where an export goes: files that appear whole or not at all, a record of them, and their sha256 sums.

`.export/export.json` says whose export it is, `.export/shards/` which shards are finished. `sha256sums.txt` is written
last: it is there if and only if the export is finished.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

from cogvideo_core.dataset.videos import OWN_NAME
from cogvideo_core.errors import BadSpec, StorageError
from cogvideo_core.exports.spec import SPLIT
from cogvideo_core.storage.objects import storing
from cogvideo_core.storage.opening import open_objects
from cogvideo_core.storage.uris import check_uri, protocol, unsigned

HOME, MARK, SUMS = ".export", ".export/export.json", "sha256sums.txt"
SCRATCH, RECORDS = ".export/tmp", ".export/shards"
VIDEO, SPLIT_NAME = f"videos/{OWN_NAME.pattern}", SPLIT.pattern
# every name that an export gives: nothing else is ever removed
OURS = re.compile(
    rf"\.export/.+|README\.md|sha256sums\.txt|{SPLIT_NAME}-\d{{5,}}\.tar|data/{SPLIT_NAME}-\d{{5,}}\.parquet"
    rf"|triplets-{SPLIT_NAME}\.jsonl|training\.json|validation-{SPLIT_NAME}\.json|{VIDEO}|{SPLIT_NAME}/({VIDEO}|metadata\.jsonl|prompts\.txt|videos\.txt)"
)


class Stored(NamedTuple):
    """Bytes and sha256 of a file of the export."""

    size: int
    sha256: str


Files = dict[str, Stored]


class Place:
    """A folder or URL for one export. Raises ForbiddenUri, BadSpec for one that can't be used."""

    def __init__(self, dest: str) -> None:
        self.dest = unsigned(dest)
        if protocol(check_uri(dest)) in ("http", "https", "hf"):
            raise BadSpec(
                f"field dest: {self.dest!r} can't be written to; give a folder, s3://, gs:// or az://, and push a "
                "finished export with --to hf://user/name"
            )
        self.objects = open_objects(dest)
        self._names: set[str] | None = None  # of this export, where an earlier one may have left others
        self._last: Files = {}
        self._spools = ExitStack()
        self._sums = self.spool()

    def __enter__(self) -> Place:
        return self

    def __exit__(self, *_: object) -> None:
        self._spools.close()
        if self.objects.local:
            shutil.rmtree(self.objects.path(SCRATCH), ignore_errors=True)

    def spool(self) -> IO[bytes]:
        """A new file without a name on this machine's disk, until the place is left."""
        return self._spools.enter_context(tempfile.TemporaryFile())

    def publish_spool(self, spool: IO[bytes], name: str) -> Stored:
        """Gives what was written to a spool a name in the export, at once."""
        spool.seek(0)
        with self.scratch() as path:
            with path.open("wb") as sink:
                shutil.copyfileobj(spool, sink)
            return self.publish(path, name)

    def begin(self, identity: Mapping[str, str], overwrite: bool = False) -> None:
        """Takes the place for the export with this identity. Raises BadSpec where something else is there."""
        self._check_free()
        found = self._mark()
        if found is not None and found != dict(identity):
            if not overwrite:
                raise BadSpec(
                    f"field dest: {self.dest!r} holds another export ({found.get('to')}), or one of another root or "
                    "choice; give another folder, or replace it with --overwrite"
                )
            self._remove_all_but({MARK})  # the mark last: an interrupted replacement goes on
        self._names = set() if found is not None else None
        self.objects.remove(SUMS)
        self.write(MARK, json.dumps(dict(identity), indent=2).encode())

    def _check_free(self) -> None:
        with storing(self.dest):
            if self.objects.fs.isfile(self.objects.root):
                raise BadSpec(f"field dest: {self.dest!r} is a file; give a folder")
        names = set(self.objects.names("")) - {HOME}
        if names and self._mark() is None:
            raise BadSpec(
                f"field dest: {self.dest!r} holds files that no export has made, such as {min(names)!r}; "
                "give a new or empty folder"
            )

    def _mark(self) -> dict[str, Any] | None:
        try:
            found = json.loads(self.objects.read(MARK))
        except FileNotFoundError:
            return None
        except ValueError:  # it is ours all the same
            return {}
        return found if isinstance(found, dict) else {}

    @contextmanager
    def scratch(self) -> Iterator[Path]:
        """A new path for a file that `publish` will take; on the place's own disk where it has one."""
        if self.objects.local:
            folder = Path(self.objects.path(SCRATCH))
            folder.mkdir(parents=True, exist_ok=True)
            path = folder / uuid.uuid4().hex
        else:
            path = Path(tempfile.gettempdir()) / f"cogvideo-export-{uuid.uuid4().hex}"
        try:
            with storing(path.name):
                yield path
        finally:
            path.unlink(missing_ok=True)

    def publish(self, path: Path, name: str) -> Stored:
        """Gives a finished local file its name in the export, at once."""
        with storing(name):
            with path.open("rb") as file:
                stored = Stored(path.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest())
                os.fsync(file.fileno())
            if self.objects.local:
                final = self.objects.path(name)
                os.makedirs(os.path.dirname(final), exist_ok=True)
                os.replace(path, final)
            else:
                self.objects.fs.put_file(str(path), self.objects.path(name))
            if (size := self.objects.size(name)) != stored.size:
                raise StorageError(f"object {name!r}: {size} bytes stored of {stored.size}; export again")
        return stored

    def write(self, name: str, data: bytes) -> Stored:
        """A file of these bytes, at once."""
        with storing(name):
            if self.objects.local:
                with self.scratch() as path:
                    path.write_bytes(data)
                    final = self.objects.path(name)
                    os.makedirs(os.path.dirname(final), exist_ok=True)
                    os.replace(path, final)
            else:
                self.objects.fs.pipe_file(self.objects.path(name), data)
        return Stored(len(data), hashlib.sha256(data).hexdigest())

    def finished(self, shard: str, plan: str, verify: Literal["full", "size"]) -> Files | None:
        """The files of a shard that an earlier try has finished by the same plan; None where one is not as recorded."""
        try:
            told = json.loads(self.objects.read(f"{RECORDS}/{shard}.json"))
            files = {name: Stored(int(size), str(sha256)) for name, (size, sha256) in told["files"].items()}
            if told["plan"] != plan or not all(OURS.fullmatch(name) for name in files):
                return None
            return files if all(self._is_as(name, stored, verify) for name, stored in files.items()) else None
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def _is_as(self, name: str, stored: Stored, verify: Literal["full", "size"]) -> bool:
        if verify == "full":
            return self.objects.digest(name) == tuple(stored)
        return self.objects.size(name) == stored.size

    def record(self, shard: str, plan: str, files: Files) -> None:
        """Notes that a shard is finished."""
        told = {"plan": plan, "files": {name: list(stored) for name, stored in files.items()}}
        self.write(f"{RECORDS}/{shard}.json", json.dumps(told).encode())

    def add(self, files: Files, record: str = "") -> None:
        """Counts files into the export, for its sums; `record` is the shard that they are recorded for."""
        for name, stored in files.items():
            if name not in self._last:  # a source that the last shard had too
                self._sums.write(f"{stored.sha256}  {name}\n".encode())
        self._last = files
        if self._names is not None:
            self._names |= {*files, *([f"{RECORDS}/{record}.json"] if record else [])}

    def finish(self) -> None:
        """Removes what earlier exports have left over, and writes the sums."""
        if self._names is not None:
            self._remove_all_but(self._names | {MARK})
        self.publish_spool(self._sums, SUMS)

    def _remove_all_but(self, names: set[str]) -> None:
        for name, _ in list(self.objects.walk("")):
            if name not in names and OURS.fullmatch(name):
                self.objects.remove(name)
