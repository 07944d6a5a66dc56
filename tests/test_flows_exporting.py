"""Exports from the command line and as a flow; and the page about them: its commands and its code run."""

from __future__ import annotations

import gc
import re
import warnings
from pathlib import Path
from typing import Any

import exported_run
import pytest
from typer.testing import CliRunner

from flows.cli.main import app

PAGE = (Path(__file__).parents[1] / "docs/exports.md").read_text("utf-8")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> exported_run.Run:
    folder = tmp_path_factory.mktemp("run")
    return exported_run.make(str(folder / "root"), folder / "made")


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["export", *map(str, arguments)], env={"COLUMNS": "300"}, catch_exceptions=False)


def count(output: str, label: str) -> str:
    (line,) = (line for line in output.splitlines() if re.match(rf"│ {label} +│", line))
    return line.split("│")[2].strip()


def test_the_command_counts_and_goes_on(made: exported_run.Run, tmp_path: Path) -> None:
    """Exit code 0 and a table; done again, the shards are kept."""
    first = call(made.root, tmp_path / "out", "--to", "parquet", "--split", "train=0.5,validation=0.5")
    assert first.exit_code == 0, first.output
    assert [count(first.stdout, name) for name in ("edits", "clips", "shards written")] == ["8", "4", "2"]
    assert int(count(first.stdout, "edits in train")) + int(count(first.stdout, "edits in validation")) == 8
    again = call("--to", "parquet", made.root, tmp_path / "out", "--split", "train=0.5,validation=0.5")
    assert (again.exit_code, count(again.stdout, "shards kept"), count(again.stdout, "shards written")) == (0, "2", "0")


def test_a_missing_video_ends_with_3(made: exported_run.Run, tmp_path: Path) -> None:
    """And a sentence on standard error; the rest is exported."""
    run = made.copied(str(tmp_path / "root"))
    commit = run.ledger.read("edits", run.rows[0]["edit_key"])
    (tmp_path / "root" / run.ledger.object_name(commit, "edit.mp4")).unlink()
    result = call(run.root, tmp_path / "out")
    assert (result.exit_code, count(result.stdout, "edits")) == (3, "7")
    assert count(result.stdout, "left out, as their videos are gone") == "1"
    assert "clip 'clip0.mp4': its edit" in result.stderr and "the committed video is missing" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("{root}",), "name the folder or URL that the export goes to"),
        (("{root}", "{out}", "--to", "zip"), "'webdataset', 'parquet', 'finetrainers' or 'triplets', not 'zip'"),
        (("{root}", "{out}", "--split", "a=2"), "write name=share, such as train=0.9"),
        (("{root}", "{root}"), "holds files that no export has made"),
        (("{out}", "{out}/x"), "there is no table at"),
        (("{root}", "--to", "hf://user"), "write hf://user/name"),
        (("{root}", "--to", "hf://user/name"), "holds no finished export"),
        (("{root}", "{out}", "--to", "hf://user/name"), "a push takes the folder of an export alone"),
    ],
)
def test_a_wrong_call_is_one_sentence(made: exported_run.Run, tmp_path: Path, arguments: Any, words: str) -> None:
    """With exit code 2, and nothing is written."""
    result = call(*(text.format(root=made.root, out=tmp_path / "out") for text in arguments))
    assert result.exit_code == 2 and words in " ".join(result.stderr.replace("│", " ").split()), result.stderr
    assert not (tmp_path / "out").exists()


def test_the_page_runs(made: exported_run.Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The commands of docs/exports.md write the four exports, and each block of Python reads one of them: source,
    target and instruction come out."""
    made.copied(str(tmp_path / "out/run"))
    monkeypatch.chdir(tmp_path)
    commands, *_ = re.findall(r"^```\n(.*?)^```", PAGE, re.M | re.S)
    for line in commands.splitlines():
        result = call(*line.split()[2:])
        assert result.exit_code == 0, result.output
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)
    assert len(blocks) == 4
    for block in blocks:
        names: dict[str, Any] = {}
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ResourceWarning)  # webdataset leaves its files open
            exec(compile(block, "docs/exports.md", "exec"), names)
            gc.collect()
        videos = [read(names["source"]), read(names["target"])]
        assert all(data.startswith(b"video of ") for data in videos) and videos[0] != videos[1]
        assert names["instruction"] in ("a red square", "a blue square", "make it blue")


def read(video: Any) -> bytes:
    return video if isinstance(video, bytes) else Path(video).read_bytes()


def test_the_flow_exports(prefect_harness: None, made: exported_run.Run, tmp_path: Path) -> None:
    """With its defaults for the choice; it returns the counts."""
    from flows.exporting import export_dataset

    counts: Any = export_dataset(made.root, str(tmp_path / "out"))
    assert (counts["edits"], counts["splits"], counts["dest"]) == (8, {"train": 8}, str(tmp_path / "out"))
    assert (tmp_path / "out/train-00000.tar").is_file()
