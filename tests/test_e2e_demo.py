"""What a newcomer runs, as its own process, with the model that comes along."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
CLI = [sys.executable, "-m", "flows.cli"]


def environment(tmp_path: Path) -> dict[str, str]:
    """A Prefect of the test's own: no server of the session's is used."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    return kept | {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}


def demo(tmp_path: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [*CLI, "demo", "--output", str(tmp_path / "demo"), *more]
    return subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, timeout=600, check=False)


def count(output: str, label: str) -> int:
    """A number of the closing table."""
    line = next(line for line in output.splitlines() if line.startswith("│") and label in line)
    return int(line.split("│")[2])


def test_demo_twice(tmp_path: Path) -> None:
    """The demo leaves 3 clips x 4 prompts; a second one does no model work and says how many edits it reused."""
    first = demo(tmp_path)
    assert first.returncode == 0, first.stderr
    rows = [json.loads(line) for line in (tmp_path / "demo/dataset/metadata.jsonl").read_text().splitlines()]
    assert len(rows) == 12 and len({row["source_file_name"] for row in rows}) == 3
    for row in rows:
        assert (tmp_path / "demo/dataset" / row["file_name"]).stat().st_size > 1000
    assert "edits" in (tmp_path / "demo/index.html").read_text()
    again = demo(tmp_path)
    assert again.returncode == 0, again.stderr
    assert count(again.stdout, "edits reused") == 12 and count(again.stdout, "edits made") == 0
    assert count(again.stdout, "model evaluations") == 0


def test_killed_run_resumes(tmp_path: Path) -> None:
    """After SIGKILL in the middle of a run, the rerun keeps what was committed and ends with an undisturbed result."""
    fast = ("--set", "inversion.steps=10", "--set", "engine.edits_per_batch=1", "--clips", "4")
    edits = tmp_path / "demo" / "edits"
    process = subprocess.Popen(
        [*CLI, "demo", "--output", str(tmp_path / "demo"), *fast],
        env=environment(tmp_path),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 300
    while len(list(edits.glob("*/*/commit.json"))) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    committed = {file.parent.name for file in edits.glob("*/*/commit.json")}
    assert 3 <= len(committed) < 16
    resumed = demo(tmp_path, *fast)
    assert resumed.returncode == 0, resumed.stderr
    assert count(resumed.stdout, "edits reused") == len(committed)
    assert count(resumed.stdout, "edits made") == 16 - len(committed)
    undisturbed = demo(tmp_path / "other", *fast)
    assert undisturbed.returncode == 0, undisturbed.stderr
    keys = "edit_key", "target_prompt", "seed"
    tables = [pq.read_table(root / "demo/tables/edits.parquet") for root in (tmp_path, tmp_path / "other")]
    assert tables[0].select(keys).to_pylist() == tables[1].select(keys).to_pylist()
    videos = [sorted((root / "demo/dataset/videos").iterdir()) for root in (tmp_path, tmp_path / "other")]
    assert [file.name for file in videos[0]] == [file.name for file in videos[1]]
    assert [file.read_bytes() for file in videos[0]] == [file.read_bytes() for file in videos[1]]


def test_a_terminated_run_stops_at_its_next_step(tmp_path: Path) -> None:
    """SIGTERM in the middle of an inversion of 1,000 steps ends the process in seconds, not at the end of the clip;
    what was committed before stays, and the inversion leaves nothing that looks like one."""
    long = ("--set", "inversion.steps=1000", "--clips", "1")
    root, log = tmp_path / "demo", tmp_path / "log"
    with open(log, "wb") as sink:
        process = subprocess.Popen(
            [*CLI, "demo", "--output", str(root), *long], env=environment(tmp_path), stdout=sink, stderr=sink
        )
    deadline = time.monotonic() + 300
    while not list(root.glob("latents/*/*/commit.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(5)  # the inversion is under way
    started = time.monotonic()
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) != 0
    assert time.monotonic() - started < 30
    assert "stopped between two steps" in log.read_text()
    assert list(root.glob("latents/*/*/commit.json")) and not list(root.glob("trajectories/*/*/commit.json"))
