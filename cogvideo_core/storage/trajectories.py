"""Trajectories on disk: every state of an inversion, written as it comes and read one level at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib import import_module
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

from torch import Tensor

from cogvideo_core.errors import BadSpec
from cogvideo_core.storage.codecs import CODECS, Planes, compress, xored
from cogvideo_core.storage.layout import DTYPES, Layout, Unrepresentable, make_layout
from cogvideo_core.storage.reader import Ahead, Trajectory
from cogvideo_core.storage.virtual import NoisedTrajectory

if TYPE_CHECKING:
    from cogvideo_core.storage.ledger import Commit, Ledger

__all__ = [
    "CODECS",
    "CONTAINERS",
    "DTYPES",
    "Ahead",
    "Step",
    "Trajectory",
    "Unrepresentable",
    "open_trajectory",
    "write_trajectory",
]

CONTAINERS = ("arrow", "zarr")


class Step(TypedDict):
    """One stored level: where its bytes lie in the object (a logical file name) and what they must hash to."""

    level: int
    timestep: int
    object: str
    offset: int
    size: int
    sha256: str


def write_trajectory(
    folder: Path,
    states: Iterable[Tensor],
    timesteps: Sequence[int],
    dtype: str = "float16",
    container: str = "arrow",
    levels: Sequence[int] | None = None,
    codec: str = "none",
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Stream the states of an inversion into local files under `folder`, holding no more than two at a time.

    Args:
        states: N+1 tensors [f,C,h,w], level 0 = clean, ascending noise; those above the last kept level may be
            left out.
        timesteps: their N+1 timesteps, ascending, timesteps[0] == -1.
        levels: those to keep; None keeps all.
        codec: one of `CODECS`; all give back the same bits.

    Returns (files for `Ledger.commit`, record with shape [N+1,f,C,h,w], dtype, container, codec, timesteps and a table
    of steps). Raises BadSpec for settings or states that don't fit together, ModelError for NaN or infinity, and
    Unrepresentable for values that `dtype` can't hold.
    """
    check_container(container, codec)
    write: Callable[..., Any] = import_module(f"cogvideo_core.storage.{container}").write
    iterator = iter(states)
    first = next(iterator, None)
    if first is None:
        raise BadSpec("trajectory: no states; give one for each timestep")
    layout, stored = make_layout(first, timesteps, dtype, levels, codec), list[tuple[int, str]]()
    planes = _stored(_planes(chain([first], iterator), layout), layout, stored)
    del first  # or the first state would live as long as the whole inversion
    folder.mkdir(parents=True, exist_ok=True)
    files, offsets = write(folder, layout, planes)
    return files, _record(layout, container, _steps(layout, next(iter(files)), offsets, stored))


def check_container(container: str, codec: str) -> None:
    """Raises BadSpec for a container that is not known, or that can't hold the codec."""
    if container not in CONTAINERS:
        raise BadSpec(f"container {container!r}: not known; use one of {', '.join(CONTAINERS)}")
    if container == "zarr" and codec.startswith("xor"):
        raise BadSpec(f"codec {codec!r}: no other reader of a Zarr array would know it; use container='arrow'")


def _planes(states: Iterator[Tensor], layout: Layout) -> Planes:
    """(level, bits) of the levels to keep; no states are needed above the last of them. Raises BadSpec for a wrong
    number or shape."""
    for level in count():
        state = next(states, None)
        if state is None and level > max(layout.levels):
            return
        if (state is None) != (level == layout.shape[0]):
            few = "fewer" if state is None else "more"
            raise BadSpec(f"trajectory: {few} states than its {layout.shape[0]} timesteps; give one for each")
        assert state is not None
        if tuple(state.shape) != layout.shape[1:]:
            raise BadSpec(f"trajectory level {level}: shape {tuple(state.shape)}, not {layout.shape[1:]} as before")
        if level in layout.levels:
            bits = layout.encode(state, level)
            del state
            yield level, bits


def _stored(planes: Planes, layout: Layout, stored: list[tuple[int, str]]) -> Planes:
    """(level, its written form); (bytes, sha256) of each go to `stored`."""
    for level, bits in xored(planes) if layout.codec.startswith("xor") else planes:
        payload = bits if layout.codec == "none" else compress(bits)
        stored.append((payload.nbytes, hashlib.sha256(payload.data).hexdigest()))
        yield level, payload


def _steps(layout: Layout, name: str, offsets: list[int], stored: list[tuple[int, str]]) -> list[Step]:
    rows = zip(layout.levels, offsets, stored, strict=True)
    return [
        Step(level=j, timestep=layout.timesteps[j], object=name, offset=at, size=size, sha256=digest)
        for j, at, (size, digest) in rows
    ]


def _record(layout: Layout, container: str, steps: list[Step]) -> dict[str, Any]:
    return {
        "kind": "states",
        "container": container,
        "codec": layout.codec,
        "dtype": layout.dtype,
        "shape": list(layout.shape),
        "timesteps": list(layout.timesteps),
        "steps": steps,
    }


def open_trajectory(ledger: Ledger, commit: Commit, verify: bool = True) -> Trajectory:
    """The trajectory of a commit; `verify` checks each level's sha256 when it is read.

    Raises BadSpec for a commit that isn't a trajectory this version can read.
    """
    record = commit.record
    codec, dtype = record.get("codec") in CODECS, record.get("dtype") in DTYPES
    if record.get("kind") not in ("states", "noised") or not codec or not dtype:
        raise BadSpec(f"{commit.stage} {commit.key}: not a trajectory this version can read; invert the clip anew")
    names = {name: ledger.object_name(commit, name) for name in commit.files}
    if record["kind"] == "noised":
        return NoisedTrajectory(ledger.objects, commit.key, names, record, verify)
    return Trajectory(ledger.objects, commit.key, names, record, verify)
