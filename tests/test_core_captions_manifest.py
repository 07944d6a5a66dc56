"""The manifest that is written: what a run reads back, where clips are, and that a person's work is never lost."""

from __future__ import annotations

import json
import os
import tarfile
from pathlib import Path
from typing import Any

import fsspec
import pytest

from cogvideo_core.captions import manifest
from cogvideo_core.captions.asking import Job
from cogvideo_core.captions.describe import describe_clip
from cogvideo_core.errors import BadSpec, ClipError, StorageError
from cogvideo_core.inputs.sources import read_clips
from cogvideo_core.models.configuration import VideoShape
from cogvideo_core.settings.caption_specs import CaptionSpec, InstructionSpec
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.storage.ledger import Ledger

ROW = {"clip": "a.mp4", "source_prompt": "a car", "target_prompt": "a blue car", "instruction": "make the car blue"}


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    folder = tmp_path / "clips"
    (folder / "deep").mkdir(parents=True)
    for name in ("a.mp4", "deep/b.mp4"):
        (folder / name).write_bytes(name.encode())
    return folder


def ledger_of(out: Path) -> Ledger:
    return Ledger(manifest.answers_of(str(out)))


def write(out: Path, *rows: dict[str, Any]) -> int:
    return manifest.write_lines(str(out), rows, ledger_of(out))


def check(out: Path, source: Path, overwrite: bool = False, prompts: str = "") -> None:
    manifest.check_out(DatasetSpec(source=str(source), prompts=prompts), str(out), overwrite, ledger_of(out))


def job_of(clips: Path, **instructions: Any) -> Job:
    """A job that asks nobody."""
    shape = VideoShape(9, 32, 48, 8)
    return Job(DatasetSpec(), shape, CaptionSpec(), InstructionSpec(**instructions), Ledger(f"{clips}.answers"))


def described(clip: Any, *edits: dict[str, Any], caption: str = "a car") -> dict[str, Any]:
    return {**clip, "source_prompt": clip["source_prompt"] or caption, "edits": list(edits)}


def test_an_edited_manifest_is_not_overwritten(clips: Path) -> None:
    """What was written here is replaced, also after it was put back as it was; one changed byte makes it a person's."""
    out = clips / "edits.jsonl"
    check(out, clips)
    assert write(out, ROW) == 1
    check(out, clips)
    mine = out.read_bytes()
    out.write_bytes(mine.replace(b"blue", b"red"))
    with pytest.raises(BadSpec, match=r"edits\.jsonl' was not written by this command, or was edited since; give"):
        check(out, clips)
    check(out, clips, overwrite=True)
    out.write_bytes(mine)
    check(out, clips)


def test_a_stranger_is_not_overwritten(clips: Path) -> None:
    """Neither a file that was there before, nor a folder."""
    (clips / "edits.jsonl").write_text("{}\n")
    (clips / "folder.jsonl").mkdir()
    for name in ("edits.jsonl", "folder.jsonl"):
        with pytest.raises(BadSpec, match="was not written by this command"):
            check(clips / name, clips)


@pytest.mark.parametrize("name", ["manifest.jsonl", "prompts.jsonl"])
def test_names_that_a_folder_is_read_by_are_refused(clips: Path, name: str) -> None:
    """The next call would take it for its input; elsewhere the name is free."""
    with pytest.raises(BadSpec, match=r"would be read as its folder's own list; give a name such as edits\.jsonl"):
        check(clips / name, clips)
    check(clips.parent / name, clips)


def test_the_input_and_other_endings_are_refused(clips: Path) -> None:
    """By whatever path the input is named."""
    (clips / "in.jsonl").write_text("{}\n")
    with pytest.raises(BadSpec, match="is the input itself"):
        check(clips / "deep/../in.jsonl", clips / "in.jsonl", overwrite=True)
    with pytest.raises(BadSpec, match="is the input itself"):
        check(clips / "in.jsonl", clips, overwrite=True, prompts=str(clips / "in.jsonl"))
    with pytest.raises(BadSpec, match=r"is no \.jsonl file"):
        check(clips / "edits.csv", clips)


@pytest.mark.parametrize(
    ("out", "words", "named"),
    [
        ("clips/edits.jsonl", ["{}/clips/edits.jsonl"], "deep/b.mp4"),
        ("edits.jsonl", ["{}/edits.jsonl"], "clips/deep/b.mp4"),
        ("other/edits.jsonl", ["{}/clips", "--prompts", "{}/other/edits.jsonl"], "deep/b.mp4"),
        ("clips/deep/edits.jsonl", ["{}/clips", "--prompts", "{}/clips/deep/edits.jsonl"], "deep/b.mp4"),
    ],
)
@pytest.mark.parametrize("listed", [False, True], ids=["folder", "manifest"])
def test_a_run_finds_the_clips(clips: Path, out: str, words: list[str], named: str, listed: bool) -> None:
    """Wherever the manifest is written: what the command says to run reads the very same files, prompts and columns."""
    source, target = clips, clips.parent / out
    if listed:
        source = clips / "list.jsonl"
        source.write_text('{"clip": "a.mp4", "id": 1}\n{"clip": "deep/b.mp4", "id": 2}\n')
    dataset = DatasetSpec(source=str(source))
    before, _ = manifest.base_of(dataset, str(target))
    found = list(manifest.clips_of(dataset))
    edits = [{"target_prompt": "a blue car", "instruction": "x"}, {"target_prompt": "a bus", "instruction": "y"}]
    records = [described(clip, *edits) for clip in found]
    rows = [row for record in records for row in manifest.rows_of(record, before)]
    assert write(target, *rows) == 4 and rows[2]["clip"] == named
    run = manifest.run_words(dataset, str(target))
    assert run == [word.format(clips.parent) for word in words]
    again = list(read_clips(DatasetSpec(source=run[0], prompts=run[2] if len(run) > 1 else "")))
    assert [(clip.get("uri"), clip.get("target_prompts")) for clip in again] == [
        (clip.get("uri"), ["a blue car", "a bus"]) for clip in found
    ]
    assert [json.loads(own)["instruction"] for clip in again for own in clip.get("own", [])] == ["x", "y", "x", "y"]


def test_clips_outside_stay_where_they_are(clips: Path) -> None:
    """Absolute paths and addresses are not touched, and the command repeats that they are allowed."""
    dataset = DatasetSpec(source=str(clips), allow_outside=True)
    record = {"clip": "/else/a.mp4", "first_frame_uri": "frames/a.png", "source_prompt": "", "edits": [{"id": 1}]}
    assert list(manifest.rows_of(record, "clips/")) == [
        {"clip": "/else/a.mp4", "source_prompt": "", "first_frame_uri": "clips/frames/a.png", "id": 1}
    ]
    (row,) = manifest.rows_of(record | {"clip": "s3://b/a.mp4"}, "clips/")
    assert row["clip"] == "s3://b/a.mp4"
    out = str(clips / "edits.jsonl")
    assert manifest.run_words(dataset, out) == [out, "--set", "dataset.allow_outside=true"]


@pytest.mark.parametrize(
    ("source", "out", "wanted"),
    [
        ("memory://b/in", "memory://b/in/edits.jsonl", ("", False)),
        ("memory://b/in/list.csv", "memory://b/edits.jsonl", ("in/", False)),
        ("memory://b/in", "s3://c/edits.jsonl", ("", True)),
        ("memory://b/in", "edits.jsonl", ("", True)),
        ("in", "memory://b/edits.jsonl", ("", True)),
    ],
)
def test_stores_have_folders_too(
    source: str, out: str, wanted: tuple[str, bool], clips: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Clips below the manifest's own folder are named from there; else the run is told their folder."""
    (clips / "in").mkdir()
    monkeypatch.chdir(clips)
    fsspec.filesystem("memory").pipe_file("/b/in/a.mp4", b"x")
    assert manifest.base_of(DatasetSpec(source=source), out) == wanted


@pytest.mark.parametrize("place", ["list.jsonl", "list.csv", "prompts.jsonl"])
def test_rows_without_prompts_keep_their_columns(clips: Path, place: str) -> None:
    """Ids and licences of rows that name a clip alone, or a caption; those of rows with prompts as ever."""
    if place.endswith("csv"):
        (clips / place).write_text("clip,id,target_prompts\na.mp4,7,\ndeep/b.mp4,8,a bus\n")
    else:
        rows = [{"clip": "a.mp4", "id": "7"}, {"clip": "deep/b.mp4", "id": "8", "target_prompts": ["a bus"]}]
        (clips / place).write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = clips if place == "prompts.jsonl" else clips / place
    found = list(manifest.clips_of(DatasetSpec(source=str(source))))
    assert [clip.get("own") for clip in found] == [['{"id": "7"}'], ['{"id": "8"}']]
    assert [clip.get("target_prompts") for clip in found] == [[], ["a bus"]]
    assert len(list(manifest.clips_of(DatasetSpec(source=str(source), limit=1)))) == 1


def test_a_bad_row_does_not_move_the_columns_of_others(clips: Path) -> None:
    """It is a failure, and the rows around it keep their own."""
    rows = ['{"clip": "a.mp4", "id": 1}', '{"clip": "gone.mp4", "id": 2}', "no json", '{"clip": "deep/b.mp4", "id": 3}']
    (clips / "list.jsonl").write_text("\n".join(rows))
    found = list(manifest.clips_of(DatasetSpec(source=str(clips / "list.jsonl"))))
    assert [clip.get("own") for clip in found] == [['{"id": 1}'], None, None, ['{"id": 3}']]


def test_settings_and_parts_of_rows_stay(clips: Path) -> None:
    """What a row says of its edits, or of its part of the clip, stands in the new manifest and is read back."""
    row = {"clip": "a.mp4", "source_prompt": "a car", "start": 1.5, "end": 4, "recipe": "bold", "id": "7"}
    edits = [{"target_prompt": "a bus", "seed": 1}, {"target_prompt": "a bus", "seed": 2}]
    for given in ({"edits": edits}, {}):
        (clips / "list.jsonl").write_text(json.dumps(row | given))
        dataset = DatasetSpec(source=str(clips / "list.jsonl"))
        (clip,) = manifest.clips_of(dataset)
        made = describe_clip(job_of(clips, by="none"), dict(clip))
        write(clips / "edits.jsonl", *manifest.rows_of(made, ""))
        (again,) = read_clips(DatasetSpec(source=str(clips / "edits.jsonl")), need_targets=False)
        for name in ("target_prompts", "start_s", "end_s", "source_id", *(["overrides"] if given else [])):
            assert again.get(name) == clip.get(name), name
        assert (made["edits"][0]["recipe"], made["edits"][0]["id"]) == ("bold", "7")
        assert next(manifest.rows_of(made, ""))["start"] == 1.5


def test_rows_of_several_files(clips: Path) -> None:
    """A pattern's rows keep their columns; their clips must be relative to one folder."""
    (clips / "part-0.jsonl").write_text('{"clip": "a.mp4", "id": 1}\n')
    (clips / "part-1.jsonl").write_text('{"clip": "deep/b.mp4", "id": 2}\n')
    dataset = DatasetSpec(source=f"{clips}/part-*.jsonl")
    assert [clip.get("own") for clip in manifest.clips_of(dataset)] == [['{"id": 1}'], ['{"id": 2}']]
    assert manifest.base_of(dataset, str(clips.parent / "edits.jsonl")) == ("clips/", False)
    (clips / "deep/part-2.jsonl").write_text('{"clip": "b.mp4"}\n')
    with pytest.raises(BadSpec, match="lie in several folders; give those of one folder"):
        manifest.base_of(DatasetSpec(source=f"{clips}/**/part-*.jsonl"), str(clips / "edits.jsonl"))


def test_clips_inside_other_files_are_told(clips: Path) -> None:
    """A row of a manifest can't name a member of a tar."""
    with tarfile.open(clips / "shard.tar", "w") as tar:
        tar.add(clips / "a.mp4", "0001.mp4")
    (clip,) = manifest.clips_of(DatasetSpec(source=str(clips / "shard.tar")))
    with pytest.raises(ClipError, match="it lies inside a tar or table, so no row of a manifest can name it; unpack"):
        describe_clip(job_of(clips, by="none"), dict(clip))


def test_nothing_half_written_is_left(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither where a row can't be made, nor where the disk is full; the manifest of before stays."""
    out = clips / "edits.jsonl"
    write(out, ROW)
    before = {path: path.read_bytes() for path in clips.iterdir() if path.is_file()}

    def broken() -> Any:
        yield ROW | {"clip": "b.mp4"}
        raise BadSpec("no more")

    with pytest.raises(BadSpec, match="no more"):
        manifest.write_lines(str(out), broken(), ledger_of(out))

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(StorageError, match="No space left"):
        write(out, ROW, ROW)
    assert {path: path.read_bytes() for path in clips.iterdir() if path.is_file()} == before
    assert manifest.write_lines(str(clips / "none.jsonl"), []) == 0 and not (clips / "none.jsonl").exists()


def test_a_manifest_may_lie_in_any_store(clips: Path) -> None:
    """Written, recognised, protected and removed there as on a disk."""
    out, dataset = "memory://captions/edits.jsonl", DatasetSpec(source=str(clips))
    ledger = Ledger(manifest.answers_of(out))
    assert manifest.write_lines(out, [ROW], ledger) == 1
    manifest.check_out(dataset, out, False, ledger)
    manifest.write_lines(out, [ROW | {"id": 1}])
    with pytest.raises(BadSpec, match="was edited since"):
        manifest.check_out(dataset, out, False, ledger)
    manifest.remove(out)
    manifest.check_out(dataset, out, False, ledger)


def test_failures_are_told_without_signatures() -> None:
    """The query of an address may be a secret, and reports are passed on."""
    row = manifest.error_row({"clip": "https://h/a.mp4?sig=s3cret", "error": "MissingClip", "message": "m", "own": []})
    assert row["clip"] == "https://h/a.mp4" and set(row) == set(manifest.ERROR_COLUMNS)
