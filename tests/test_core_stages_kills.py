"""A process that is killed at any moment loses no more than the piece of work in hand."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from cogvideo_core.upkeep.verify import verify_tree

Serve = Callable[..., dict[str, Any]]
IN_A_ROW = 4  # kills of one run before it may finish


@pytest.fixture(scope="module")
def serve() -> Iterator[Serve]:
    """serve(folder, kill_after_s): a toy run of two clips in a process of its own, killed so long after its start."""
    here = Path(__file__)
    environment = {**os.environ, "PYTHONPATH": str(here.parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(here.with_name("toy_run.py"))]
    server = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment)
    assert server.stdin and server.stdout
    stdin, stdout = server.stdin, server.stdout

    def ask(folder: Path, kill_after_s: float | None = None) -> dict[str, Any]:
        folder.mkdir(parents=True, exist_ok=True)
        stdin.write(json.dumps({"root": str(folder), "kill_after_s": kill_after_s}) + "\n")
        stdin.flush()
        return dict(json.loads(stdout.readline()))

    yield ask
    stdin.close()
    assert server.wait(30) == 0
    stdout.close()


def evaluations(folder: Path) -> int:
    """Rows through the model in all processes that worked on this folder."""
    path = folder / "evaluations"
    return path.stat().st_size if path.exists() else 0


@pytest.mark.parametrize(
    "kills",
    [
        pytest.param(20, marks=[pytest.mark.e2e, pytest.mark.timeout(600)]),
        pytest.param(100, marks=[pytest.mark.slow, pytest.mark.timeout(900)]),
    ],
)
def test_killed_at_any_moment(serve: Serve, toy: Any, tmp_path: Path, kills: int) -> None:
    """SIGKILL at seeded random moments, four times in a row, then left to finish: the undisturbed result, a tree
    without damage, and at most one stage of one clip computed again for each kill."""
    calm = tmp_path / "calm"
    seconds = [serve(calm)["seconds"], serve(tmp_path / "again")["seconds"]]
    good, whole, draw, killed = toy.result(str(calm / "run")), evaluations(calm), random.Random(kills), 0
    assert whole == 108 and min(seconds) > 0.01
    for turn in range(kills):
        folder, here = tmp_path / str(turn), 0
        for _ in range(IN_A_ROW):
            here += serve(folder, draw.uniform(0, min(seconds)))["killed"]
        assert serve(folder)["ok"]
        killed += here
        assert toy.result(str(folder / "run")) == good, turn
        assert evaluations(folder) <= whole + here * toy.LONGEST_BATCH, turn
        assert [finding for finding in verify_tree(str(folder / "run")) if "never finished" not in finding.what] == []
        if killed >= kills:
            break
    assert killed >= kills
