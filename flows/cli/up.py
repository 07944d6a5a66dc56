"""Commands that bring everything up on this machine and take it down again: up, down, deploy, gallery."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.specs import DatasetSpec
from flows.cli.exits import sentences
from flows.server import postgres, processes
from flows.server.processes import State

app = typer.Typer()
HEARTBEAT_S = "60"
FIXED = {  # whatever a user's own settings are
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "DO_NOT_TRACK": "1",
    "PREFECT_UI_API_URL": "/api",  # seen from the browser, which may come through a tunnel
    "PREFECT_SERVER_CSRF_PROTECTION_ENABLED": "true",  # another site's page must not start runs on loopback
}
CORE_LOGS = {  # to show warnings of the core, which knows nothing of Prefect, in the logs of runs
    "PREFECT_LOGGING_EXTRA_LOGGERS": "cogvideo_core",
    "PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW": "ignore",  # for threads that read ahead, and code outside flows
}
DEFAULTS = CORE_LOGS | {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "100",  # more than twice as many task runs a second
    "PREFECT_SERVER_EVENTS_RETENTION_PERIOD": "P3D",  # heartbeats and changes of state add up
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": HEARTBEAT_S,
    "PREFECT_WORKER_QUERY_SECONDS": "5",
    "PREFECT_SERVER_UI_V2_ENABLED": "true",  # groups of settings show better in its forms
}


class Database(StrEnum):
    sqlite = "sqlite"
    postgres = "postgres"


Host = Annotated[str, typer.Option(help="Address to listen on; anything but loopback wants --auth.")]
Auth = Annotated[bool, typer.Option("--auth", help=f"Ask for a password: {processes.AUTH}, or the file made for it.")]
Slots = Annotated[int, typer.Option(min=0, help="Runs that compute at a time. 0: one a GPU, or one without GPUs.")]
Zombies = Annotated[
    float, typer.Option("--crashed-after", min=31, help="Seconds without a sign of life until a run counts as Crashed.")
]


@app.command()
def up(
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65534, help="Of the server; the gallery takes the next one.")] = 4200,
    auth: Auth = False,
    database: Annotated[Database, typer.Option(help="Where the server keeps its runs.")] = Database.sqlite,
    gallery: Annotated[Path, typer.Option(help="Folder whose galleries are served, on loopback.")] = Path("out"),
    slots: Slots = 0,
    crashed_after_s: Zombies = 300,
) -> None:
    """Start server, worker and gallery here, in the background, with every deployment; what is up already stays.

    [dim]cogvideo-edit up[/dim]
    [dim]cogvideo-edit up --host 0.0.0.0 --auth --database postgres[/dim]
    """
    given = bool(os.environ.get(processes.AUTH))
    auth = auth or given  # whoever sets one wants it
    with sentences(), processes.locked() as state:
        wanted = {"host": host, "port": port, "auth": auth, "database": database.value}
        wanted |= {"folder": str(Path.cwd()), "gallery": str(gallery.absolute())}
        check_wanted(wanted, state)
        environment = environment_of(wanted, processes.auth_string() if auth else "")
        state["settings"] = wanted
        changed = [*_server(state, environment), *_told(wanted, environment, slots, crashed_after_s)]
        changed += [*_worker(state, environment), *_gallery(state, environment), *_demo_clips(Path.cwd())]
    typer.echo(told(wanted, changed, processes.AUTH if given else str(processes.home() / "auth")))


@app.command()
def down() -> None:
    """Stop what `up` has started, and nothing else. Runs end at their next step; what is committed is kept.

    [dim]cogvideo-edit down[/dim]
    """
    with sentences(), processes.locked() as state:
        stopped = [name for name in ("worker", "gallery", "server") if _stop(state, name)]
        if folder := state.pop("postgres", ""):
            stopped += ["database"] if postgres.stop(Path(folder)) else []
        processes.write_state(state)
    typer.echo(f"stopped: {', '.join(stopped) or 'nothing was up'}")


@app.command()
def deploy(slots: Slots = 0, crashed_after_s: Zombies = 300) -> None:
    """Tell the server of PREFECT_API_URL of work pool, limits, automations and deployments; starts nothing.

    [dim]PREFECT_API_URL=https://prefect.example/api cogvideo-edit deploy --slots 8[/dim]
    """
    from flows.server.setup import set_up

    with sentences():
        if not os.environ.get("PREFECT_API_URL"):
            raise BadSpec("PREFECT_API_URL is not set; set it to the server's address, or use cogvideo-edit up")
        changed = set_up(dict(os.environ), Path.cwd(), slots or gpus(), crashed_after_s)
    typer.echo(f"new or changed: {', '.join(changed) or 'nothing'}")


@app.command()
def gallery(
    folder: Annotated[str, typer.Argument(help="Folder or URL; galleries below it are served.")] = "out",
    host: Host = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535)] = 4201,
    auth: Auth = False,
) -> None:
    """Serve the galleries below a folder, here or in an object store, until Ctrl-C.

    [dim]cogvideo-edit gallery out --port 8080[/dim]
    [dim]cogvideo-edit gallery s3://bucket/runs[/dim]
    """
    from flows.server.gallery import serve

    with sentences():
        check_binding(host, auth)
        server = serve(folder, host, port, processes.auth_string() if auth else "")
    server.serve_forever()


def check_binding(host: str, auth: bool) -> None:
    """Refuses to be reached from other machines without a password."""
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local and not auth:
        raise BadSpec(f"field host: {host} can be reached from other machines; add --auth, or use 127.0.0.1")


def check_wanted(wanted: State, state: State) -> None:
    """Refuses if it is up with other settings, or another program has the port."""
    check_binding(wanted["host"], wanted["auth"])
    known = state["settings"]
    if processes.alive(state["processes"].get("server")):
        if other := [name for name in wanted if wanted[name] != known.get(name)]:
            told = ", ".join(f"{name} {known.get(name)}" for name in other)
            raise BadSpec(f"it is up already with {told}; run cogvideo-edit down first")
        return
    for port in (wanted["port"], wanted["port"] + 1):
        with socket.socket() as asked:
            if asked.connect_ex(("127.0.0.1", port)) == 0:
                raise BadSpec(f"field port: another program listens on {port}; give another --port")


def url_of(settings: State) -> str:
    """The server's URL for clients on this machine."""
    host = settings["host"] if settings["host"] not in ("0.0.0.0", "::") else "127.0.0.1"
    return f"http://{f'[{host}]' if ':' in host else host}:{settings['port']}"


def gallery_of(settings: State) -> str:
    return f"http://127.0.0.1:{settings['port'] + 1}"


def environment_of(settings: State, secret: str) -> dict[str, str]:
    """For server, worker and gallery alike. Only it carries the secret: arguments can be read by everyone."""
    own = {name: value for name, value in os.environ.items() if name not in ("PREFECT_API_KEY", "PREFECT_PROFILE")}
    given = DEFAULTS | own | FIXED | {"PREFECT_API_URL": f"{url_of(settings)}/api"}
    given |= {"COGVIDEO_EDIT_GALLERY_URL": gallery_of(settings), "COGVIDEO_EDIT_GALLERY_FOLDER": settings["gallery"]}
    for name in (processes.AUTH, "PREFECT_API_AUTH_STRING"):
        given.pop(name, None)
        given |= {name: secret} if secret else {}
    given.setdefault("PREFECT_SERVER_CORS_ALLOWED_ORIGINS", url_of(settings))
    return given


def _server(state: State, environment: dict[str, str]) -> list[str]:
    settings = state["settings"]
    if processes.alive(state["processes"].get("server")):
        return []
    if settings["database"] == "postgres" and not any(os.environ.get(name) for name in postgres.GIVEN):
        state["postgres"] = os.environ.get("POSTGRES_FOLDER", str(Path("out/postgres").absolute()))
        database = postgres.start(Path(state["postgres"]), int(os.environ.get("POSTGRES_PORT", "5439")))
        environment = environment | {postgres.GIVEN[0]: database}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", settings["host"]]
    processes.start(state, "server", [*command, "--port", str(settings["port"])], environment)
    health = f"{url_of(settings)}/api/health"
    processes.wait_until(state, "server", lambda: processes.answers(health))
    return ["server"]


def _told(settings: State, environment: dict[str, str], slots: int, crashed_after_s: float) -> list[str]:
    os.environ.update({name: value for name, value in environment.items() if name.startswith("PREFECT_")})
    from flows.server.setup import set_up  # imports Prefect, which reads its settings then

    return set_up(environment, Path(settings["folder"]), slots or gpus(), crashed_after_s)


def _worker(state: State, environment: dict[str, str]) -> list[str]:
    if processes.alive(state["processes"].get("worker")):
        return []
    command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "cogvideo", "--type", "process"]
    before = len(processes.said("worker"))
    processes.start(state, "worker", command, environment)
    processes.wait_until(state, "worker", lambda: " started!" in processes.said("worker")[before:])
    return ["worker"]


def _demo_clips(folder: Path) -> list[str]:
    """Makes the clips that the form edits by default: a first run needs only a click."""
    from cogvideo_core.shapes.make import make_clips

    source = folder / DatasetSpec().source
    if source.exists():
        return []
    make_clips(source.parent, 3, prompts=4)
    return ["clips of the demo"]


def _gallery(state: State, environment: dict[str, str]) -> list[str]:
    settings = state["settings"]
    if processes.alive(state["processes"].get("gallery")):
        return []
    command = [sys.executable, "-m", "flows.cli", "gallery", settings["gallery"], "--port", str(settings["port"] + 1)]
    processes.start(state, "gallery", [*command, *(["--auth"] if settings["auth"] else [])], environment)
    processes.wait_until(state, "gallery", lambda: processes.answers(gallery_of(settings)))
    return ["gallery"]


def _stop(state: State, name: str) -> bool:
    entry = state["processes"].pop(name, None)
    return processes.stop(entry) if entry else False


def gpus() -> int:
    """How many runs may compute at a time on this machine."""
    import torch

    return max(torch.cuda.device_count(), 1)


def told(settings: State, changed: list[str], secret_is_in: str) -> str:
    """What a person needs to go on."""
    lines = [f"started or changed: {', '.join(changed) or 'nothing'}", f"Prefect's UI: {url_of(settings)}"]
    lines += [f"Galleries below {settings['gallery']}: {gallery_of(settings)}"]
    lines += [f"For commands: export PREFECT_API_URL={url_of(settings)}/api"]
    if settings["auth"]:
        lines += [f"User and password, as the UI asks for them: in {secret_is_in}"]
    return "\n".join([*lines, f"Logs: {processes.home()}   To stop: cogvideo-edit down"])


def connect() -> dict[str, Any]:
    """What a command that talks to the server of `up` needs besides PREFECT_API_URL: heartbeats, logs, the password."""
    wanted: dict[str, Any] = CORE_LOGS | {"PREFECT_FLOWS_HEARTBEAT_FREQUENCY": HEARTBEAT_S}
    settings = processes.read_state()["settings"]
    if settings.get("auth") and os.environ.get("PREFECT_API_URL", "") == f"{url_of(settings)}/api":
        wanted["PREFECT_API_AUTH_STRING"] = processes.auth_string()
    return wanted
