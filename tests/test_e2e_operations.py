"""Everything brought up by the command: what a second time changes, passwords, crashes, schedules."""

from __future__ import annotations

import json
import shutil
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import Any
from uuid import UUID

import counted
import psutil
import pyarrow.parquet as pq
import pytest
from prefect.client.schemas.schedules import IntervalSchedule
from prefect.exceptions import PrefectHTTPStatusError
from prefect.states import Scheduled
from undisturbed import EDITS, Undisturbed

from cogvideo_core.shapes.make import make_clips

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("servers"), pytest.mark.timeout(1200)]
CRASHED_AFTER_S = 35
ZOMBIES = "cogvideo-edit: a run without a sign of life has crashed"
POLLED = {"last_polled", "status", "updated"}  # the worker's questions change them
FAST: Any = {"method": "fixed_point", "gate": "off", "steps": 4}
Record = dict[str, Any]


@pytest.fixture(scope="module")
def here(up_here: ModuleType, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """Up, with a short time until a run without a sign of life counts as crashed."""
    often = {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30", "PREFECT_SERVER_SERVICES_SCHEDULER_LOOP_SECONDS": "3"}
    folder = tmp_path_factory.mktemp("here")
    often |= counted.noting(folder / "counted")
    with up_here.brought_up(folder, "--crashed-after", str(CRASHED_AFTER_S), **often) as up:
        yield up


def edits(root: Path) -> list[Path]:
    return sorted(root.glob("edits/*/*/commit.json"))


def timings(root: Path) -> list[Record]:
    return list(pq.read_table(root / "tables/timings.parquet").to_pylist())


def listening(processes: list[psutil.Process]) -> set[str]:
    """Addresses that these and their children listen on."""
    family = [one for process in processes for one in (process, *process.children(recursive=True))]
    found = (connection for process in family for connection in process.net_connections("inet"))
    return {connection.laddr.ip for connection in found if connection.status == psutil.CONN_LISTEN}


def on_server(client: Any) -> Record:
    """All that `up` sets there, with the times of its last change."""
    pool = client.read_work_pool("cogvideo")
    return {
        "deployments": [found.model_dump(mode="json", exclude=POLLED) for found in client.read_deployments()],
        "pool": pool.model_dump(mode="json", include={"id", "base_job_template", "concurrency_limit"}),
        "queue": client.read_work_queue_by_name("model", "cogvideo").concurrency_limit,
        "limits": [found.model_dump(mode="json") for found in client.read_global_concurrency_limits()],
        "automations": [found.model_dump(mode="json") for found in client.read_automations_by_name(ZOMBIES)],
    }


def test_a_second_up_changes_nothing(here: Any) -> None:
    """The same processes, and nothing on the server is touched; all of it listens on loopback alone."""
    with here.client() as client:
        before, started = on_server(client), here.state()
        assert len(before["automations"]) == 1 and len(before["deployments"]) == 13
        assert "started or changed: nothing" in here.up("--crashed-after", str(CRASHED_AFTER_S))
        told = here.cli("deploy", PREFECT_API_URL=f"{here.url}/api")  # the server's part alone
        assert told.stdout == "new or changed: nothing\n", told.stderr
        assert (on_server(client), here.state()) == (before, started)
        assert (here.folder / "out/demo/input/manifest.jsonl").is_file()  # what the form's defaults edit
    assert listening([here.process(name) for name in ("server", "worker", "gallery")]) == {"127.0.0.1"}


def test_another_up_beside_it_is_refused(here: Any) -> None:
    """On the port that is taken, in other words, and on every address without a password: one sentence each."""
    told = here.cli("up", "--port", str(here.port), "--auth")
    assert told.returncode == 2 and "is up already with auth False" in told.stderr
    open_to_all = here.cli("up", "--host", "0.0.0.0")
    assert open_to_all.returncode == 2 and "add --auth" in open_to_all.stderr
    assert len(open_to_all.stderr.splitlines()) == 1


def test_wrong_values_are_refused_by_the_form(here: Any) -> None:
    """Out of bounds, or a field that there is none of: no run comes of it, and the field is named."""
    with here.client() as client:
        for group, field, value in (("recipe", "guidance_scale", 31), ("engine", "retrys", 3), ("output", "crf", "x")):
            with pytest.raises(PrefectHTTPStatusError) as refused:
                here.run(client, "edit-dataset", **{group: {field: value}})
            assert field in str(refused.value.response.json())


def test_retention_lists_and_keeps(here: Any) -> None:
    """As it is deployed it removes nothing; for a root of which nothing is known the run fails with one sentence."""
    with here.client() as client:
        ran = here.ended(client, here.run(client, "retention", retention={"root": "out/none"}))
    assert ran.state.is_failed() and "nothing is stored under 'out/none'" in ran.state.message


def test_kill_nine_shows_as_crashed_and_retry_resumes(here: Any, undisturbed: Undisturbed) -> None:
    """SIGKILL of a run and of its worker, as when a machine goes: Crashed within the automation's time. `up` brings
    the worker back alone, and Retry ends the run: the dataset is that of an undisturbed one, byte for byte, and of the
    evaluations of all processes, the killed one too, at most one batch's were made twice."""
    root, before = here.folder / "out/kill", counted.evaluations(here.folder / "counted")
    with here.client() as client:
        run = here.run(client, "edit-dataset", **undisturbed.groups(root))
        here.wait_for(lambda: len(edits(root)) >= 20, 240)
        here.kill_family(here.process("worker"))
        killed = time.monotonic()
        kept = edits(root)
        assert len(kept) < EDITS
        here.wait_for(lambda: client.read_flow_run(run).state.is_crashed(), CRASHED_AFTER_S + 25)
        assert time.monotonic() - killed <= CRASHED_AFTER_S + 25
        message = client.read_flow_run(run).state.message
        assert f"nothing was heard of it for {CRASHED_AFTER_S} s" in message
        server = here.process("server").pid
        assert "started or changed: worker\n" in here.up("--crashed-after", str(CRASHED_AFTER_S))
        assert here.process("server").pid == server
        client.set_flow_run_state(run, Scheduled(name="AwaitingRetry"), force=True)  # what the button sends
        ran = here.ended(client, run)
    assert ran.state.is_completed() and ran.run_count == 2
    assert len(edits(root)) == EDITS and set(kept) <= set(edits(root))
    undisturbed.assert_same(root)
    spent = counted.evaluations(here.folder / "counted") - before
    assert undisturbed.evaluations <= spent <= undisturbed.evaluations + undisturbed.a_batch


def test_a_schedule_edits_what_is_new(here: Any, tiny_pipeline_folder: Path) -> None:
    """Two scheduled runs, and a clip that comes into the folder between them: the second edits that one alone."""
    folder, root = here.folder / "incoming", here.folder / "out/scheduled"
    make_clips(here.folder / "made", 2, prompts=1)
    first, second = sorted((here.folder / "made").glob("*.mp4"))
    folder.mkdir()
    shutil.move(first, folder / "first.mp4")
    (here.folder / "prompts.txt").write_text("a red square moving left on a plain background\n")
    groups: Any = {"dataset": {"source": str(folder), "prompts": str(here.folder / "prompts.txt")}}
    groups |= {"model": {"path": str(tiny_pipeline_folder)}, "output": {"root": str(root)}, "inversion": FAST}
    runs = []
    with here.client() as client:
        for clip in (None, second):
            if clip is not None:
                shutil.move(clip, folder / "second.mp4")
            runs.append(scheduled_once(client, here, groups))
        done = [client.read_flow_run(run) for run in runs]
    assert all(run.state.is_completed() and run.auto_scheduled for run in done)
    assert len(edits(root)) == 2
    rows = [(row["clip"], row["stage"]) for row in timings(root)]
    assert sorted(rows) == [
        (f"{name}.mp4", stage) for name in ("first", "second") for stage in ("edit", "encode", "invert")
    ]


def scheduled_once(client: Any, here: Any, parameters: Record) -> UUID:
    """Gives the deployment a schedule, waits for the first run that comes of it, and takes the schedule away."""
    deployment, known = here.deployment(client, "edit-dataset"), {run.id for run in client.read_flow_runs()}
    often = IntervalSchedule(interval=timedelta(seconds=15))
    (made,) = client.create_deployment_schedules(deployment, [(often, False)])
    client.update_deployment_schedule(deployment, made.id, active=True, parameters=parameters)

    def begun() -> UUID | None:
        runs = [run for run in client.read_flow_runs() if run.id not in known and run.state.is_running()]
        return runs[0].id if runs else None

    found: UUID = here.wait_for(begun, 120)
    client.delete_deployment_schedule(deployment, made.id)
    here.ended(client, found)
    return found


def test_a_password(up_here: ModuleType, tmp_path: Path) -> None:
    """With --auth nothing is told without it, by server or gallery; worker and commands use it; and it stands in no
    argument, log, database, artifact or deployment, only in a file of mode 0600."""
    with up_here.brought_up(tmp_path, "--auth") as up:
        file = up.home / "auth"
        assert f"as the UI asks for them: in {file}" in up.up("--auth")
        secret = file.read_text().strip()
        assert file.stat().st_mode & 0o777 == 0o600 and len(secret) > 30
        for url in (f"{up.url}/api/deployments/count", f"http://127.0.0.1:{up.port + 1}/index.html"):
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(url, timeout=10)
            assert refused.value.code == 401
        with up.client("cogvideo:wrong") as stranger, pytest.raises(PrefectHTTPStatusError, match="401"):
            stranger.read_deployments()
        with up.client(secret) as client:
            run = up.run(client, "retention", retention={"root": "out/none"})
            assert up.ended(client, run).state.is_failed()  # of its own error: the worker came through
            told = json.dumps([found.model_dump(mode="json") for found in client.read_deployments()])
        tried = up.cli("retry-failed", "out/none", PREFECT_API_URL=f"{up.url}/api")
        assert tried.returncode == 2, tried.stderr  # its own error too, not that of a closed door
        password = secret.partition(":")[2]
        everyone = "\n".join(" ".join(process.info["cmdline"] or []) for process in psutil.process_iter(["cmdline"]))
        assert password not in everyone and password not in told
        for path in (*up.home.glob("*.log"), *up.home.glob("*.json"), *(tmp_path / "prefect").glob("prefect.db*")):
            assert password.encode() not in path.read_bytes(), path
    with socket.socket() as asked_again:
        assert asked_again.connect_ex(("127.0.0.1", up.port)) != 0
