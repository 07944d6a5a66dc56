"""Where the VAE of a loaded model computes: in turn with the transformer, or beside it on a CUDA stream of its own.

Two batches share a model. In turn, one waits while the other's edits are decoded; beside, these are decoded while it is
denoised. Tensors pass from stream to stream by way of the CPU, so that no stream has to wait for another. Either way
the same is computed; what both need at once must fit into memory.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any

import torch
from torch import Tensor

Stream = Callable[[], AbstractContextManager[Any]]


class Clock:
    """Seconds in which anything computes, however many things do at a time."""

    def __init__(self) -> None:
        self._lock, self._running, self._since, self._seconds = threading.Lock(), 0, 0.0, 0.0

    @property
    def seconds(self) -> float:
        return self._seconds

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        with self._lock:
            self._since = self._since if self._running else time.perf_counter()
            self._running += 1
        try:
            yield
        finally:
            with self._lock:
                self._running -= 1
                self._seconds += 0.0 if self._running else time.perf_counter() - self._since


class Lane:
    """One holder at a time. In turn, its lock is the transformer's; beside it, a lock and a stream of its own."""

    def __init__(self, turn: threading.RLock, clock: Clock, stream: Stream | None = None) -> None:
        """turn: the transformer's lock. stream: what the lane computes in beside it; None: in turn."""
        self._turn, self._clock, self._stream = turn, clock, stream
        self._lock = turn if stream is None else threading.RLock()

    @property
    def beside(self) -> bool:
        return self._stream is not None

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Waits for the lane; nothing made inside may leave it but through the CPU."""
        while True:
            lock = self._lock
            with lock:
                if lock is not self._lock:  # the lane was left while this waited
                    continue
                with self._clock.running(), self._stream() if self._stream else contextlib.nullcontext():
                    yield
                return

    def crossing(self, x: Tensor) -> Tensor:
        """x where the lane can read it: on the CPU if its stream is another."""
        return x.cpu() if self.beside else x

    def leave(self) -> str:
        """From now on in turn, after what is computing here: memory does not suffice for both. In words."""
        with self._lock:
            self._stream, self._lock = None, self._turn
        return "the VAE and the transformer in turn"


def stream_on(device: torch.device) -> Stream:
    """A stream of its own on a GPU; on a CPU, which has none, nothing."""
    if device.type != "cuda":
        return contextlib.nullcontext
    return partial(torch.cuda.stream, torch.cuda.Stream(device))
