"""Hashes of large files are remembered while a file is the same, and made anew when it is not."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest

from cogvideo_core.models import file_hashes
from cogvideo_core.models.file_hashes import sha256_of

DAY_S = 86_400


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file that is worth remembering, written a day ago; nothing is remembered yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    file = tmp_path / "weights.safetensors"
    write(file, b"a" * file_hashes.SMALL_BYTES)
    return file


def write(file: Path, data: bytes, age_s: float = DAY_S) -> None:
    file.write_bytes(data)
    then = os.stat(file).st_mtime - age_s
    os.utime(file, (then, then))


def counted(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that are really read from now on."""
    read, hashed = list[Path](), file_hashes._hashed

    def reading(file: Path) -> str:
        read.append(file)
        return hashed(file)

    monkeypatch.setattr(file_hashes, "_hashed", reading)
    return read


def test_a_file_is_read_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second answer is the first one's, without reading; a link to the file is the same file."""
    read = counted(monkeypatch)
    link = large.with_name("link")
    link.symlink_to(large)
    found = {sha256_of(large), sha256_of(large), sha256_of(link)}
    assert found == {hashlib.sha256(large.read_bytes()).hexdigest()} and len(read) == 1


def test_a_changed_file_is_read_again(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another size, time or inode counts; a file of just now is not trusted to stay."""
    read = counted(monkeypatch)
    sha256_of(large)
    other = b"b" * file_hashes.SMALL_BYTES
    write(large, other, DAY_S / 2)
    assert sha256_of(large) == hashlib.sha256(other).hexdigest() and len(read) == 2
    write(large, other, 0)
    assert [sha256_of(large) for _ in range(2)] == [hashlib.sha256(other).hexdigest()] * 2 and len(read) == 4


def test_a_broken_memory_is_no_memory(large: Path) -> None:
    """Half a file, or one that holds something else, costs time alone."""
    right = sha256_of(large)
    for broken in ("{", "[]", '{"' + str(large) + '": 3}'):
        file_hashes.memory_file().write_text(broken)
        assert sha256_of(large) == right


def test_blobs_of_the_hub_are_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's cache names large files by their sha256, which is taken for granted and not computed."""
    read, name = counted(monkeypatch), "5" * 64
    blob = tmp_path / "blobs" / name
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    link = tmp_path / "snapshots"
    link.symlink_to(blob)
    assert sha256_of(link) == name and not read
