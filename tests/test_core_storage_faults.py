"""Whatever one call to the store does wrong, at any moment of a run: a clean rerun ends with the undisturbed result."""

from __future__ import annotations

import errno
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem

from cogvideo_core.upkeep.verify import verify_tree

KINDS = ("raises", "short", "twice", "late", "no space", "throttled")
THROTTLED_CALLS = 3


class Fault:
    """The n-th call to the store goes wrong. `calls` counts all of them."""

    def __init__(self, nth: int = 0, kind: str = "raises") -> None:
        self.nth, self.kind, self.calls = nth, kind, 0

    def now(self) -> str:
        """What is wrong with this call; "" for nothing."""
        self.calls += 1
        last = self.nth + (THROTTLED_CALLS if self.kind == "throttled" else 1)
        return self.kind if self.nth <= self.calls < last else ""


FAULT = Fault()


def failure(kind: str) -> OSError:
    return OSError(errno.ENOSPC, "No space left on device") if kind == "no space" else OSError(f"injected: {kind}")


def disturbed(verb: Callable[..., Any]) -> Callable[..., Any]:
    """A verb of a file system that may fail before, fail after, or happen twice."""

    def call(fs: Any, *arguments: Any, **options: Any) -> Any:
        kind = FAULT.now()
        if kind in ("raises", "throttled", "no space"):
            raise failure(kind)
        result = verb(fs, *arguments, **options)
        if kind == "twice":
            result = verb(fs, *arguments, **options)
        if kind == "late":
            raise failure(kind)
        return result[: len(result) // 2] if kind == "short" and isinstance(result, bytes) else result

    return call


class Written(MemoryFile):
    """A file being written, of which half is lost, unnoticed or not."""

    kind = ""

    def write(self, data: Any) -> int:
        whole = bytes(data)
        super().write(whole[: len(whole) // 2] if self.kind in ("short", "no space") else whole)
        if self.kind == "no space":
            raise failure(self.kind)
        return len(whole)

    def close(self) -> None:
        kind, self.kind = self.kind, ""
        if kind == "late":
            raise failure(kind)


class FaultyMemory(MemoryFileSystem):
    """fsspec's memory, with one wrong call."""

    cachable = False

    cat_file, rm_file, cp_file = (
        disturbed(getattr(MemoryFileSystem, verb)) for verb in ("cat_file", "rm_file", "cp_file")
    )
    info, ls = disturbed(MemoryFileSystem.info), disturbed(MemoryFileSystem.ls)

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **options: Any) -> Any:
        kind = FAULT.now()
        if kind in ("raises", "throttled"):
            raise failure(kind)
        kept = value[: len(value) // 2] if kind in ("short", "no space") else value
        for _ in range(2 if kind == "twice" else 1):
            super().pipe_file(path, kept, mode=mode, **options)
        if kind in ("late", "no space"):
            raise failure(kind)

    def _open(self, path: str, mode: str = "rb", *arguments: Any, **options: Any) -> Any:
        if "data" in options:  # pipe_file, which had its chance
            return super()._open(path, mode, *arguments, **options)
        kind = FAULT.now()
        if kind in ("raises", "throttled"):
            raise failure(kind)
        if "w" not in mode:
            return super()._open(path, mode, *arguments, **options)
        file = Written(self, self._strip_protocol(path))
        file.kind = kind
        file.commit()
        return file


@pytest.fixture
def store() -> Iterator[str]:
    """A root whose calls can be made to fail."""
    fsspec.register_implementation("memory", FaultyMemory, clobber=True)
    place = f"memory://{uuid.uuid4().hex}"
    yield f"{place}/run"
    fsspec.register_implementation("memory", MemoryFileSystem, clobber=True)
    global FAULT
    FAULT = Fault()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def ran(toy: Any, root: str, folder: Path, fault: Fault, **more: Any) -> int:
    """Evaluations of a run with that fault; what the run raises is not of interest, only what it leaves."""
    global FAULT
    FAULT, model = fault, toy.ToyModel()
    try:
        toy.run(root, folder, 1, model, **more)
    except Exception as error:
        assert "injected" in str(error) or "No space" in str(error) or isinstance(error, OSError | ValueError), error
    finally:
        FAULT = Fault()
    return int(model.evaluations)


@pytest.mark.parametrize("every", [17, pytest.param(1, marks=[pytest.mark.e2e, pytest.mark.timeout(600)])])
@pytest.mark.parametrize("kind", KINDS)
def test_any_call_may_go_wrong(toy: Any, store: str, tmp_path: Path, kind: str, every: int) -> None:
    """The calls of a small run in turn: a rerun without faults ends as if nothing had been, without damage, and both
    together cost at most one planned batch more."""
    counted = Fault()
    whole = ran(toy, f"{store}/calm", tmp_path, counted)
    good = toy.result(f"{store}/calm")
    assert counted.calls > 150 and len(good["rows"]) == 3 and len(good["dataset/metadata.jsonl"].splitlines()) == 3
    for nth in range(1 + KINDS.index(kind), counted.calls + 1, every) if every > 1 else range(1, counted.calls + 1):
        root, fault = f"{store}/{nth}", Fault(nth, kind)
        first = ran(toy, root, tmp_path, fault)
        second = ran(toy, root, tmp_path, Fault(), verify="full")
        assert fault.calls >= nth and toy.result(root) == good, (nth, kind)
        assert first + second <= whole + toy.LONGEST_BATCH, (nth, kind)
        assert list(verify_tree(root)) == [], (nth, kind)
        forget(root)


def forget(root: str) -> None:
    """fsspec's memory looks through all it holds at every call."""
    place = root.removeprefix("memory:/")
    for path in [path for path in MemoryFileSystem.store if path.startswith(f"{place}/")]:
        del MemoryFileSystem.store[path]
    MemoryFileSystem.pseudo_dirs[:] = [path for path in MemoryFileSystem.pseudo_dirs if not path.startswith(place)]


@pytest.mark.parametrize("kind", ["raises", "late", "throttled", "no space"])
def test_a_run_that_tries_again_gets_over_it(toy: Any, store: str, tmp_path: Path, kind: str) -> None:
    """With retries, a fault while a clip is worked on costs no clip and no second run."""
    counted = Fault()
    ran(toy, f"{store}/calm", tmp_path, counted)
    good = toy.result(f"{store}/calm")
    for nth in range(30, 130, 9):
        root = f"{store}/{nth}"
        ran(toy, root, tmp_path, Fault(nth, kind), retries=4)
        assert toy.result(root) == good, (nth, kind)
