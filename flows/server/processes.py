"""Processes that `up` leaves running: how they are started, recognised and stopped, and the secret they share.

All files are in `<PREFECT_HOME>/cogvideo-edit/`, closed to other accounts: `up.json`, logs, `auth`.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil

from cogvideo_core.errors import BadSpec, EditError

State = dict[str, Any]
STOP_S = 20.0
AUTH = "PREFECT_SERVER_API_AUTH_STRING"


class NotUp(EditError):
    """A process that was started does not serve."""

    ran = True


def home() -> Path:
    """The folder of `up`, made on first use."""
    folder = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser() / "cogvideo-edit"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


@contextlib.contextmanager
def locked() -> Iterator[State]:
    """What is up: {"settings": ..., "processes": {name: {"pid", "started"}}}; one `up` or `down` at a time."""
    with open(home() / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield read_state()


def read_state() -> State:
    try:
        state = json.loads((home() / "up.json").read_text())
    except (FileNotFoundError, ValueError):
        state = {}
    return {"settings": {}, "processes": {}} | state


def write_state(state: State) -> None:
    part = home() / "up.json.part"
    part.write_text(json.dumps(state, indent=2) + "\n")
    part.replace(home() / "up.json")


def auth_string() -> str:
    """`user:password`: from the environment, else from the file `auth`, which is made on first use.

    Raises BadSpec for a file that others may read, and for a string without a user.
    """
    if not (given := os.environ.get(AUTH, "")):
        path = home() / "auth"
        with contextlib.suppress(FileExistsError):
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(handle, "w") as file:
                file.write(f"cogvideo:{secrets.token_urlsafe(24)}\n")
        if path.stat().st_mode & 0o077:
            raise BadSpec(f"field auth: {path} can be read by other accounts; chmod 600 it, or remove it for a new one")
        given = path.read_text().strip()
    if not all(given.partition(":")):
        raise BadSpec(f"field auth: {AUTH} or {home() / 'auth'} must be user:password; give both")
    return given


def alive(entry: State | None) -> psutil.Process | None:
    """The process that was started; None when it has ended, even if another process has its number now."""
    if entry is None:
        return None
    try:
        process = psutil.Process(entry["pid"])
        same = abs(process.create_time() - entry["started"]) < 1
        return process if same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def start(state: State, name: str, command: list[str], environment: dict[str, str]) -> None:
    """Starts a process in its own session, with its output in `<name>.log`, and records it in the state."""
    descriptor = os.open(log(name), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    with os.fdopen(descriptor, "ab") as sink:
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, start_new_session=True
        )
    process.returncode = 0  # it outlives this program, which Popen would complain of
    state["processes"][name] = {"pid": process.pid, "started": psutil.Process(process.pid).create_time()}
    write_state(state)


def log(name: str) -> Path:
    return home() / f"{name}.log"


def said(name: str) -> str:
    """The process's whole log so far."""
    return log(name).read_text(errors="replace") if log(name).exists() else ""


def wait_until(state: State, name: str, ready: Callable[[], bool], timeout_s: float = 120) -> None:
    """Raises NotUp, with the end of its log, when the process ends or is not ready in time."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if ready():
            return
        if alive(state["processes"].get(name)) is None:
            break
        time.sleep(0.3)
    last = " ".join(said(name).strip().splitlines()[-1:]).strip()
    raise NotUp(f"the {name} did not come up ({last}); see {log(name)}")


def stop(entry: State) -> bool:
    """Ends a process and its children, gently first. False when it had ended before."""
    if (process := alive(entry)) is None:
        return False
    with contextlib.suppress(psutil.NoSuchProcess):
        family = process.children(recursive=True)
        _end([process], STOP_S)  # a worker signs off from the server
        _end(family, STOP_S / 4)  # and any children left behind
    return True


def _end(processes: list[psutil.Process], timeout_s: float) -> None:
    """Asks them to end, then kills those still running."""
    for how in ("terminate", "kill"):
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                getattr(process, how)()
        _, processes = psutil.wait_procs(processes, timeout_s)


def answers(url: str, timeout_s: float = 2) -> bool:
    """Whether something speaks HTTP there, if only to refuse."""
    try:
        urllib.request.urlopen(url, timeout=timeout_s).close()
    except urllib.error.HTTPError:
        return True
    except (OSError, ValueError):
        return False
    return True
