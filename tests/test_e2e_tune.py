"""A search as its own process: killed in the middle it loses one trial at most, and its recipe file runs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from servers import own_database

from cogvideo_core.shapes.make import make_clips

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("servers"), pytest.mark.timeout(1500)]
CLI = [sys.executable, "-m", "flows.cli"]
TRIALS = 8


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A Prefect of the test's own."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    own = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return kept | own | own_database()


def test_killed_in_the_middle(environment: dict[str, str], tmp_path: Path, tiny_pipeline_folder: Path) -> None:
    """SIGKILL after three trials: they are kept as they are, the search ends with all, and a run takes its recipe."""
    manifest, root = make_clips(tmp_path / "in", 6, prompts=1), tmp_path / "root"
    sets = [
        *("judge.text=shapes", "tune.clips=4", "tune.held_out=2", "tune.steps=[4]", "tune.layer_groups=2"),
        *("tune.first_random=4", "inversion.gate=off", "inversion.method=ddim", "tune.most_cost=20"),
    ]
    options = [str(manifest), "--model", str(tiny_pipeline_folder), "--output", str(root), "--trials", str(TRIALS)]
    command = [*CLI, "tune", *options, "--budget", "1h", *(part for pair in sets for part in ("--set", pair))]

    def trials() -> dict[int, str]:
        found = {}
        for file in (root / "trials").glob("*/*/commit.json"):
            commit = json.loads(file.read_text())
            if commit["spec"]["kind"] == "trial":
                found[commit["spec"]["number"]] = commit["sha256"]
        return found

    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet, start_new_session=True)
    deadline = time.monotonic() + 600
    while len(trials()) < 3 and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    kept = trials()
    assert 3 <= len(kept) < TRIALS and sorted(kept) == list(range(len(kept)))
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    after = trials()
    assert len(after) == TRIALS and {number: after[number] for number in kept} == kept
    told = json.loads((root / "tune" / "tune.json").read_text())
    assert told["counts"]["trials"] == TRIALS and "All trials" in (root / "tune" / "index.html").read_text()
    recipe = root / "tune" / "recipe.yaml"
    assert yaml.safe_load(recipe.read_text())["recipe"]["name"] in ("tuned", "balanced")
    run = [*CLI, "run", *options[:5], "--recipe", str(recipe), "--limit", "1", "--set", "inversion.gate=off"]
    assert subprocess.run(run, env=environment, capture_output=True, timeout=600, check=False).returncode == 0
