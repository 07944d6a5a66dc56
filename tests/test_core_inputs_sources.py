"""Clips are found as their folder or manifest says, and nothing else is opened."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cogvideo_core.errors import BadManifest, ClipTooLarge, ForbiddenUri, MissingClip, NotAVideo, StorageError
from cogvideo_core.inputs import clip_files, sources
from cogvideo_core.settings.specs import DatasetSpec

Record = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips, one of them deeper, among other files."""
    root = tmp_path / "clips"
    for name in ("b.mp4", "a/z.MOV", "c.webm", ".hidden.mp4", ".cache/x.mp4", "notes.txt", "a/thumb.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


@pytest.fixture
def remote() -> Iterator[Callable[[str, bytes], str]]:
    """Puts an object on a store that is not the local disk; returns its URL."""
    memory = fsspec.filesystem("memory")

    def put(name: str, data: bytes) -> str:
        memory.pipe_file(f"/sources/{name}", data)
        return f"memory://sources/{name}"

    yield put
    for path in memory.find("/sources"):
        memory.rm_file(path)


def read(source: Path | str, prompts: Path | str = "", **more: Any) -> list[Record]:
    return [dict(r) for r in sources.read_clips(DatasetSpec(source=str(source), prompts=str(prompts), **more))]


def clips(records: list[Record]) -> list[str]:
    return [r["clip"] for r in records if "error" not in r]


def only_failure(records: list[Record]) -> Record:
    (found,) = [r for r in records if "error" in r]
    return found


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_a_folder_with_text_prompts_gives_every_video_every_prompt(folder: Path, tmp_path: Path) -> None:
    """Recursive, sorted, hidden files and other endings left out; comments, blanks and repeats are no prompts."""
    prompts = tmp_path / "wishes.txt"
    prompts.write_bytes("\ufeffa blue circle\r\n\n# no\n  ein grüner Kreis \na blue circle\n".encode())
    records = read(folder, prompts)
    assert clips(records) == ["a/z.MOV", "b.mp4", "c.webm"]
    assert all(r["target_prompts"] == ["a blue circle", "ein grüner Kreis"] for r in records)
    assert records[0]["uri"] == str((folder / "a/z.MOV").resolve())
    assert (records[0]["size"], records[0]["name"], records[0]["source_prompt"]) == (7, "z", "")


@pytest.mark.parametrize("name", ["prompts.txt", "prompts.jsonl", "manifest.jsonl", "manifest.csv"])
def test_a_folder_brings_its_own_prompts(folder: Path, name: str) -> None:
    """With `prompts` empty the one known file in the folder is used, whatever its kind."""
    texts = {".txt": "blue\n", ".jsonl": '{"clip": "b.mp4", "target_prompts": ["blue"]}\n'}
    (folder / name).write_text(texts.get(Path(name).suffix, "clip,target_prompts\nb.mp4,blue\n"))
    assert {r["clip"]: r["target_prompts"] for r in read(folder)}["b.mp4"] == ["blue"]


def test_two_prompts_files_in_a_folder_are_refused(folder: Path) -> None:
    """Nobody could tell which of them counts, so the message names both."""
    (folder / "prompts.txt").write_text("blue\n")
    (folder / "manifest.csv").write_text("clip,target_prompts\nb.mp4,blue\n")
    with pytest.raises(BadManifest, match=r"prompts.txt and manifest.csv; keep one"):
        read(folder)


def test_rows_given_for_a_folder_are_relative_to_it(folder: Path, tmp_path: Path) -> None:
    """A JSONL prompts file elsewhere names the folder's clips; videos without a row are not edited."""
    rows = jsonl(tmp_path / "p.jsonl", {"clip": "a/z.MOV", "source_prompt": "a cat", "target_prompts": ["a dog"]})
    (record,) = read(folder, rows)
    assert (record["source_prompt"], record["target_prompts"]) == ("a cat", ["a dog"])


@pytest.mark.parametrize("source", ["gone.jsonl", "gone", "memory://gone/m.csv", "ssh://host/m.csv", "a::b.csv"])
def test_a_source_that_is_not_there_stops_the_run(source: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Missing and forbidden sources are told apart from bad rows."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BadManifest, match=r"gone|ssh|chained"):
        read(source)


def test_symlinks_may_not_lead_out(folder: Path, tmp_path: Path) -> None:
    """A link to a file outside is refused, one inside is fine, and `allow_outside` permits both."""
    (tmp_path / "secret.mp4").write_bytes(b"secret")
    (folder / "out.mp4").symlink_to(tmp_path / "secret.mp4")
    (folder / "in.mp4").symlink_to(folder / "b.mp4")
    (folder / "loop").symlink_to(folder)
    (folder / "prompts.txt").write_text("blue\n")
    records = read(folder)
    assert only_failure(records)["clip"] == "out.mp4" and only_failure(records)["error"] == "ForbiddenUri"
    assert clips(records) == ["a/z.MOV", "b.mp4", "c.webm", "in.mp4"]
    assert "out.mp4" in clips(read(folder, allow_outside=True))


def test_a_folders_prompts_may_not_be_a_link_out(folder: Path, tmp_path: Path) -> None:
    """A stranger's folder can't publish a file of ours as prompts."""
    (tmp_path / "passwords").write_text("secret\n")
    (folder / "prompts.txt").symlink_to(tmp_path / "passwords")
    with pytest.raises(BadManifest, match="outside the source folder"):
        read(folder)


def test_a_manifests_link_lies_where_the_link_is(folder: Path, tmp_path: Path) -> None:
    """Clips are relative to the folder of the path that was given."""
    real = jsonl(tmp_path / "store.jsonl", {"clip": "b.mp4", "target_prompts": ["x"]})
    (folder / "m.jsonl").symlink_to(real)
    assert clips(read(folder / "m.jsonl")) == ["b.mp4"]


def test_a_named_pipe_is_not_opened(folder: Path) -> None:
    """It would wait for ever."""
    os.mkfifo(folder / "pipe.mp4")
    (folder / "prompts.txt").write_text("blue\n")
    assert only_failure(read(folder))["error"] == "NotAVideo"


def test_a_file_name_that_is_no_utf8_fails_alone(folder: Path) -> None:
    """Its failure can be written to JSON and Parquet."""
    with open(os.fsencode(folder) + b"/\xff.mp4", "wb") as file:
        file.write(b"x")
    (folder / "prompts.txt").write_text("blue\n")
    failure = only_failure(read(folder))
    assert failure["clip"] == "\\udcff.mp4" and "rename" in failure["message"]


def test_a_remote_manifest_names_clips_beside_it(remote: Callable[[str, bytes], str]) -> None:
    """Relative and remote clips are found; a local path from it is refused, even with `allow_outside`."""
    remote("a.mp4", b"1234")
    rows = ["a.mp4", "memory://sources/a.mp4", "/etc/passwd", "file:///etc/passwd", "../a.mp4"]
    url = remote("m.jsonl", "".join(json.dumps({"clip": r, "target_prompts": ["x"]}) + "\n" for r in rows).encode())
    records = read(url, allow_outside=True)
    assert clips(records) == rows[:2] and [r["uri"] for r in records[:2]] == ["memory://sources/a.mp4"] * 2
    assert [r["error"] for r in records[2:]] == ["ForbiddenUri"] * 3 and records[0]["size"] == 4


def test_a_remote_prompts_file_does_not_reach_out_of_a_local_folder(
    folder: Path, remote: Callable[[str, bytes], str]
) -> None:
    """It may name clips of the folder, no others, whatever is allowed."""
    rows = ["b.mp4", "../secret.mp4", str(folder / "b.mp4")]
    url = remote("p.jsonl", "".join(json.dumps({"clip": r, "target_prompts": ["x"]}) + "\n" for r in rows).encode())
    assert clips(read(folder, url, allow_outside=True)) == ["b.mp4"]


def test_a_remote_folder_is_listed(remote: Callable[[str, bytes], str]) -> None:
    """Recursive and sorted, as on a disk."""
    for name in ("b.mp4", "a/c.mkv", ".x/d.mp4", "e.txt"):
        remote(f"clips/{name}", b"12")
    remote("clips/prompts.txt", b"blue\n")
    assert clips(read("memory://sources/clips/")) == ["a/c.mkv", "b.mp4"]


def test_a_local_manifest_may_name_remote_clips(folder: Path, remote: Callable[[str, bytes], str]) -> None:
    """The protocol's case does not matter."""
    remote("a.mp4", b"1234")
    manifest = jsonl(folder / "m.jsonl", {"clip": "MEMORY://sources/a.mp4", "target_prompts": ["x"]})
    assert read(manifest)[0]["uri"] == "memory://sources/a.mp4"


def test_source_id_follows_the_file_and_the_window(folder: Path) -> None:
    """Equal on every reading; another size, time or window gives another, another prompt does not."""
    one, other = (jsonl(folder / f"{p}.jsonl", {"clip": "b.mp4", "target_prompts": [p]}) for p in "xy")
    (first,) = sources.read_clips(DatasetSpec(source=str(one)))
    assert "error" not in first and read(other)[0]["source_id"] == first["source_id"]
    ids = {first["source_id"], sources.at_window(first, 1)["source_id"]}
    os.utime(folder / "b.mp4", ns=(0, 1))
    ids.add(read(one)[0]["source_id"])
    (folder / "b.mp4").write_bytes(b"longer")
    os.utime(folder / "b.mp4", ns=(0, 1))
    ids.add(read(one)[0]["source_id"])
    assert len(ids) == 4 and all(len(i) == 64 for i in ids)
    assert sources.at_window(first, 0) == first


def test_fetch_uses_a_local_file_in_place(folder: Path, tmp_path: Path) -> None:
    """Nothing is copied; too large, missing and swapped files are refused."""
    record: Any = read(jsonl(folder / "m.jsonl", {"clip": "b.mp4", "target_prompts": ["x"]}))[0]
    path = clip_files.fetch(record, tmp_path / "down", 100)
    assert path == (folder / "b.mp4").resolve() and not (tmp_path / "down").exists()
    assert clip_files.content_sha256(path) == hashlib.sha256(b"b.mp4").hexdigest()
    with pytest.raises(ClipTooLarge):
        clip_files.fetch(record, tmp_path, 4)
    (folder / "b.mp4").unlink()
    with pytest.raises(MissingClip):
        clip_files.fetch(record, tmp_path, 100)
    (folder / "b.mp4").symlink_to("/etc/passwd")
    with pytest.raises(ForbiddenUri):
        clip_files.fetch(record, tmp_path, 100_000)
    (folder / "b.mp4").unlink()
    (folder / "b.mp4").mkdir()
    with pytest.raises(NotAVideo):
        clip_files.fetch(record, tmp_path, 100)


def test_fetch_downloads_within_the_limit(folder: Path, tmp_path: Path, remote: Callable[[str, bytes], str]) -> None:
    """A remote clip arrives whole, once; a larger or changed or vanished one raises and leaves nothing behind."""
    url = remote("a.mp4", b"1234")
    record: Any = read(jsonl(folder / "m.jsonl", {"clip": url, "target_prompts": ["x"]}))[0]
    down = tmp_path / "down"
    path = clip_files.fetch(record, down, 4)
    assert path.read_bytes() == b"1234" and path.suffix == ".mp4" and path.parent == down
    stamp = path.stat().st_mtime_ns
    assert clip_files.fetch(record, down, 4).stat().st_mtime_ns == stamp
    path.unlink()
    unknown: Any = {**record, "size": 0}
    with pytest.raises(ClipTooLarge):
        clip_files.fetch(record, down, 3)
    with pytest.raises(ClipTooLarge):
        clip_files.fetch(unknown, down, 3)
    assert clip_files.fetch(unknown, down, 4).read_bytes() == b"1234"
    path.unlink()
    remote("a.mp4", b"12345")
    with pytest.raises(StorageError, match="5 bytes came instead of 4"):
        clip_files.fetch(record, down, 100)
    fsspec.filesystem("memory").rm("/sources/a.mp4")
    with pytest.raises(MissingClip):
        clip_files.fetch(record, down, 100)
    assert list(down.iterdir()) == []


def test_a_folder_without_prompts_is_enough_where_none_are_needed(folder: Path) -> None:
    """Its clips come without target prompts; an edit run refuses the folder as a whole."""
    spec = DatasetSpec(source=str(folder))
    found = [dict(clip) for clip in sources.read_clips(spec, need_targets=False)]
    assert [clip["clip"] for clip in found] == ["a/z.MOV", "b.mp4", "c.webm"]
    assert {tuple(clip["target_prompts"]) for clip in found} == {()}
    with pytest.raises(BadManifest, match="prompts"):
        list(sources.read_clips(spec))


def test_videos_of_other_kinds_are_told_once(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A folder's files of kinds that are not read are counted by ending in one warning; hidden and other files are not
    spoken of. Local and remote folders do the same."""
    for name in ("x.flv", "deep/y.WMV", "z.flv", ".hidden.flv", "notes.md"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    (folder / "prompts.list").write_text("x\n")
    spec = DatasetSpec(source=str(folder), prompts=str(folder / "prompts.list"))
    assert all("error" not in record for record in sources.read_clips(spec))
    (line,) = [record.getMessage() for record in caplog.records]
    assert line.endswith("3 videos of other kinds are skipped (2 .flv, 1 .wmv)")
