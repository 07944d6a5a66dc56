"""A campaign on plain Prefect workers: waves as flow runs of a work pool, and a worker that is lost in the middle."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import counted
import pytest
from undisturbed import Undisturbed

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("servers"), pytest.mark.timeout(1500)]
WAVES, CRASHED_AFTER_S = 4, 35


@pytest.fixture
def here(up_here: ModuleType, tmp_path: Path) -> Iterator[Any]:
    """Up, with two slots for runs that compute; what they compute is noted."""
    often = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30"} | counted.noting(tmp_path / "counted")
    with up_here.brought_up(tmp_path, "--slots", "2", "--crashed-after", str(CRASHED_AFTER_S), **often) as up:
        yield up


def waves_asked_for(client: Any, deployment: UUID) -> list[Any]:
    """Flow runs of the deployment of waves."""
    return [run for run in client.read_flow_runs() if run.deployment_id == deployment]


def test_a_campaign_on_two_workers_one_of_which_is_lost(here: Any, undisturbed: Undisturbed, tmp_path: Path) -> None:
    """Four waves on two workers; SIGKILL of one worker and its wave: the campaign says that a wave is missing, a second
    one asks for that wave alone, a third for none and computes nothing. The dataset is that of an undisturbed run, byte
    for byte; of the evaluations of all processes at most one batch's were made twice."""
    root, notes = tmp_path / "run", tmp_path / "counted"
    options = undisturbed.options(root, batches_per_wave=5)
    here.kill_family(here.process("worker"))  # which would take two waves at a time
    _, other = here.another_worker(), here.another_worker()

    def campaign() -> subprocess.CompletedProcess[str]:
        done: Any = here.cli("campaign", *options, "--waves", "2", PREFECT_API_URL=f"{here.url}/api")
        return done

    with here.client() as client, ThreadPoolExecutor(1) as pool:
        deployment = here.deployment(client, "edit-wave")
        first = pool.submit(campaign)
        here.wait_for(lambda: len(other.children(recursive=True)) > 0 and edits_of(other, notes) >= 2, 240)
        here.kill_family(other)
        told = first.result()
        assert told.returncode == 1 and f"of {WAVES} did not come to their end" in told.stderr, told.stderr
        assert len(waves_asked_for(client, deployment)) == WAVES
        told = campaign()
        assert told.returncode == 0, told.stderr
        assert len(waves_asked_for(client, deployment)) == WAVES + 1
        undisturbed.assert_same(root)
        spent = counted.evaluations(notes)
        assert undisturbed.evaluations <= spent <= undisturbed.evaluations + undisturbed.a_batch
        told = campaign()
        assert told.returncode == 0, told.stderr
        assert len(waves_asked_for(client, deployment)) == WAVES + 1 and counted.evaluations(notes) == spent
    undisturbed.assert_same(root)


def edits_of(worker: Any, notes: Path) -> int:
    """Edits that the runs of a worker have committed."""
    mine = {process.pid for process in worker.children(recursive=True)}
    return sum(row.get("stage") == "edits" and row["pid"] in mine for row in counted.notes(notes))
