"""Reading a committed trajectory: one range request a level, checked against that level's sha256."""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor

from cogvideo_core.errors import BadSpec, CorruptObject
from cogvideo_core.storage.codecs import decompress, stands_alone
from cogvideo_core.storage.layout import Layout

if TYPE_CHECKING:
    from cogvideo_core.storage.objects import Objects

_REMEDY = "run again with verify='full', which sets it aside and inverts the clip anew"


class Ahead:
    """level -> state, as `read` gives it; while one state is in use, a thread reads the next one of `order`.

    Levels outside the order, or asked for again, work too. At most two states are held: the last one given out, which
    must not be changed in place, and the one read ahead. Only one thread may ask; closing waits for the reader.
    """

    def __init__(self, read: Callable[[int], Tensor], order: Iterable[int]) -> None:
        self._read, self._order = read, deque(order)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="trajectory")
        self._last: tuple[int, Tensor] | None = None
        self._pending: tuple[int, Future[Tensor]] | None = None
        self._submit()

    def __enter__(self) -> Ahead:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)
        self._last = self._pending = None

    def __call__(self, level: int) -> Tensor:
        if self._last is None or self._last[0] != level:
            self._last = None
            self._last = level, self._take(level)
        return self._last[1]

    def _take(self, level: int) -> Tensor:
        if self._pending is None or self._pending[0] != level:
            return self._read(level)
        future, self._pending = self._pending[1], None
        state = future.result()
        del future  # it would keep the state alive while the next is read
        self._submit()
        return state

    def _submit(self) -> None:
        if self._order:
            level = self._order.popleft()
            self._pending = level, self._pool.submit(self._read, level)


class Trajectory:
    """The states of one inversion on disk. `timesteps` and `shape` [N+1,f,C,h,w] count all levels; `levels` names
    those that are stored. Threads may share one."""

    def __init__(self, objects: Objects, key: str, names: Mapping[str, str], record: Mapping[str, Any], verify: bool):
        self.key, self.verify = key, verify
        self._objects, self._names = objects, dict(names)
        self._steps = {int(step["level"]): step for step in record["steps"]}
        shape, timesteps = tuple(record["shape"]), tuple(record["timesteps"])
        self._layout = Layout(record["dtype"], shape, timesteps, tuple(sorted(self._steps)), record["codec"])
        self._known: tuple[int, np.ndarray] | None = None  # the xored level read last, as plain bits

    @property
    def shape(self) -> tuple[int, ...]:
        return self._layout.shape

    @property
    def timesteps(self) -> tuple[int, ...]:
        return self._layout.timesteps

    @property
    def levels(self) -> tuple[int, ...]:
        return self._layout.levels

    def read(self, level: int) -> Tensor:
        """The state at a level, float32 [f,C,h,w] on the CPU; reads that level's bytes only.

        Raises BadSpec for a level that isn't stored, CorruptObject for bytes that are not what was committed.
        """
        step = self._steps.get(level)
        if step is None:
            raise BadSpec(f"trajectory {self.key}: level {level} isn't stored; use one of {list(self.levels)}")
        if not self._layout.codec.startswith("xor"):
            return self._layout.decode(self._plain(step))
        state = self._layout.decode(self._unxored(level))
        return state.clone() if self._layout.dtype == "float32" else state  # the bits are kept for the next level

    def stream(self, levels: Iterable[int] | None = None) -> Iterator[tuple[int, Tensor]]:
        """(level, state) in the given order, noisiest first by default; the next one is read meanwhile in a thread."""
        order = list(reversed(self.levels) if levels is None else levels)
        with Ahead(self.read, order) as state_at:
            for level in order:
                yield level, state_at(level)

    def _unxored(self, level: int) -> np.ndarray:
        """Bits of a level: from noise to clean each takes one read, out of order one for each level above it."""
        known, alone = self._known, stands_alone(level, self.levels)
        chain = [level] if alone else [above for above in reversed(self.levels) if above >= level]
        bits: np.ndarray | None = None
        if known is not None and known[0] in chain:
            bits, chain = known[1], chain[chain.index(known[0]) + 1 :]
        del known
        for each in chain:
            fresh = self._plain(self._steps[each])
            bits = fresh if bits is None else np.bitwise_xor(fresh, bits, out=fresh)
        assert bits is not None
        self._known = level, bits
        return bits

    def _plain(self, step: Mapping[str, Any]) -> np.ndarray:
        raw = self._bytes(step)
        if self._layout.codec == "none":
            return raw
        try:
            return decompress(raw, self._layout.step_bytes)
        except ValueError as error:
            raise self._corrupt(step, str(error)) from None

    def _bytes(self, step: Mapping[str, Any]) -> np.ndarray:
        start, size = int(step["offset"]), int(step["size"])
        try:
            raw = self._objects.read_range(self._names[step["object"]], start, size)
        except FileNotFoundError:
            raise self._corrupt(step, "is missing") from None
        if len(raw) != size:
            raise self._corrupt(step, f"ends early ({len(raw)} bytes of {size})")
        if self.verify and hashlib.sha256(raw.data).hexdigest() != step["sha256"]:
            raise self._corrupt(step, "does not match its sha256")
        return raw

    def _corrupt(self, step: Mapping[str, Any], problem: str) -> CorruptObject:
        where = f"trajectory {self.key}: level {step['level']} of {step['object']!r}"
        return CorruptObject(f"{where} {problem}; {_REMEDY}")
