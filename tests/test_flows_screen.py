"""The command screen: a table and a CSV of what a run would move, mark, drop or refuse, without a model."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from cogvideo_core.media import video
from cogvideo_core.shapes import world
from flows.cli.main import app


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("clips")
    one, other = (world.render(world.scene_from_seed(seed)) for seed in (1, 2))
    video.encode(one, place / "a.mp4", 8)
    video.encode(np.concatenate([one[:5], other]), place / "cut.mp4", 8)
    video.encode(other * 0, place / "black.mp4", 8)
    (place / "copy.mp4").write_bytes((place / "a.mp4").read_bytes())
    return place


def verdicts(path: Path) -> dict[str, str]:
    with path.open(newline="") as file:
        return {row["clip"]: row["verdict"] for row in csv.DictReader(file)}


def test_the_screen_tells_what_a_run_would_do(folder: Path, tmp_path: Path) -> None:
    """Folder without prompts: a moved window, marked clips and reasons on the screen; every window in the CSV; with
    `drop` the same clips are dropped; nothing is written beside that."""
    asked = ["screen", str(folder), "--csv", str(tmp_path / "x" / "s.csv"), "--set", "screen.duplicates=exact"]
    ran = CliRunner().invoke(app, [*asked, "--set", "screen.preset=usual"])
    assert ran.exit_code == 0, ran.output
    expected = {"a.mp4": "kept", "black.mp4": "marked", "copy.mp4": "marked", "cut.mp4": "moved"}
    assert verdicts(tmp_path / "x" / "s.csv") == expected
    assert "4 windows: 1 kept, 2 marked, 1 moved" in ran.output and "again" in ran.output
    ran = CliRunner().invoke(app, [*asked, "--set", "screen.action=drop", "--set", "screen.most_black=0.5"])
    assert ran.exit_code == 0 and verdicts(tmp_path / "x" / "s.csv") == {
        name: verdict.replace("marked", "dropped") for name, verdict in expected.items()
    }
    assert {path.name for path in tmp_path.rglob("*")} == {"x", "s.csv"}


def test_clips_that_cannot_be_used_end_in_3(folder: Path, tmp_path: Path) -> None:
    """A file that is no video fails; its row says why, and the exit code is that of
    runs in which clips failed. A missing folder is one sentence and exit code 2."""
    for name in ("cut.mp4", "a.mp4"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    (tmp_path / "b.mp4").write_text("no video")
    out = tmp_path / "out" / "s.csv"
    ran = CliRunner().invoke(app, ["screen", str(tmp_path), "--csv", str(out), "--all"])
    assert ran.exit_code == 3 and verdicts(out) == {"a.mp4": "kept", "b.mp4": "failed", "cut.mp4": "moved"}
    ran = CliRunner().invoke(app, ["screen", str(tmp_path / "nowhere")])
    assert ran.exit_code == 2 and "Traceback" not in ran.output


def test_what_was_measured_is_reused(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --output the figures are kept under that root: a second look decodes nothing."""
    asked = ["screen", str(folder), "--output", str(tmp_path / "run"), "--csv", str(tmp_path / "s.csv")]
    assert CliRunner().invoke(app, asked).exit_code == 0
    first = (tmp_path / "s.csv").read_text()
    monkeypatch.setattr("cogvideo_core.media.shots.small_frames", None)
    assert CliRunner().invoke(app, asked).exit_code == 0
    assert (tmp_path / "s.csv").read_text() == first
