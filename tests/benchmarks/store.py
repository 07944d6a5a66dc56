"""How fast and how small trajectories are stored, beside plain torch, safetensors and Zarr; what a stored dtype costs.

    python tests/benchmarks/store.py                  # the tables of docs/storage.md
    python tests/benchmarks/store.py --fs file        # without the S3 server
    python tests/benchmarks/store.py --levels 11      # a smaller trajectory

Speeds: latents of 49 frames 480x720 (13x16x60x90) at 51 levels as float16, made of smooth noise; MB/s of those bits,
best of the rounds, all containers in turn in each round. A read gives float32 in memory of its own, noisiest level
first. Sizes and losses: trajectories of the shapes model. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
import shutil
import statistics
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import torch
import zarr
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from zarr.storage import FsspecStore

from cogvideo_core.diffusion import editing
from cogvideo_core.diffusion.inversion import invert
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.models.model import VideoModel, load
from cogvideo_core.settings.specs import InversionSpec, ModelSpec, RecipeSpec
from cogvideo_core.shapes import world
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.storage.trajectories import CODECS, DTYPES, open_trajectory, write_trajectory
from cogvideo_core.storage.virtual import virtual_record

sys.path.insert(0, str(Path(__file__).parents[1]))
import s3_servers

SHAPE = (13, 16, 60, 90)
ROUNDS = 5
STEP_TFLOP = 1322  # of a guided step of one edit with CogVideoX-5B, 2 (L + 2A) + L + A of docs/performance.md
PEAK_TFLOPS = 989  # dense bfloat16 products of an H100: no edit loop on one is faster
OURS = [("arrow", codec) for codec in CODECS] + [("zarr", codec) for codec in CODECS[:2]] + [("virtual", "none")]
Row = dict[str, Any]
Read = Callable[[int], Tensor]


def made_up(levels: int) -> list[Tensor]:
    """States of float16: a smooth clean one under one noise, as an inversion gives them."""
    generator = torch.Generator().manual_seed(0)
    x_0, noise = torch.randn(SHAPE, generator=generator), torch.randn(SHAPE, generator=generator)
    x_0 = 3 * torch.nn.functional.avg_pool2d(x_0, 5, 1, 2)
    angles = [math.pi / 2 * level / (levels - 1) for level in range(levels)]
    return [(math.cos(angle) * x_0 + math.sin(angle) * noise).half() for angle in angles]


def write_ours(states: list[Tensor], place: str, container: str, codec: str) -> tuple[Read, Read, int]:
    """Committed under `place`. Returns (read unverified, read verified, bytes stored)."""
    ledger, key = Ledger(place), uuid.uuid4().hex * 2
    virtual, timesteps = container == "virtual", (-1, *range(len(states) - 1))
    with tempfile.TemporaryDirectory() as folder:
        kept = [0] if virtual else None
        packed = "arrow" if virtual else container
        files, record = write_trajectory(Path(folder), states, timesteps, "float16", packed, kept, codec)
        if virtual:
            record = virtual_record(record, Schedule(timesteps, tuple(0.03 * level for level in range(len(states)))))
        commit = ledger.commit("trajectories", key, files, {}, record)
    size = sum(stored.size for stored in commit.files.values())
    trusting, checking = (open_trajectory(ledger, commit, verify=verify) for verify in (False, True))
    return trusting.read, checking.read, size


def write_plain(states: list[Tensor], place: str, container: str, codec: str) -> tuple[Read, Read, int]:
    """What one would write by hand; on S3, torch and safetensors fetch the whole file before its first level."""
    fs, path = fsspec.core.url_to_fs(f"{place}/{uuid.uuid4().hex}")
    if container == "zarr, bare":
        return _bare_zarr(states, place if "://" in place else path)
    remote, file = "://" in place, Path(tempfile.mkdtemp()) / "states"
    named = {str(level): state for level, state in enumerate(states)}
    local = file if remote else Path(path)
    local.parent.mkdir(parents=True, exist_ok=True)
    save_file(named, local) if container == "safetensors" else torch.save(named, local)
    if remote:
        fs.put_file(str(local), path)
    first = len(states) - 1
    opened: dict[str, Any] = {}

    def read(level: int) -> Tensor:
        if level == first:
            if remote:
                fs.get_file(path, str(local))
            opened["file"] = safe_open(local, "pt") if container == "safetensors" else torch.load(local, mmap=True)
        source = opened["file"]
        tensor = source.get_tensor(str(level)) if container == "safetensors" else source[str(level)]
        return tensor.clone().float()  # both map the file: the clone brings it into memory

    return read, read, local.stat().st_size


def _bare_zarr(states: list[Tensor], place: str) -> tuple[Read, Read, int]:
    store: Any = f"{place}-bare"
    if "://" in place:
        options = fsspec.config.conf["s3"] | {"asynchronous": True}
        store = FsspecStore.from_url(f"{place}/{uuid.uuid4().hex}", storage_options=options)
    shape = (len(states), *SHAPE)
    array = zarr.create_array(store, shape=shape, chunks=(1, *SHAPE), dtype="float16", compressors=None, overwrite=True)
    for level, state in enumerate(states):
        array[level] = state.numpy()

    def read(level: int) -> Tensor:
        return torch.from_numpy(np.asarray(array[level])).float()

    return read, read, sum(state.nbytes for state in states)


def seconds(read: Read, levels: int) -> float:
    started = time.perf_counter()
    for level in reversed(range(levels)):
        read(level)
    return time.perf_counter() - started


def measured(states: list[Tensor], place: str, rounds: int) -> tuple[list[Row], float]:
    """A row for each container, and the median over the rounds of safetensors' read time over ours."""
    bits = sum(state.nbytes for state in states)
    plain = [(name, "none") for name in ("safetensors", "torch", "zarr, bare")]
    times: dict[tuple[str, str], list[tuple[float, float, float]]] = {}
    sizes: dict[tuple[str, str], int] = {}
    for turn in range(rounds):
        for kind in [*plain, *OURS]:
            write = write_plain if kind in plain else write_ours
            started = time.perf_counter()
            trusting, checking, sizes[kind] = write(states, f"{place}/{turn}", *kind)
            wrote = time.perf_counter() - started
            read = seconds(trusting, len(states)), seconds(checking, len(states))
            times.setdefault(kind, []).append((wrote, *read))
        if "://" not in place:
            shutil.rmtree(f"{place}/{turn}")
    rows = []
    for (container, codec), found in times.items():
        wrote, read, checked = (bits / 1e6 / min(column) for column in zip(*found, strict=True))
        row = {"container": container, "codec": codec, "fs": "s3" if "://" in place else "file"}
        row |= {"size_ratio": sizes[container, codec] / bits, "write_mb_s": wrote, "step_read_mb_s": read}
        rows.append(row | ({"verified_read_mb_s": checked} if (container, codec) in OURS else {}))
    pairs = zip(times["safetensors", "none"], times["arrow", "none"], strict=True)
    return rows, statistics.median(theirs[1] / ours[1] for theirs, ours in pairs)


def trajectories(model: VideoModel, clips: int) -> Iterator[tuple[world.Scene, list[Tensor]]]:
    settings = InversionSpec(steps=50)
    for seed in range(clips):
        scene = world.scene_from_seed(100 + seed)
        velocity = model.one_row(model.embed([scene.combination.caption()]))
        schedule = model.schedule(settings.steps)
        yield scene, list(invert(velocity, model.encode(world.render(scene)), schedule, settings))


def stored_sizes(states: list[Tensor]) -> Iterator[tuple[str, str, float]]:
    """(dtype, codec, bytes of the levels over those of their bits) of a real trajectory."""
    for dtype in DTYPES:
        bits = sum(state.numel() * torch.zeros(0, dtype=DTYPES[dtype][0]).element_size() for state in states)
        for codec in CODECS:
            with tempfile.TemporaryDirectory() as folder:
                steps = [-1, *range(len(states) - 1)]
                _, record = write_trajectory(Path(folder), states, steps, dtype, codec=codec)
            yield dtype, codec, sum(step["size"] for step in record["steps"]) / bits


def edited(model: VideoModel, scene: world.Scene, states: list[Tensor], dtype: str) -> Tensor:
    """Clean latents of one edit whose trajectory was stored so."""
    kept = [state.to(DTYPES[dtype][0]).float() for state in states]
    colour = next(name for name in world.COLOURS if name not in scene.combination.caption())
    text = model.embed([scene.edited(colour=colour).combination.caption(), "", scene.combination.caption()])
    texts, recipe = editing.Texts(text[:1], text[1:2], text[2:]), RecipeSpec()
    schedule = model.schedule(len(states) - 1)
    start = editing.start_latents(recipe, schedule, kept.__getitem__, 0)[None]
    *_, last = editing.edit(model.velocity, start, texts, kept.__getitem__, schedule, recipe, model.layers)
    return last[0]


def losses(model: VideoModel, scene: world.Scene, states: list[Tensor]) -> list[Row]:
    """What a stored dtype does to an edit, against float32."""
    exact = edited(model, scene, states, "float32")
    frames, rows = model.decode(exact).astype(np.float64), []
    for dtype in ("float16", "bfloat16"):
        found = edited(model, scene, states, dtype)
        error = float((model.decode(found).astype(np.float64) - frames).__pow__(2).mean())
        psnr = 10 * math.log10(255**2 / error) if error else math.inf
        rows.append({"dtype": dtype, "relative_error": float((found - exact).norm() / exact.norm()), "psnr_db": psnr})
    return rows


def print_table(title: str, rows: list[Row]) -> None:
    print(f"\n{title}\n")
    names = list(dict.fromkeys(name for row in rows for name in row))
    print(f"| {' | '.join(names)} |\n|{'---|' * len(names)}")
    for row in rows:
        cells = (f"{v:.4g}" if isinstance(v := row.get(name, ""), float) else str(v) for name in names)
        print(f"| {' | '.join(cells)} |")


def print_speeds(args: argparse.Namespace) -> Row:
    states, rows, ratios = made_up(args.levels), [], {}
    with tempfile.TemporaryDirectory() as folder:
        (root := Path(folder) / "server").mkdir()
        server = s3_servers.seaweed(root) if "s3" in args.fs else nullcontext({})
        with server as options:
            fsspec.config.conf["s3"] = options
            for fs, place in (("file", f"{folder}/run"), ("s3", f"s3://{s3_servers.BUCKET}/bench")):
                if fs in args.fs:
                    found, ratios[fs] = measured(states, place, args.rounds if fs == "file" else 2)
                    rows += found
    print_table(f"{args.levels} levels of {math.prod(SHAPE) * 2 / 1e6:.2f} MB", rows)
    consumed = math.prod(SHAPE) * 2 / 1e6 / (STEP_TFLOP / PEAK_TFLOPS)  # one level a step
    verified = {
        row["fs"]: row["verified_read_mb_s"] for row in rows if (row["container"], row["codec"]) == ("arrow", "none")
    }
    result = {"rows": rows, "read_vs_safetensors": ratios.get("file"), "edit_loop_mb_s": consumed}
    return result | {"verified_vs_edit_loop": {fs: rate / consumed for fs, rate in verified.items()}}


def print_shapes(args: argparse.Namespace) -> Row:
    model, sizes, lost = load(ModelSpec()), {}, []
    for index, (scene, states) in enumerate(trajectories(model, args.clips)):
        for dtype, codec, ratio in stored_sizes(states):
            sizes.setdefault((dtype, codec), []).append(ratio)
        lost += losses(model, scene, states) if index < 2 else []
    rows = [{"dtype": dtype, "codec": codec, "size_ratio": statistics.mean(r)} for (dtype, codec), r in sizes.items()]
    by = {(row["dtype"], row["codec"]): row["size_ratio"] for row in rows}
    saved = {dtype: 1 - by[dtype, "xor-shuffle-zstd"] / by[dtype, "shuffle-zstd"] for dtype in DTYPES}
    print_table(f"Trajectories of {args.clips} clips of the shapes model: bytes over bytes without codec", rows)
    print_table("Edits from a rounded trajectory against those from a float32 one", lost)
    return {"sizes": rows, "xor_saves": saved, "dtype_loss": lost}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--fs", nargs="*", default=["file", "s3"], choices=["file", "s3"])
    parser.add_argument("--levels", type=int, default=51)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    parser.add_argument("--clips", type=int, default=4)
    args = parser.parse_args()
    print(json.dumps(print_speeds(args) | print_shapes(args)))


if __name__ == "__main__":
    main()
