"""One clip's trouble is a record: what kind it is, whether it is tried again, and what the record keeps."""

from __future__ import annotations

import errno
import json
from concurrent.futures import CancelledError
from typing import Any

import pytest
import torch

from cogvideo_core import errors
from cogvideo_core.stages import failures
from cogvideo_core.stages.failures import attempt, failure, is_failure, kind_of

Record = dict[str, Any]
CLIP: Record = {"clip": "a.mp4", "name": "a", "source_id": "0" * 64, "window": 2, "source_prompt": "x"}


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Seconds that were slept, without sleeping them."""
    slept: list[float] = []
    monkeypatch.setattr("time.sleep", slept.append)
    return slept


def failing(*raised: Exception) -> tuple[Any, list[int]]:
    """A step that raises these, one a call, then succeeds; and the list of its calls."""
    left, calls = iter(raised), []

    def step(record: Record) -> Record:
        calls.append(len(calls) + 1)
        for error in left:
            raise error
        return record | {"done": True}

    return step, calls


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (errors.NotAVideo("a.mp4", "no container", "remove it"), ("bad_input", False)),
        (errors.BadSpec("no"), ("bad_input", False)),
        (errors.StorageError("away"), ("storage", True)),
        (errors.CorruptObject("flipped"), ("storage", False)),
        (errors.ModelError("no"), ("model", False)),
        (MemoryError(), ("out_of_memory", False)),
        (torch.OutOfMemoryError("CUDA out of memory"), ("out_of_memory", False)),
        (OSError(errno.EIO, "Input/output error"), ("storage", True)),
        (ConnectionResetError(), ("storage", True)),
        (TimeoutError(), ("storage", True)),
        (ValueError("no"), ("bug", False)),
        (KeyError("x"), ("bug", False)),
    ],
)
def test_kinds(error: Exception, expected: tuple[str, bool]) -> None:
    """Ours say so themselves; memory is memory, the system's errors are the store's, all else is a bug."""
    assert kind_of(error) == expected


def test_success_is_handed_through(pauses: list[float]) -> None:
    """One call, no pause, the step's own record."""
    step, calls = failing()
    assert attempt(step, CLIP, "encode", retries=5) == CLIP | {"done": True}
    assert calls == [1] and pauses == []


@pytest.mark.parametrize("retries", [0, 1, 3])
def test_what_may_pass_is_tried_again(pauses: list[float], retries: int) -> None:
    """`retries` times more, waiting about twice as long each time; then it is a failure with the number of tries."""
    step, calls = failing(*[errors.StorageError("away")] * 10)
    record = attempt(step, CLIP, "edit", retries)
    assert len(calls) == retries + 1 == record["attempts"]
    assert len(pauses) == retries
    for tried, seconds in enumerate(pauses):
        assert 0.5 * 2**tried <= seconds <= 1.5 * 2**tried


def test_the_second_try_may_succeed(pauses: list[float]) -> None:
    """Then there is no failure, and the record is the step's."""
    step, calls = failing(OSError("reset"))
    assert attempt(step, CLIP, "encode", 2) == CLIP | {"done": True}
    assert calls == [1, 2] and len(pauses) == 1


@pytest.mark.parametrize("error", [ValueError("bug"), MemoryError(), errors.EmptyClip("a.mp4", "empty", "remove it")])
def test_what_can_not_pass_is_tried_once(pauses: list[float], error: Exception) -> None:
    """No pause, one try, also when it comes after an error that could pass."""
    step, calls = failing(error, error)
    assert attempt(step, CLIP, "encode", 5)["attempts"] == 1 and calls == [1]
    step, calls = failing(errors.StorageError("away"), error)
    record = attempt(step, CLIP, "encode", 5)
    assert (calls, record["attempts"], record["error"]) == ([1, 2], 2, type(error).__name__)
    assert len(pauses) == 1


def test_a_failure_is_not_worked_on(pauses: list[float]) -> None:
    """It goes through the later stages as it is, and keeps the stage it failed in."""
    step, calls = failing()
    failed = failure(CLIP, "encode", ValueError("x"), 1)
    assert is_failure(failed) and attempt(step, failed, "edit") is failed and calls == []
    assert not is_failure(CLIP)


def test_a_failure_keeps_what_the_error_table_shows() -> None:
    """Clip, window, stage, class, kind, a bounded message, and the timings of the stages before; all of it JSON."""
    timings = [{"stage": "encode", "seconds": 1.0, "reused": False, "evaluations": 0}]
    record = failure(CLIP | {"timings": timings}, "invert", errors.StorageError("x" * 9_000), 3)
    assert record == {
        "clip": "a.mp4",
        "name": "a",
        "source_id": "0" * 64,
        "window": 2,
        "stage": "invert",
        "error": "StorageError",
        "kind": "storage",
        "message": "x" * failures.MESSAGE_CHARS,
        "attempts": 3,
        "retryable": True,
        "timings": timings,
    }
    assert json.loads(json.dumps(record)) == record


def test_an_error_without_words_has_its_class_for_a_message() -> None:
    """An empty message would leave a reader with nothing."""
    assert failure(CLIP, "edit", MemoryError(), 1)["message"] == "MemoryError"


def test_a_stop_ends_the_wait_before_another_try() -> None:
    """Whoever waits is given the seconds, and what it raises ends the attempt at once."""
    step, calls = failing(*[errors.StorageError("away")] * 3)
    waited = []

    def wait(seconds: float) -> None:
        waited.append(seconds)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        attempt(step, CLIP, "edit", 2, 60.0, wait)
    assert calls == [1] and 30 <= waited[0] <= 90


def test_no_wait_is_longer_than_a_minute_and_a_half(pauses: list[float]) -> None:
    """Doubling stops at 60 seconds, which are spread by half."""
    step, _ = failing(*[errors.StorageError("away")] * 20)
    attempt(step, CLIP, "edit", 10)
    assert len(pauses) == 10 and 30 <= max(pauses) <= 90 and all(30 <= seconds <= 90 for seconds in pauses[6:])


def test_lost_workers_of_a_cluster_may_be_had_again() -> None:
    """Dask's own classes, which the core knows by name: cancelled, and tried again by the next run."""
    distributed = pytest.importorskip("distributed")
    lost = distributed.scheduler.KilledWorker("task", None, 4)
    for error in (lost, distributed.client.FutureCancelledError("key", "lost"), CancelledError()):
        assert kind_of(error) == ("cancelled", True)


@pytest.mark.parametrize("signal", [KeyboardInterrupt, SystemExit])
def test_a_stop_is_no_failure(signal: type[BaseException]) -> None:
    """Cancelling a run must end it, not turn into an error of one clip."""

    def step(record: Record) -> Record:
        raise signal

    with pytest.raises(signal):
        attempt(step, CLIP, "edit", 3)


def failed(message: str, **more: Any) -> Record:
    return failure(CLIP | {"clip": "a.mp4"}, "encode", errors.ModelError(message), 1) | more


@pytest.mark.parametrize(
    ("records", "ends"),
    [
        ([failed("the VAE gave 1 NaN")] * 3, True),
        (
            [failed("clip 'a.mp4' at 1.5"), failed("clip 'b.mp4' at 22.75", clip="b.mp4"), failed("clip 'a.mp4' at 0")],
            True,
        ),
        ([failed("no"), failed("no")], False),
        ([failed("no"), failed("no"), failed("another")], False),
        ([failed("no"), CLIP, failed("no"), failed("no"), failed("no")], False),
        ([failed("no", kind="bad_input")] * 9, False),
        ([failed("no", parked=True)] * 9, False),
        ([failed("no"), failed("no", stage="edit"), failed("no")], False),
    ],
)
def test_a_run_is_hopeless_when_its_first_clips_fail_alike(records: list[Record], ends: bool) -> None:
    """Three alike, the first ones of the run, whatever their names and numbers, and not for what is the clips' own."""
    watch = failures.SameFailure(3)
    watch.add(records)
    assert bool(watch.sentence) == ends
    if ends:
        assert "first 3 clips" in watch.sentence and "stage encode" in watch.sentence
    never = failures.SameFailure(0)
    never.add(records)
    assert not never.sentence
