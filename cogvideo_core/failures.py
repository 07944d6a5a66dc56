"""One clip's trouble becomes a record, not an exception; what may pass by itself is tried again first."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from typing import Any

import torch

from cogvideo_core.errors import EditError
from cogvideo_core.uris import unsigned

Record = dict[str, Any]
MESSAGE_CHARS = 500
STAGES = ("discover", "encode", "invert", "edit", "collect")


def is_failure(record: Record) -> bool:
    return "error" in record


LONGEST_PAUSE_S = 60.0
LOST_WORKERS = ("KilledWorker", "CancelledError", "FutureCancelledError")  # of Dask, which the core does not import
OUT_OF_MEMORY = ("DefaultCPUAllocator", "can't allocate memory", "CUBLAS_STATUS_ALLOC_FAILED", "CUDA out of memory")


def ran_out_of_memory(error: Exception) -> bool:
    """Whether memory was too small, on the GPU or on the CPU, where torch says so in words alone."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in OUT_OF_MEMORY)


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
    kept = {name: clip[name] for name in ("source_id", "clip", "name", "window") if name in clip}
    return kept | {
        "stage": stage,
        "error": type(error).__name__,
        "kind": kind,
        "message": unsigned(str(error))[:MESSAGE_CHARS] or type(error).__name__,
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

    `wait(seconds)` may end the wait, and all, by raising what is no Exception; without it, it is slept.
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
