"""The programs of docs/examples run as they stand."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
from PIL import Image

from cogvideo_core.dataset.tables import read_table
from cogvideo_core.shapes.make import make_clips

EXAMPLES = Path(__file__).parents[1] / "docs" / "examples"


def run(monkeypatch: pytest.MonkeyPatch, name: str, *arguments: object) -> None:
    monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")


def test_the_examples_run(
    prefect_harness: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One video is edited by the core alone; the flow then finds that edit; a stored level becomes a picture."""
    manifest, root = make_clips(tmp_path / "clips", 2, prompts=1), tmp_path / "run"
    run(monkeypatch, "edit_one_video.py", manifest, root)
    assert Path(capsys.readouterr().out.split()[-1]).stat().st_size > 1000
    run(monkeypatch, "run_flow.py", manifest, root)
    assert f"1 edits in {root}" in capsys.readouterr().out
    assert len(read_table(str(root), "edits")) == 1
    run(monkeypatch, "open_trajectory.py", root, 3, tmp_path / "level.png")
    assert "levels 0 to 25" in capsys.readouterr().out
    with Image.open(tmp_path / "level.png") as picture:
        assert picture.size == (48, 48)


def test_every_example_is_run() -> None:
    """No program lies there that the test above does not know."""
    assert {path.name for path in EXAMPLES.glob("*.py")} == {"edit_one_video.py", "run_flow.py", "open_trajectory.py"}
