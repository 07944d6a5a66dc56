"""The videos of a collected dataset: copied or linked to where its rows name them, and removed when no row does.

In a small dataset they share `videos/`. In a large one each clip's videos lie in `videos/<two letters>/`, the first of
its source's key; a dataset that has grown large links the videos that it holds to their new places and then removes the
old names, so that at every moment the last complete metadata finds its files or is replaced.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Literal, NamedTuple

from fsspec import AbstractFileSystem

from cogvideo_core.dataset.columns import parts
from cogvideo_core.dataset.spool import Spool, in_turn
from cogvideo_core.dataset.target import Target, temporary_prefix
from cogvideo_core.storage.objects import storing
from cogvideo_core.storage.uris import open_store

FOLDER = "dataset/videos"
OWN_NAME = re.compile(r"[A-Za-z0-9._-]+-[0-9a-f]{12}(-source)?\.mp4")
IN_DATASET = re.compile(rf"videos/(?:[0-9a-f]{{2}}/)?{OWN_NAME.pattern}")  # file_name in the tables
SHARD = re.compile(r"[0-9a-f]{2}")
AT_ONCE, AHEAD = 16, 256  # copies inside of a store are made by the store: threads wait
BATCH = 1_000  # videos that a worker is given
SCHEMA = """
CREATE TABLE jobs (base TEXT PRIMARY KEY, shard TEXT, uri TEXT, size INTEGER, sha256 TEXT) WITHOUT ROWID;
CREATE TABLE have (base TEXT, folder TEXT, size INTEGER, PRIMARY KEY (base, folder)) WITHOUT ROWID;
"""
ADD_JOB = "INSERT OR REPLACE INTO jobs VALUES (?, ?, ?, ?, ?)"
WANTED = """
SELECT j.base, CASE WHEN ? THEN j.shard ELSE '' END AS place, j.uri, j.size, j.sha256,
    (SELECT size FROM have h WHERE h.base = j.base AND h.folder = CASE WHEN ? THEN j.shard ELSE '' END),
    (SELECT max(folder) FROM have h WHERE h.base = j.base AND h.folder != CASE WHEN ? THEN j.shard ELSE '' END
        AND h.size >= 0)
FROM jobs j
"""
STALE = """
SELECT h.base, h.folder FROM have h LEFT JOIN jobs j ON j.base = h.base
WHERE j.base IS NULL OR h.folder != CASE WHEN ? THEN j.shard ELSE '' END
"""
Outcome = Literal["kept", "copied", "missing"]


class Job(NamedTuple):
    """A video of the dataset: where it belongs, where it comes from, and what there is of it."""

    base: str  # the file's name
    folder: str  # below videos/, "" in a small dataset
    uri: str
    size: int | None  # of the object in bytes, where known
    sha256: str  # of the object, "" where the copy is trusted for its size
    here: int | None  # bytes of the file that is in place
    elsewhere: str | None  # another folder that holds it


Placing = Callable[[str, bool, Iterator[list[Job]]], Iterator[tuple[list[Job], list[Outcome]]]]
"""placing(root, linked, batches): brings the videos of each batch to their places below the root, and says what became
of each. `placed_here` does; a flow has others do it, a batch each."""


class Copies(NamedTuple):
    missing: set[str]  # names of those whose objects are gone
    copied: int
    kept: int


def place_of(base: str, folder: str) -> str:
    """A video's name relative to the root."""
    return f"{FOLDER}/{folder}/{base}" if folder else f"{FOLDER}/{base}"


def listed(target: Target, linked: bool) -> Iterator[tuple[str, str, int]]:
    """(file name, folder, bytes) of our videos in the dataset, one folder after the other. Unless `linked`, a file that
    other names share counts as -1 bytes: it is to be copied, for users may write to it."""
    for folder in ["", *shards(target)]:
        found = _local(target, folder, linked) if target.local else _remote(target, folder)
        yield from ((base, folder, size) for base, size in sorted(found) if OWN_NAME.fullmatch(base))


def shards(target: Target) -> list[str]:
    """The folders of a large dataset's videos that there are."""
    return list(filter(SHARD.fullmatch, target.names(FOLDER)))


def _local(target: Target, folder: str, linked: bool) -> Iterator[tuple[str, int]]:
    place = f"{target.path}/{FOLDER}/{folder}".rstrip("/")
    target.sweep(place)
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(place) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                about = entry.stat(follow_symlinks=False)
                yield entry.name, about.st_size if linked or about.st_nlink == 1 else -1


def _remote(target: Target, folder: str) -> Iterator[tuple[str, int]]:
    with storing(FOLDER):
        try:
            found = target.fs.ls(f"{target.path}/{FOLDER}/{folder}".rstrip("/"), detail=True, refresh=True)
        except FileNotFoundError:
            return
    yield from ((info["name"].rpartition("/")[2], info["size"]) for info in found if info["type"] == "file")


def digest(target: Target, linked: bool) -> str:
    """Of names and sizes of our videos."""
    total = hashlib.sha256()
    for base, folder, size in listed(target, linked):
        total.update(f"{folder}/{base} {size}\n".encode())
    return total.hexdigest()


def place_videos(target: Target, spool: Spool, spread: bool, linked: bool, placing: Placing | None = None) -> Copies:
    """Brings every video of the table `jobs` to its place; one that is there with the right size (and sha256, where
    the job has one) is kept. With `linked` local objects are hard-linked where the disk can. Raises StorageError."""
    spool.add("INSERT INTO have VALUES (?, ?, ?)", listed(target, linked))
    missing: set[str] = set()
    counts = {"kept": 0, "copied": 0}
    jobs = (Job(*row) for row in spool.rows(WANTED, spread, spread, spread))
    todo = (job for job in jobs if not _settled(job, counts))
    for batch, outcomes in (placing or placed_here)(target.address, linked, parts(todo, BATCH)):
        for job, outcome in zip(batch, outcomes, strict=True):
            if outcome == "missing":
                missing.add(job.base)
            else:
                counts[outcome] += 1
    return Copies(missing, counts["copied"], counts["kept"])


def placed_here(root: str, linked: bool, batches: Iterator[list[Job]]) -> Iterator[tuple[list[Job], list[Outcome]]]:
    """By threads of this process. Raises StorageError."""
    target = Target.of(root)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        jobs = (job for batch in batches for job in batch)
        for job, outcome in in_turn(pool, lambda job: (job, _placed(target, linked, job)), jobs, AHEAD):
            yield [job], [outcome]


def _settled(job: Job, counts: dict[str, int]) -> bool:
    """Whether the listing alone says that the video is in place."""
    done = job.size is not None and job.size == job.here and not job.sha256
    counts["kept"] += done
    return done


def _placed(target: Target, linked: bool, job: Job) -> Outcome:
    fs, path = open_store(job.uri)
    name = place_of(job.base, job.folder)
    with storing(name):
        try:
            size = fs.info(path)["size"] if job.size is None else job.size
            if job.here == size and _whole(target, job, name):
                return "kept"
            if job.elsewhere is not None and _moved(target, job, place_of(job.base, job.elsewhere), name, size):
                return "kept"
            _copy(fs, path, target, f"{target.path}/{name}", linked)
        except FileNotFoundError:
            return "missing"
    return "copied"


def _whole(target: Target, job: Job, name: str) -> bool:
    if not job.sha256:
        return True
    with target.fs.open(f"{target.path}/{name}", "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == job.sha256


def _moved(target: Target, job: Job, old: str, new: str, size: int) -> bool:
    """Gives a video of the dataset a second name where it belongs; the old one is stale from now on."""
    if target.size(old) != size or not _whole(target, job, old):
        return False
    final = f"{target.path}/{new}"
    if target.local:
        return _linked(f"{target.path}/{old}", final)
    target.fs.cp_file(f"{target.path}/{old}", final)
    return True


def _linked(path: str, final: str) -> bool:
    """Whether the file has got this second name, in place of what was there; not every disk can."""
    folder = os.path.dirname(final)
    os.makedirs(folder, exist_ok=True)
    temporary = f"{folder}/{temporary_prefix()}{uuid.uuid4().hex}"
    try:
        os.link(path, temporary)
        os.replace(temporary, final)
    except FileNotFoundError:
        raise
    except OSError:  # another disk, or one without hard links
        return False
    finally:
        Path(temporary).unlink(missing_ok=True)  # which is there yet if both were names of one file already
    return True


def _copy(fs: AbstractFileSystem, path: str, target: Target, final: str, linked: bool) -> None:
    # fsspec has an instance for each thread
    inside = type(fs) is type(target.fs) and fs.storage_options == target.fs.storage_options
    if inside and not target.local:
        target.fs.cp_file(path, final)
        return
    if inside and linked and _linked(path, final):
        return
    with fs.open(path, "rb") as source, target.temporary(final) as temporary:
        with open(temporary, "wb") as sink:
            shutil.copyfileobj(source, sink, 1 << 20)
        target.publish(temporary, final)


def remove_stale(target: Target, spool: Spool, spread: bool, unused: set[str]) -> None:
    """Removes our videos that no row names any more, these too."""
    for base in unused:  # some were copied just now
        target.remove(place_of(base, spool.one("SELECT shard FROM jobs WHERE base = ?", base) if spread else ""))
    spool.add("DELETE FROM jobs WHERE base = ?", ((base,) for base in unused))
    for base, folder in spool.rows(STALE, spread):
        target.remove(place_of(base, folder))
    for folder in shards(target) if target.local else ():
        with suppress(OSError):  # one that holds something
            os.rmdir(f"{target.path}/{FOLDER}/{folder}")
