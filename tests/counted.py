"""Notes of what every process computes and commits, killed ones too: model evaluations, loads, stages, commits.

`noting(folder)` is the environment of processes that shall be counted. Python imports the copy of this file in that
folder whenever it starts, as `sitecustomize`; modules are patched when something imports them, so that a process which
never computes pays nothing. A note is one line, appended in one write, before an evaluation begins.
"""

from __future__ import annotations

import importlib.abc
import importlib.util
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

NOTES = "COGVIDEO_E2E_NOTES"
Record = dict[str, Any]


def noting(folder: Path) -> dict[str, str]:
    """What the environment of a process needs, so that it and all that it starts write to `folder`/notes."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(__file__, folder / "sitecustomize.py")
    code = str(Path(__file__).parents[1])  # the code under test, whichever is installed
    return {NOTES: str(folder / "notes"), "PYTHONPATH": os.pathsep.join([str(folder), code])}


def notes(folder: Path) -> list[Record]:
    """All notes that are complete, in the order in which they were written."""
    path = folder / "notes"
    lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def evaluations(folder: Path) -> int:
    """Rows through the model, in all processes."""
    return sum(row.get("rows", 0) for row in notes(folder))


def most_at_a_time(rows: list[Record]) -> int:
    """Stages of clips that were in work at once in a process, at most."""
    working, most = Counter[int](), 0
    for row in rows:
        working[row["pid"]] += row.get("working", 0)
        most = max(most, working[row["pid"]])
    return most


def note(**row: Any) -> None:
    handle = os.open(os.environ[NOTES], os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.write(handle, (json.dumps(row | {"pid": os.getpid()}) + "\n").encode())
    os.close(handle)


def patch_model(module: Any) -> None:
    velocity, load = module.VideoModel.velocity, module.load

    def counted(self: Any, x: Any, *args: Any, **kwargs: Any) -> Any:
        note(rows=len(x))
        return velocity(self, x, *args, **kwargs)

    def noted(*args: Any, **kwargs: Any) -> Any:
        note(loads=1)
        return load(*args, **kwargs)

    module.VideoModel.velocity, module.load = counted, noted


def patch_ledger(module: Any) -> None:
    commit = module.Ledger.commit

    def committed(self: Any, stage: str, key: str, *args: Any, **kwargs: Any) -> Any:
        found = commit(self, stage, key, *args, **kwargs)
        note(stage=stage, key=key)
        return found

    module.Ledger.commit = committed


def patch_failures(module: Any) -> None:
    attempt = module.attempt

    def noted(*args: Any, **kwargs: Any) -> Any:
        note(working=1)
        try:
            return attempt(*args, **kwargs)
        finally:
            note(working=-1)

    module.attempt = noted


PATCHES: dict[str, Callable[[ModuleType], None]] = {
    "cogvideo_core.models.model": patch_model,
    "cogvideo_core.storage.ledger": patch_ledger,
    "cogvideo_core.stages.failures": patch_failures,
}


class Patching(importlib.abc.MetaPathFinder):
    """Lets a module be found as it always is, and patches it once it has been executed."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        patch = PATCHES.pop(name, None)
        spec = importlib.util.find_spec(name) if patch else None
        if patch and spec and spec.loader:
            execute = spec.loader.exec_module

            def executed(module: ModuleType) -> None:
                execute(module)
                patch(module)

            spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec


if __name__ == "sitecustomize" and NOTES in os.environ:
    sys.meta_path.insert(0, Patching())
