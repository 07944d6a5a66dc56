"""What is set up once on a Prefect server: work pool, queues, limits, automations, deployments. Repeating it changes
nothing that is there."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from prefect.client.orchestration import SyncPrefectClient, get_client
from prefect.client.schemas.actions import GlobalConcurrencyLimitCreate, WorkPoolCreate, WorkPoolUpdate
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ChangeFlowRunState, DoNothing
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound
from prefect.workers.process import ProcessWorker

from cogvideo_core.errors import BadSpec
from flows.server.processes import NotUp

POOL, QUEUE, LIMIT = "cogvideo", "model", "cogvideo-model"
VERSION = "COGVIDEO_EDIT_VERSION"
ZOMBIES = "cogvideo-edit: a run without a sign of life has crashed"
NOTIFY = "cogvideo-edit: tell someone of failed runs (a template)"
RUNS = {"prefect.resource.id": "prefect.flow-run.*"}
ENDED = {f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Cancelled", "Crashed")}


def prefect_file() -> Path:
    """deployments/prefect.yaml of this installation, else of the current folder. Raises BadSpec for none."""
    for folder in (Path(__file__).parents[2], Path.cwd()):
        if (path := folder / "deployments" / "prefect.yaml").is_file():
            return path
    raise BadSpec("deployments/prefect.yaml is neither beside the package nor here; run this in a clone")


def set_up(environment: dict[str, str], folder: Path, slots: int, zombie_s: float) -> list[str]:
    """Sets up everything on the server of the current settings; returns what is new or has changed."""
    version = deployed_version(prefect_file())
    with get_client(sync_client=True) as client:
        changed = [*_pool(client, folder), *_queue(client, slots), *_limit(client, slots)]
        if any(found != version for found in deployed(client).values()):
            deploy(environment | {VERSION: version})
            changed.append("deployments")
        flows = partial(flow_names, client)
        changed += _automation(client, ZOMBIES, lambda: zombies(zombie_s, flows()))
        changed += _automation(client, NOTIFY, lambda: notification(flows()))
    return changed


def deployed(client: SyncPrefectClient) -> dict[str, str | None]:
    """Deployment of the file -> version that the server has; None for one that it does not have."""
    entries = yaml.safe_load(prefect_file().read_text())["deployments"]
    known = {found.name: found.version for found in client.read_deployments()}
    return {entry["name"]: known.get(entry["name"]) for entry in entries}


def flow_names(client: SyncPrefectClient) -> list[str]:
    """Names of the flows that are deployed from the file."""
    names = deployed(client)
    return sorted({client.read_flow(found.flow_id).name for found in client.read_deployments() if found.name in names})


def deployed_version(file: Path) -> str:
    """Hash of the deployments' file and of the code that the forms are made of."""
    import cogvideo_core

    core = Path(cogvideo_core.__file__).parent
    sources = [file, *sorted(Path(__file__).parents[1].rglob("*.py")), *sorted((core / "settings").glob("*.py"))]
    digest = hashlib.sha256()
    for path in sources:
        digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def deploy(environment: dict[str, str]) -> None:
    """Sends every deployment of the file. Raises NotUp with what Prefect says."""
    file = prefect_file()
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--prefect-file", str(file), "--all"]
    root = file.parents[1]
    path = os.pathsep.join(filter(None, [str(root), environment.get("PYTHONPATH", "")]))
    done = subprocess.run(
        command, env=environment | {"PYTHONPATH": path}, cwd=root, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise NotUp(f"the deployments were refused: {(done.stderr or done.stdout).strip()[-2000:]}")


def _pool(client: SyncPrefectClient, folder: Path) -> list[str]:
    """Runs of the pool start in `folder`, so relative paths in a form mean what they mean on the command line."""
    template: Any = ProcessWorker.get_default_base_job_template()
    template["variables"]["properties"]["working_dir"]["default"] = str(folder)
    try:
        found = client.read_work_pool(POOL)
    except ObjectNotFound:
        about = "Processes on the machine of the worker."
        pool = WorkPoolCreate(name=POOL, type="process", description=about, base_job_template=template)
        client.create_work_pool(pool)
        return ["work pool"]
    if found.type != "process":  # of a cluster: its template is someone's own
        return []
    known = found.base_job_template.get("variables", {}).get("properties", {}).get("working_dir", {}).get("default")
    if known == str(folder):
        return []
    client.update_work_pool(POOL, WorkPoolUpdate(base_job_template=template))
    return ["working directory of the work pool"]


def _queue(client: SyncPrefectClient, slots: int) -> list[str]:
    """The queue for runs that compute. Runs that only wait for them are in the other queue, without a limit."""
    try:
        client.read_work_queue_by_name(QUEUE, work_pool_name=POOL)
        return []
    except ObjectNotFound:
        about = "Runs that use the model; as many at a time as there are GPUs."
        client.create_work_queue(QUEUE, description=about, concurrency_limit=slots, work_pool_name=POOL)
        return ["work queue"]


def _limit(client: SyncPrefectClient, slots: int) -> list[str]:
    """Two tasks a slot: one computes, under the model's lock, while the other reads, decodes and writes."""
    try:
        client.read_global_concurrency_limit_by_name(LIMIT)
        return []
    except ObjectNotFound:
        client.create_global_concurrency_limit(GlobalConcurrencyLimitCreate(name=LIMIT, limit=2 * slots))
        return ["concurrency limit"]


def _automation(client: SyncPrefectClient, name: str, wanted: Callable[[], AutomationCore]) -> list[str]:
    if client.read_automations_by_name(name):
        return []  # it may have been changed by hand since
    client.create_automation(wanted())
    return [f"automation {name!r}"]


def _of(flows: list[str]) -> ResourceSpecification:
    return ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": flows})


def zombies(after_s: float, flows: list[str]) -> AutomationCore:
    """Expects another heartbeat, or the end, after each one; else the machine or the process is gone."""
    return AutomationCore(
        name=ZOMBIES,
        description=f"Marks a run Crashed of which nothing was heard for {after_s:g} s. Retry then goes on with it.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.heartbeat"} | ENDED,
            match=ResourceSpecification(RUNS),
            match_related=_of(flows),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=timedelta(seconds=after_s),
        ),
        actions=[ChangeFlowRunState(state=StateType.CRASHED, message=f"nothing was heard of it for {after_s:g} s")],
    )


def notification(flows: list[str]) -> AutomationCore:
    """Off, and with nothing to do, until someone adds "Send a notification" with a block of theirs and turns it on."""
    return AutomationCore(
        name=NOTIFY,
        description='To use it: edit it, replace the action by "Send a notification", and switch it on.',
        enabled=False,
        trigger=EventTrigger(
            expect={"prefect.flow-run.Failed", "prefect.flow-run.Crashed"},
            match=ResourceSpecification(RUNS),
            match_related=_of(flows),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[DoNothing()],
    )
