"""The benchmark commands: what they print and refuse, without a run; whole runs are end-to-end tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import benchmark_layouts as layouts
import pytest
from benchmark_runs import make_run, prepared
from click.testing import Result
from typer.testing import CliRunner

from flows.cli.main import app

Invoke = Callable[..., Result]


@pytest.fixture(scope="module")
def invoke() -> Invoke:
    def call(*arguments: object) -> Result:
        return CliRunner().invoke(app, ["benchmark", *map(str, arguments)], env={"COLUMNS": "400"})

    return call


def test_list_says_what_there_is(invoke: Invoke) -> None:
    """Each benchmark with its size, licence and metrics."""
    told = invoke("list").output
    assert all(name in told for name in ("tgve", "v2vbench", "five", "editverse", "ivebench", "davis"))
    assert "CC BY-NC 4.0" in told and "five_acc" in told


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("manifest", "tgev", "x"), "did you mean tgve"),
        (("manifest", "five", "/nowhere"), "does not exist"),
        (("score", "/nowhere"), "run one first"),
        (("lay-out", "/nowhere"), "run one first"),
    ],
)
def test_what_cannot_be_is_one_sentence(arguments: tuple[str, ...], sentence: str, invoke: Invoke) -> None:
    """With the exit code of wrong settings."""
    result = invoke(*arguments)
    assert result.exit_code == 2 and sentence in result.output and "Traceback" not in result.output


def test_a_manifest_is_written_and_says_how_to_run_it(invoke: Invoke, tmp_path: Path) -> None:
    """The path, the number of edits, and the settings that keep frames over the clip's."""
    (folder := tmp_path / "data").mkdir()
    layouts.five(folder)
    result = invoke("manifest", "five", folder, "--output", tmp_path / "out")
    assert result.exit_code == 0
    assert "2 edits" in result.output and "dataset.fit=stretch" in result.output and "dataset.frames=9" in result.output
    assert (tmp_path / "out" / "benchmark" / "five" / "manifest.jsonl").is_file()


def test_a_run_of_ones_own_is_laid_out_and_scored(invoke: Invoke, tmp_path: Path) -> None:
    """lay-out, then score: the table, the result file, and what was not measured; a wrong setting is refused."""
    (folder := tmp_path / "data").mkdir()
    layouts.five(folder)
    found = prepared("five", folder, root := tmp_path / "out")
    make_run(found, root)
    laid = invoke("lay-out", root)
    assert laid.exit_code == 0 and "2 of 2 edits" in laid.output and "2 new" in laid.output
    result = invoke("score", root)
    assert result.exit_code == 0 and "0 new" in result.output
    assert "PSNR outside" in result.output and "five_acc" in result.output and "benchmark.json" in result.output
    make_run(found, root, recipe="two", without=layouts.BLUE)
    for command in ("lay-out", "score"):
        partly = invoke(command, root)
        assert partly.exit_code == 3 and "the run has made no such edit" in partly.output
    assert invoke("score", root, "--set", "recipe.steps=4").exit_code == 2
    assert invoke("score", root, "--results", tmp_path / "none").exit_code == 2
