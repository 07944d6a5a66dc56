"""What a newcomer runs, as its own process, with the model that comes along."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
from servers import own_database

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("servers"), pytest.mark.timeout(900)]
CLI = [sys.executable, "-m", "flows.cli"]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A Prefect of the test's own: no server of the session's is used."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
    own = {"PREFECT_HOME": str(tmp_path / "prefect"), "PREFECT_SERVER_ANALYTICS_ENABLED": "false"}
    return kept | own | own_database()


def demo(environment: dict[str, str], folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [*CLI, "demo", "--output", str(folder), *more]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)


def count(output: str, label: str) -> int:
    """A number of the closing table."""
    line = next(line for line in output.splitlines() if line.startswith("│") and label in line)
    return int(line.split("│")[2])


def test_demo_twice(environment: dict[str, str], tmp_path: Path) -> None:
    """The demo leaves 3 clips x 4 prompts, those that the judge rejects with a reason; a second one does no model work
    and says how many edits it reused."""
    first = demo(environment, tmp_path / "demo")
    assert first.returncode == 0, first.stderr
    rows = [json.loads(line) for line in (tmp_path / "demo/dataset/metadata.jsonl").read_text().splitlines()]
    table = pq.read_table(tmp_path / "demo/tables/edits.parquet").to_pylist()
    assert len(table) == 12 and len({row["source_file_name"] for row in table}) == 3
    rejected = [row for row in table if row["verdict"] == "rejected"]
    assert len(rows) == 12 - len(rejected) >= 4 and all(row["rejected_because"] for row in rejected)
    assert count(first.stdout, "edits rejected") == len(rejected)
    for row in rows:
        assert (tmp_path / "demo/dataset" / row["file_name"]).stat().st_size > 1000
    assert "edits" in (tmp_path / "demo/index.html").read_text()
    again = demo(environment, tmp_path / "demo")
    assert again.returncode == 0, again.stderr
    assert count(again.stdout, "edits reused") == 12 and count(again.stdout, "edits made") == 0
    assert count(again.stdout, "model evaluations") == 0


def test_killed_run_resumes(environment: dict[str, str], tmp_path: Path) -> None:
    """After SIGKILL in the middle of a run, the rerun keeps what was committed and ends with an undisturbed result."""
    fast = ("--set", "inversion.steps=10", "--set", "engine.edits_per_batch=1", "--clips", "2")
    edits = tmp_path / "demo" / "edits"
    process = subprocess.Popen(
        [*CLI, "demo", "--output", str(tmp_path / "demo"), *fast],
        env=environment,
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
    assert 3 <= len(committed) < 8
    resumed = demo(environment, tmp_path / "demo", *fast)
    assert resumed.returncode == 0, resumed.stderr
    assert count(resumed.stdout, "edits reused") == len(committed)
    assert count(resumed.stdout, "edits made") == 8 - len(committed)
    undisturbed = demo(environment, tmp_path / "other", *fast)
    assert undisturbed.returncode == 0, undisturbed.stderr
    keys = "edit_key", "target_prompt", "seed"
    tables = [pq.read_table(tmp_path / root / "tables/edits.parquet") for root in ("demo", "other")]
    assert tables[0].select(keys).to_pylist() == tables[1].select(keys).to_pylist()
    videos = [sorted((tmp_path / root / "dataset/videos").iterdir()) for root in ("demo", "other")]
    assert [file.name for file in videos[0]] == [file.name for file in videos[1]]
    assert [file.read_bytes() for file in videos[0]] == [file.read_bytes() for file in videos[1]]


def test_a_terminated_run_stops_at_its_next_step(environment: dict[str, str], tmp_path: Path) -> None:
    """SIGTERM in the middle of an inversion of 1,000 steps ends the process and its Prefect server in seconds, not at
    the end of the clip; what was committed before stays, and the inversion leaves nothing that looks like one."""
    long = ("--set", "inversion.steps=1000", "--clips", "1")
    root, log = tmp_path / "demo", tmp_path / "log"
    with open(log, "wb") as sink:
        process = subprocess.Popen(
            [*CLI, "demo", "--output", str(root), *long], env=environment, stdout=sink, stderr=sink
        )
    deadline = time.monotonic() + 300
    while not list(root.glob("latents/*/*/commit.json")) and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(5)  # the inversion is under way
    started = time.monotonic()
    below = psutil.Process(process.pid).children(recursive=True)
    assert any("uvicorn" in child.cmdline() for child in below)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    assert time.monotonic() - started < 30
    assert psutil.wait_procs(below, timeout=10)[1] == []
    assert "stopped between two steps" in log.read_text()
    assert list(root.glob("latents/*/*/commit.json")) and not list(root.glob("trajectories/*/*/commit.json"))
