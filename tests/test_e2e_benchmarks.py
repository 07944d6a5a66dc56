"""Benchmarks there and back with the shapes model: copies of the layouts in, edits for the evaluators out."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import benchmark_layouts as layouts
import numpy as np
import pytest
from benchmark_runs import READERS, SHAPES
from click.testing import Result
from typer.testing import CliRunner

from flows.cli.main import app

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
FAST = ("--set", "inversion.steps=4", "--set", "inversion.first_iterations=1", "--limit", "2")
TWO = {"tgve": ("--types", "object"), "v2vbench": ("--types", "object")}  # of benchmarks with several edits a clip


def run(name: str, folder: Path, root: Path, *more: str) -> Result:
    arguments = ["benchmark", "run", name, str(folder), "--output", str(root), *FAST, *more]
    return CliRunner().invoke(app, arguments, env={"COLUMNS": "400"}, catch_exceptions=False)


@pytest.mark.parametrize("name", READERS)
def test_a_benchmark_there_and_back(name: str, prefect_harness: None, tmp_path: Path) -> None:
    """Two edits by the shapes model lie where a plain reader of the evaluator's layout looks for them, are scored, and
    a second run makes, lays out and measures nothing."""
    folder, root = tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    prompts = layouts.LAYOUTS[name](folder)
    more = (*TWO.get(name, ()), *(("--prompts", prompts) if prompts else ()))
    first = run(name, folder, root, *more)
    assert first.exit_code == 0, first.output
    place = root / "benchmark" / name
    rows = [json.loads(line) for line in (place / "manifest.jsonl").read_text().splitlines()]
    assert len(rows) == 2
    read = READERS[name](place / "results", folder) if name not in TWO else chosen(name, place / "results")
    assert len(read) == 2
    assert all(edit.shape == (9, *SHAPES[name], 3) and edit.std() > 10 for edit in read.values())
    about = json.loads((place / "benchmark.json").read_text())
    assert about["edits"] == {"scored": 2, "failed": 0, "why": {}} and about["run"]["recipe"] == "balanced"
    before = stamps(place)
    again = run(name, folder, root, *more)
    assert again.exit_code == 0 and "2 of 2 edits" in again.output and "0 new" in again.output
    assert re.search(r"edits made\W+0\W", again.output) and re.search(r"edits reused\W+2\W", again.output)
    assert stamps(place) == before
    assert json.loads((place / "benchmark.json").read_text()) == about


def chosen(name: str, results: Path) -> dict[str, np.ndarray]:
    """The readers of benchmarks with several edits a clip want them all; these are of one kind alone."""
    from benchmark_runs import pictures

    if name == "tgve":
        found = [results / clip / "object" for clip in ("DAVIS_480p/ball", "videvo_480p/dot")]
        return {str(folder): pictures(folder, "jpg") for folder in found}
    return {clip: pictures(results / "edited_videos" / clip / "0", "png") for clip in ("ball", "dot")}


def stamps(place: Path) -> dict[str, Any]:
    """When each result was written."""
    return {
        str(path): path.stat().st_mtime_ns
        for path in (place / "results").rglob("*")
        if path.suffix in (".png", ".jpg", ".mp4")
    }
