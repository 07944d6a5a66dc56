"""A clip's error becomes a record, not an exception; those that may pass by themselves are retried."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterable
from typing import Any

import pyarrow as pa

from cogvideo_core.errors import EditError, one_line
from cogvideo_core.models.memory import ran_out_of_memory
from cogvideo_core.storage.uris import unsigned

Record = dict[str, Any]
MESSAGE_CHARS = 500
ERROR_FIELDS: dict[str, pa.DataType] = {
    "clip": pa.string(),
    "stage": pa.string(),
    "error": pa.string(),
    "kind": pa.string(),
    "message": pa.string(),
    "attempts": pa.int32(),
    "retryable": pa.bool_(),
    "source_id": pa.string(),
    "window": pa.int32(),
    "parked": pa.bool_(),
}
"""Columns of the error table."""
STAGES = ("discover", "screen", "encode", "invert", "edit", "collect")


def is_failure(record: Record) -> bool:
    return "error" in record


LONGEST_PAUSE_S = 60.0
LOST_WORKERS = ("KilledWorker", "CancelledError", "FutureCancelledError")  # of Dask, which the core does not import


def kind_of(error: Exception) -> tuple[str, bool]:
    """(kind, retryable) of any exception."""
    if isinstance(error, EditError):
        return error.kind, error.retryable
    if ran_out_of_memory(error):
        return "out_of_memory", False
    if isinstance(error, OSError):
        return "storage", True
    if type(error).__name__ in LOST_WORKERS:
        return "cancelled", True
    return "bug", False


def failure(clip: Record, stage: str, error: Exception, attempts: int) -> Record:
    """The row of the error table."""
    kind, retryable = kind_of(error)
    own_stage = error.stage if isinstance(error, EditError) else ""
    names = ("source_id", "clip", "name", "window", *(("of", "whole") if "of" in clip else ()))  # of a clip's windows
    kept = {name: clip[name] for name in names if name in clip}
    return kept | {
        "stage": own_stage or stage,
        "error": type(error).__name__,
        "kind": kind,
        "message": one_line(unsigned(str(error)))[:MESSAGE_CHARS] or type(error).__name__,
        "attempts": attempts + clip.get("attempts_before", 0),
        "retryable": retryable,
        "timings": clip.get("timings", []),
    }


def attempt(
    step: Callable[[Record], Record],
    clip: Record,
    stage: str,
    retries: int = 0,
    pause_s: float = 1.0,
    wait: Callable[[float], None] | None = None,
) -> Record:
    """step(clip), or a failure record. Retryable errors are tried `retries` times more, waiting longer each time.

    `wait(seconds)` replaces time.sleep, and may stop everything by raising what is no Exception.
    """
    if is_failure(clip):
        return clip
    for tried in range(1, retries + 2):
        try:
            return step(clip)
        except Exception as error:
            if tried > retries or not kind_of(error)[1]:
                return failure(clip, stage, error, tried)
            (wait or time.sleep)(min(pause_s * 2 ** (tried - 1), LONGEST_PAUSE_S) * random.uniform(0.5, 1.5))
    raise AssertionError("unreachable: the last try returns")


NOT_THE_CLIPS_OWN = ("model", "out_of_memory", "storage", "bug")


class SameFailure:
    """Whether a run's first `after` clips all failed for one reason that is not the clips' own.

    `sentence` says so once it is known; "" until then, and for good once a clip succeeds or fails otherwise.
    """

    def __init__(self, after: int) -> None:
        self.after, self.alike, self.reason, self.sentence = after, 0, "", ""

    def add(self, records: Iterable[Record]) -> None:
        for record in records:
            if self.after and not self.sentence and not record.get("parked"):
                self._add(record)

    def _add(self, record: Record) -> None:
        reason = _reason(record)
        if not reason or (self.reason and reason != self.reason):
            self.after = 0
            return
        self.reason, self.alike = reason, self.alike + 1
        if self.alike == self.after:
            self.sentence = (
                f"the first {self.alike} clips all failed in the stage {record['stage']} for the same reason, so the "
                f"run was ended: {record['message']}"
            )


def _reason(record: Record) -> str:
    """Stage, class and sentence of a failure without the clip's name and numbers; "" for the clip's own failures."""
    if not is_failure(record) or record["kind"] not in NOT_THE_CLIPS_OWN:
        return ""
    message = record["message"].replace(str(record.get("clip", "")), "").replace(str(record.get("name", "")), "")
    return f"{record['stage']} {record['error']} {re.sub(r'[0-9a-f]*[0-9][0-9a-f.]*', '#', message)}"
