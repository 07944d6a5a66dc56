"""`up`'s own PostgreSQL: Debian's package, data and password in a folder, on loopback. As root it runs under the
account `postgres`, because initdb refuses root."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
from pathlib import Path

from cogvideo_core.errors import BadSpec
from flows.server.processes import NotUp

GIVEN = ("PREFECT_SERVER_DATABASE_CONNECTION_URL", "PREFECT_API_DATABASE_CONNECTION_URL")


def start(folder: Path, port: int) -> str:
    """Makes the database on first use and starts it, unless it runs; returns its URL."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.chmod(0o700)
    password, data = _password(folder), folder / "data"
    _own(folder)
    if not _run(folder, "test", "-f", str(data / "PG_VERSION"), check=False):
        made = ["-U", "prefect", "-E", "UTF8", "--locale=C.UTF-8", "-A", "scram-sha-256"]
        _run(folder, _tool("initdb"), "-D", str(data), *made, "--pwfile", str(folder / "password"))
    if not running(folder):
        options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c max_connections=300"
        _run(folder, _tool("pg_ctl"), "-D", str(data), "-w", "-l", str(folder / "log"), "-o", options, "start")
    place = ["-h", "127.0.0.1", "-p", str(port), "-U", "prefect", "prefect"]
    subprocess.run(
        [_tool("createdb"), *place], env=os.environ | {"PGPASSWORD": password}, capture_output=True, check=False
    )  # it may exist already
    return f"postgresql+asyncpg://prefect:{password}@127.0.0.1:{port}/prefect"


def running(folder: Path) -> bool:
    return _run(folder, _tool("pg_ctl"), "-D", str(folder / "data"), "status", check=False)


def stop(folder: Path) -> bool:
    """False where it was not running."""
    if not running(folder):
        return False
    return _run(folder, _tool("pg_ctl"), "-D", str(folder / "data"), "-m", "fast", "stop")


def _tool(name: str) -> str:
    places = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[4]))
    if found := str(places[-1]) if places else shutil.which(name):
        return found
    raise BadSpec(f"field database: PostgreSQL is not installed; apt-get install postgresql, or set {GIVEN[0]}")


def _password(folder: Path) -> str:
    path = folder / "password"
    if not path.exists():
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_urlsafe(24) + "\n")
    return path.read_text().strip()


def _own(folder: Path) -> None:
    if os.geteuid() == 0:
        for path in (folder, folder / "password"):
            shutil.chown(path, "postgres")


def _run(folder: Path, *command: str, check: bool = True) -> bool:
    """Whether the command succeeded, run by the account that owns the data. Raises NotUp where it must."""
    account = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    with open(os.devnull, "wb") as nothing:
        done = subprocess.run(
            [*account, *command], cwd=folder, stdin=nothing, stdout=nothing, stderr=subprocess.PIPE, check=False
        )
    if check and done.returncode:
        raise NotUp(
            f"{Path(command[0]).name} failed ({done.stderr.decode(errors='replace').strip()}); see {folder}/log"
        )
    return not done.returncode
