"""Folders with videos.txt and prompts.txt, as finetrainers has them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from cogvideo_core.errors import BadManifest
from cogvideo_core.inputs import sources
from cogvideo_core.settings.specs import DatasetSpec


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two videos, their captions, and a target prompt elsewhere."""
    root = tmp_path / "set"
    (root / "videos").mkdir(parents=True)
    for name in "ab":
        (root / "videos" / f"{name}.mp4").write_bytes(name.encode())
    (root / "videos.txt").write_text("videos/b.mp4\nvideos/a.mp4\n\n")
    (root / "prompts.txt").write_text("a dog, # running\n\n")
    (tmp_path / "wishes.txt").write_text("a blue cat\na red cat\n")
    return root


def read(folder: Path, need_targets: bool = True, **more: Any) -> list[dict[str, Any]]:
    more = {"prompts": str(folder.parent / "wishes.txt")} | more
    return [dict(r) for r in sources.read_clips(DatasetSpec(source=str(folder), **more), need_targets)]


def test_lines_belong_together(folder: Path) -> None:
    """prompts.txt holds captions where videos.txt is beside it; blank lines at the end do not count, others are empty
    captions, and # begins no comment."""
    (folder / "prompts.txt").write_text("a dog, # running\nein Käfer\n\n\n")
    records = read(folder)
    assert [(r["clip"], r["source_prompt"]) for r in records] == [
        ("videos/b.mp4", "a dog, # running"),
        ("videos/a.mp4", "ein Käfer"),
    ]
    assert all(r["target_prompts"] == ["a blue cat", "a red cat"] for r in records)
    (folder / "prompts.txt").write_text("\nein Käfer")
    assert [r["source_prompt"] for r in read(folder)] == ["", "ein Käfer"]


def test_lengths_that_differ_are_refused(folder: Path) -> None:
    """The sentence has both counts, before a clip is taken."""
    with pytest.raises(
        BadManifest, match=r"videos\.txt has 2 lines and prompts\.txt 1; write one caption for each video"
    ):
        read(folder)


def test_target_prompts_are_needed_from_elsewhere(folder: Path) -> None:
    """Captions are never taken for target prompts; where none are needed, none is enough."""
    (folder / "prompts.txt").write_text("x\ny\n")
    with pytest.raises(
        BadManifest, match=r"so its prompts.txt describes the clips; give the target prompts as prompts"
    ):
        read(folder, prompts="")
    assert [r["source_prompt"] for r in read(folder, need_targets=False, prompts="")] == ["x", "y"]


def test_without_videos_txt_prompts_are_target_prompts(folder: Path) -> None:
    """As ever."""
    (folder / "videos.txt").unlink()
    assert {tuple(r["target_prompts"]) for r in read(folder, prompts="")} == {("a dog, # running",)}


def test_rows_given_as_prompts_win(folder: Path) -> None:
    """A manifest names the clips, whatever else is in the folder."""
    (folder.parent / "m.jsonl").write_text('{"clip": "videos/a.mp4", "target_prompts": ["x"]}\n')
    (record,) = read(folder, prompts=str(folder.parent / "m.jsonl"))
    assert (record["source_prompt"], record["target_prompts"]) == ("", ["x"])


def test_a_bad_line_fails_alone(folder: Path) -> None:
    """A blank line, a path that leads out, a missing file, a caption that is too long."""
    (folder / "videos.txt").write_text("\n../x.mp4\nvideos/gone.mp4\nvideos/a.mp4\nvideos/b.mp4\n")
    (folder / "prompts.txt").write_text("1\n2\n3\n" + "x" * 2001 + "\n5\n")
    *bad, good = read(folder)
    assert [r["error"] for r in bad] == ["ClipError", "ForbiddenUri", "MissingClip", "ClipError"]
    assert "line 1 of videos.txt" in bad[0]["message"] and good["source_prompt"] == "5"


def test_the_two_files_may_not_be_links_out(folder: Path, tmp_path: Path) -> None:
    """A stranger's folder can't publish a file of ours as captions."""
    (tmp_path / "passwords").write_text("secret\nsecret\n")
    (folder / "prompts.txt").unlink()
    (folder / "prompts.txt").symlink_to(tmp_path / "passwords")
    with pytest.raises(BadManifest, match="outside the source folder"):
        read(folder)
