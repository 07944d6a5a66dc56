"""What a run tells: the line of its progress, the summary's times, and the log of what failed."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from prefect.client.orchestration import get_client
from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

from cogvideo_core.dataset.outcomes import Records, Spool, Times, spanned, times_of
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.shapes.make import make_clips
from flows import report
from flows.cli import running as cli_running
from flows.cli import up as cli_up
from flows.engines import in_flight
from flows.planning import plan_dataset
from tasks.settings import Settings

Record = dict[str, Any]
COUNTS: Record = {"clips": 12, "succeeded": 11, "failed": 1, "edits": 48, "edits_made": 40, "edits_reused": 8}
TIMES = Times(2, 120.0, 240.0, 180.0, {"encode": 3.25, "edit": 1234.5}, {"host:1": 1, "host:2": 2})


@pytest.mark.parametrize(
    ("seconds", "left"), [(225.0, "3.2 clips a minute, about 9 minutes left"), (72.0, "10.0 clips a minute, about 3")]
)
def test_progress_in_words(seconds: float, left: str) -> None:
    """Counts, the rate so far, and how long the rest takes at this rate."""
    told = report.told_of(COUNTS, 40, seconds)
    assert told.startswith("12 of 40 clips finished, 48 edits, 1 failed; ") and left in told


def test_a_summary_has_times_rates_and_shares() -> None:
    """Wall time, clips and edits a minute, the model's busy share of all processes, loads and seconds a stage."""
    kinds = (DatasetSpec, ModelSpec, InversionSpec, RecipeSpec, OutputSpec, EngineSpec)
    names = ("dataset", "model", "inversion", "recipe", "output", "engine")
    settings = Settings(**{name: kind() for name, kind in zip(names, kinds, strict=True)})
    counts = COUNTS | {"clips_reused": 2, "parked": 0, "evaluations": 99}
    shown = report.summary(settings, counts, {"edits": 48, "clips": 11}, TIMES)
    for row in (
        "| Time | 120.0 s in 2 waves |",
        "| Rate | 6.0 clips, 20.0 edits made a minute |",
        "| Model busy | 75 % of the time |",
        "| Models loaded | 3 in 2 processes |",
        "| Stages | encode 3.2 s, edit 1,234.5 s, of all clips added up |",
    ):
        assert row in shown, shown
    nothing = report.summary(settings, counts, {}, times_of([]))
    assert "| Clips |" in nothing and "| Time |" not in nothing


def test_times_of_waves_add_up(tmp_path: Path) -> None:
    """Each wave writes down what it took: seconds of its clips, of its processes and of their models; a wave that
    never came to its end, or that an earlier version wrote, counts for nothing."""
    root = str(tmp_path)
    rows = [{"stage": "encode", "seconds": 2.0, "evaluations": 0, "reused": False}]
    for wave, looks in ((0, [[1.0, 2.0], [4.0, 7.5]]), (2, [[8.0, 9.0]])):
        with Spool("edit") as spool:
            spool.started -= 100
            spool.add([{"timings": rows, "loads": {"a": 1 + wave}, "busy": {"a": look}} for look in looks])
            spool.add([{"timings": [], "loads": {"b": 1}, "busy": {"b": [0.0, 3.0]}}])
            spool.publish(root, wave, {})
    found = times_of([{"counts": {}}, *Records(root, 4).heads()])
    assert (found.waves, found.busy_s, found.loads) == (2, 6.5 + 3 + 1 + 3, {"a": 3, "b": 1})
    assert found.stages == {"encode": 6.0} and 200 <= found.wall_s < 260
    assert found.worker_s == pytest.approx(2 * found.wall_s)


def test_looks_at_a_clock_span_from_the_first_to_the_last() -> None:
    """Two threads that share a model look at one clock: what both see is not counted twice."""
    one, other = {"a": [1.0, 5.0]}, {"a": [3.0, 6.0], "b": [0.0, 1.0]}
    assert spanned(one, other) == {"a": [1.0, 6.0], "b": [0.0, 1.0]} == spanned(other, one)


def test_a_failure_is_logged_with_its_clip(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    """The beginning of its key, as the names of task runs have it, and the stage; a server that can't be told is no
    reason to end."""

    def away(*args: Any, **given: Any) -> None:
        raise OSError("away")

    monkeypatch.setattr(report, "update_progress_artifact", away)
    progress = report.Progress(40)
    progress.artifact = uuid4()
    failed = {"source_id": "0123456789abcdef", "stage": "edit", "error": "E", "message": "no"}
    with caplog.at_level(logging.INFO):
        progress.advance([failed, {"source_id": "fedcba"}], COUNTS, logging.getLogger("run"))
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:2] == ["progress could not be reported: away", "clip 01234567 failed in edit: no"]
    assert lines[2].startswith("12 of 40 clips finished")


def test_the_cores_warnings_reach_the_logs_of_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Prefect hands what the core logs to its server, for runs of `up`'s worker and for those of the command line; what
    a user has set stays."""
    name = "PREFECT_LOGGING_EXTRA_LOGGERS"
    settings = {"host": "127.0.0.1", "port": 4200, "gallery": "out"}
    assert cli_up.environment_of(settings, "")[name] == "cogvideo_core"
    for given, expected in (("", "cogvideo_core"), ("mine", "mine")):
        with monkeypatch.context() as patch:
            for variable in cli_up.connect():
                patch.delenv(variable, raising=False)
            if given:
                patch.setenv(name, given)
            cli_running.prepare_prefect()
            assert os.environ[name] == expected
            for variable in cli_up.connect():
                patch.delenv(variable, raising=False)
    code = (
        "import json, logging, os\n"
        "from flows.cli import running\n"
        "running.prepare_prefect()\n"
        "import prefect\n"
        "from prefect.logging.configuration import setup_logging\n"
        "setup_logging()\n"
        "print(json.dumps([type(h).__name__ for h in logging.getLogger('cogvideo_core').handlers]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "APILogHandler" in json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize(
    ("engine", "expected"),
    [
        ({}, 2),
        ({"engine": "dask", "dask_workers": 5}, 10),
        ({"engine": "dask", "dask_workers": 5, "batches_in_flight": 3}, 3),
        ({"batches_in_flight": 1}, 1),
    ],
)
def test_two_batches_a_worker_are_in_flight(engine: Record, expected: int) -> None:
    """However many workers there are, each has one to compute and one to read and write; a number that is given
    counts."""
    assert in_flight(EngineSpec(**engine)) == expected


def test_a_plan_shows_its_estimate(prefect_harness: None, tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    """The artifact `estimate` has the rows that the flow returns; without an estimate, the counts alone."""
    source = str(make_clips(tmp_path / "in", 2, prompts=2))
    groups: Record = {"dataset": DatasetSpec(source=source), "output": OutputSpec(root=str(tmp_path / "run"))}
    groups |= {"model": ModelSpec(path=str(tiny_pipeline_folder)), "inversion": InversionSpec(steps=4)}
    for estimate, wanted in ((True, ["GPU-hours", "wall time", "stored"]), (False, ["batches"])):
        state = plan_dataset(**groups, estimate=estimate, return_state=True)
        rows = dict(state.result()["rows"])
        with get_client(sync_client=True) as client:
            run = ArtifactFilterFlowRunId(any_=[state.state_details.flow_run_id])
            (artifact,) = client.read_artifacts(artifact_filter=ArtifactFilter(flow_run_id=run))
        assert artifact.key == "estimate" and set(wanted) <= set(rows) and ("GPU-hours" in rows) == estimate
        assert all(f"| {what} | {value} |" in artifact.data for what, value in rows.items())
