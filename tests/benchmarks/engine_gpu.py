"""The GPU's part of `engine.py`: full-size models with random weights, timed on one card.

    python tests/benchmarks/engine.py --gpu-only
    python tests/benchmarks/engine.py --tiny     # the same way on the CPU, with miniatures; its figures say nothing

A transformer's step takes a second or more there, so each kind of call is timed once, after one of its kind with a
single edit; whole jobs are put together from these times. The most telling parts come first. A part that has not begun
when the minutes are over is left out, one that fails is told and does not stop the others, and each row is printed when
it is there.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any
from unittest import mock

import torch
from torch import Tensor

from cogvideo_core.diffusion import attention, editing
from cogvideo_core.diffusion.guidance import guided_steps, window
from cogvideo_core.diffusion.inversion import evaluations
from cogvideo_core.models import compiling, memory
from cogvideo_core.models.lane import Clock, Lane, stream_on
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.presets import PRESET_INVERSIONS, PRESETS
from cogvideo_core.stages.gate import gate_evaluations
from cogvideo_core.study import flops
from cogvideo_core.study.flops import SCRIPT, SHARED, given, shared

Row = dict[str, Any]
KINDS = [  # weights, blocks compiled; in the order of their worth
    ("stored", False),
    ("stored", True),
    ("int8", True),
    ("int8_dynamic", True),
    ("float8", False),
]
EDITS = (1, 4, 8)
DECODING = [  # name, precision, tiled, convolutions in TF32
    ("float32", torch.float32, False, True),
    ("float32, tiled", torch.float32, True, True),
    ("bfloat16", torch.bfloat16, False, True),
    ("bfloat16, tiled", torch.bfloat16, True, True),
    ("float32, no TF32", torch.float32, False, False),
]


@dataclass
class Bench:
    """Where and how long: a card and full-size models, or the CPU and miniatures."""

    device: str = "cuda"
    cut: dict[str, Any] | None = None
    matmul: int = 8192
    latents: tuple[int, int, int] = (13, 60, 90)  # f, h, w of what is decoded
    ends: float = float("inf")  # by time.monotonic()
    rate: float = 0.0  # FLOP/s of a matrix product
    left_out: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)

    def model(self, variant: str = "5b", held: str = "stored", compiled: bool = False, device: str = "") -> VideoModel:
        return flops.full_size(variant, device or self.device, compiled=compiled, held=held, cut=self.cut)

    def row(self, variant: str = "5b") -> flops.Flops:
        """FLOPs of one row, counted without weights."""
        model = self.model(variant, device="meta")
        of = given(model, 1, 1)
        return flops.count(lambda: model.velocity(of.x, 999, of.texts.cond))

    def part(self, name: str, rows: Callable[[], Iterable[Row]]) -> list[Row]:
        """The rows that were measured, each printed at once."""
        found: list[Row] = []
        if time.monotonic() > self.ends:
            self.left_out.append(name)
            return found
        try:
            for row in rows():
                print(json.dumps({"part": name} | row), flush=True)
                found.append(row)
        except Exception as error:  # the other parts' figures are worth having
            self.failed[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            print(f"{name} failed: {self.failed[name]}", flush=True)
        self.tidy()
        return found

    def tidy(self) -> None:
        torch._dynamo.reset()
        memory.give_back()

    def seconds(self, call: Callable[[], Any]) -> float:
        self.wait()
        started = time.perf_counter()
        call()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        if self.device == "cuda":
            torch.cuda.synchronize()

    def peak_gib(self, call: Callable[[], Any]) -> float:
        """The most that was held while `call` ran; 0 on a CPU."""
        if self.device != "cuda":
            call()
            return 0.0
        torch.cuda.reset_peak_memory_stats()
        call()
        return torch.cuda.max_memory_allocated() / 2**30


@contextlib.contextmanager
def concatenating() -> Iterator[None]:
    """Reference keys are copied behind each row's own, as the script does, rather than attended apart."""

    def copied(*tensors: Tensor, kernel: str = "auto") -> Tensor:
        return attention.attend_concatenated(*tensors[:6])

    with mock.patch.object(attention, "attend_in_two_parts", copied):
        yield


def matmul_rate(bench: Bench, rounds: int = 20) -> float:
    """FLOP/s of a bfloat16 matrix product."""
    size = bench.matmul
    a, b = (torch.randn(size, size, device=bench.device, dtype=torch.bfloat16) for _ in range(2))
    a @ b
    took = min(bench.seconds(lambda: a @ b) for _ in range(rounds))
    return 2 * size**3 / took


@dataclass(frozen=True)
class Times:
    """Seconds of one row, and of whole steps of N edits with and without the unguided half."""

    row: float
    guided: float
    unguided: float

    def job(self, name: str, edits: int, layers: int) -> float:
        """An edit's share of a preset's whole job on a clip, VAE aside: what it computes, times what that takes."""
        inversion, recipe = PRESET_INVERSIONS[name], PRESETS[name]
        whole, guided = editing.computed_steps(recipe, inversion.steps, layers), guided_steps(recipe, inversion.steps)
        with_both = sum(step in guided for step in whole)
        total = (evaluations(inversion) + gate_evaluations(inversion)) * self.row
        return (total + with_both * self.guided + (len(whole) - with_both) * self.unguided) / edits


def step(model: VideoModel, edits: int, guided: bool) -> Callable[[], Any]:
    """One whole step of so many edits over the shared reference row, as `balanced` and `fast` have it."""
    recipe, of = PRESETS["balanced"], given(model, edits, 1)
    layers = window(recipe.layer_start, recipe.layer_end, model.layers)
    referred = editing.Referred(of.trajectory[1], layers, recipe.reference_weight)
    return partial(editing.predict, model.velocity, of.x, 999, of.texts, guided, recipe, referred)


def jobs(bench: Bench, held: str, compiled: bool) -> Iterator[Row]:
    """Whole jobs of `balanced` and `fast` with 1, 4 and 8 edits; what compiling itself takes stands apart."""
    cost, model = bench.row(), bench.model(held=held, compiled=compiled)
    of, recipe = given(model, 1, 1), PRESETS["balanced"]
    row = partial(model.velocity, of.x, 999, of.texts.cond)
    # several rows alone and behind a reference: all the graphs that there are
    first = sum(bench.seconds(call) for call in (row, step(model, 1, True), step(model, 1, False)))
    alone = bench.seconds(row)
    seen = len(window(recipe.layer_start, recipe.layer_end, model.layers)) / model.layers
    for n in EDITS:
        took: list[float] = []
        both = [step(model, n, guided) for guided in (True, False)]
        peak = bench.peak_gib(lambda both=both, took=took: took.extend(bench.seconds(call) for call in both))
        times = Times(alone, *took)
        spent = 2 * n * (cost.linear + (1 + seen) * cost.attention) + cost.total
        yield {
            **{"weights": held, "compiled": compiled, "N": n},
            **{f"{name}, s an edit": times.job(name, n, model.layers) for name in ("balanced", "fast")},
            **{"guided step, s": times.guided, "unguided step, s": times.unguided, "row, s": times.row},
            **{"first calls, s": first, "GiB": peak, "matmul share": spent / times.guided / bench.rate},
        }


def schemes(bench: Bench, variant: str) -> Iterator[Row]:
    """One guided step of the script's scheme and of ours, with the memory planned for it; the script's N edits take N
    times one."""
    cost, model = bench.row(variant), bench.model(variant)
    held = sum(p.nbytes for p in model.transformer.parameters())
    latents = model.latents(model.shape.frames, model.shape.height, model.shape.width)
    per_row = memory.row_bytes(model.transformer.config, latents, torch.bfloat16)
    plans = [("script", SCRIPT, flops.script_cost, 1), *(("ours", SHARED, flops.shared_cost, n) for n in (1, 2, 4))]
    for number, (scheme, recipe, closed, n) in enumerate(plans):
        call = partial(shared, model, given(model, n, 1), recipe)
        took: list[float] = []
        with concatenating() if scheme == "script" else contextlib.nullcontext():
            if number == 0:
                call()
            peak = bench.peak_gib(lambda call=call, took=took: took.append(bench.seconds(call)))
        planned = (held + memory.most_rows(recipe, n) * per_row) / 2**30
        yield {
            **{"model": variant, "scheme": scheme, "N": n, "s": took[0], "s an edit": took[0] / n, "GiB": peak},
            **{"GiB planned": planned, "matmul share": closed(cost, n) / took[0] / bench.rate},
        }


def decoder(bench: Bench, dtype: torch.dtype, tiled: bool) -> Callable[[], Tensor]:
    """The released VAE with random weights, about to decode one edit."""
    vae = flops.full_size_vae(bench.device, dtype)
    vae.use_tiling = tiled
    f, h, w = bench.latents
    z = torch.randn(1, 16, f, h, w, device=bench.device, dtype=dtype)
    return lambda: vae.decode(z).sample


def decoding(bench: Bench) -> Iterator[Row]:
    """49 frames of 480x720; GiB with the VAE's weights."""
    for name, dtype, tiled, tf32 in DECODING:
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=tf32):
            decode = decoder(bench, dtype, tiled)
            decode()
            took: list[float] = []
            peak = bench.peak_gib(lambda decode=decode, took=took: took.append(bench.seconds(decode)))
        del decode
        memory.give_back()
        yield {"VAE": name, "s": took[0], "GiB": peak}


def overlap(bench: Bench, edits: int = 4) -> Iterator[Row]:
    """A guided step of the next batch and the decoding of this one's edits, one after the other and at once."""
    model, decode = bench.model(), decoder(bench, torch.float32, True)
    denoise, lane = step(model, edits, True), Lane(model.lock, Clock(), stream_on(torch.device(bench.device)))

    @torch.inference_mode()
    def decoded() -> None:
        with lane.held():
            for _ in range(2):
                decode().cpu()

    denoise(), decoded()
    apart = bench.seconds(denoise), bench.seconds(decoded)
    took: list[float] = []

    def at_once() -> None:
        with ThreadPoolExecutor(1) as pool:
            other = pool.submit(decoded)
            denoise()
            other.result()

    peak = bench.peak_gib(lambda: took.append(bench.seconds(at_once)))
    yield {"N": edits, "step, s": apart[0], "two decodings, s": apart[1], "both at once, s": took[0], "GiB": peak}


def named(bench: Bench) -> str:
    return torch.cuda.get_device_name() if bench.device == "cuda" else "CPU, miniatures: figures say nothing"


def chosen(minutes: float, tiny: bool) -> Bench:
    ends = time.monotonic() + 60 * minutes
    if not tiny:
        return Bench(ends=ends)
    compiling.BACKEND = "eager"  # no C++ compiler and no minutes: what is traced is the same
    return Bench("cpu", flops.MINIATURE, 256, (3, 4, 6), ends)


def measured(minutes: float, tiny: bool = False) -> tuple[dict[str, list[Row]], Row]:
    """All tables by title, and what the JSON says."""
    bench = chosen(minutes, tiny)
    bench.rate = matmul_rate(bench)
    print(f"\n{named(bench)}: bfloat16 matrix product {bench.rate / 1e12:.2f} TFLOP/s", flush=True)
    whole: list[Row] = []
    for held, compiled in KINDS[:3]:
        whole += bench.part(f"jobs {held} {compiled}", partial(jobs, bench, held, compiled))
    vae, both = bench.part("decoding", partial(decoding, bench)), bench.part("overlap", partial(overlap, bench))
    steps = bench.part("schemes 5b", partial(schemes, bench, "5b"))
    for held, compiled in KINDS[3:]:
        whole += bench.part(f"jobs {held} {compiled}", partial(jobs, bench, held, compiled))
    steps += bench.part("schemes 2b", partial(schemes, bench, "2b"))
    tables = {
        "One step of N edits, random weights in bfloat16; GiB with the weights": steps,
        "A whole job on 5B, VAE aside, put together from one evaluation and one step of each kind": whole,
        "Decoding 49 frames of 480x720": vae,
        "Decoding beside the next batch": both,
    }
    about = {"gpu": named(bench), "matmul_tflops": bench.rate / 1e12, "left_out": bench.left_out}
    about |= {"failed": bench.failed, "gpu_rows": steps, "gpu_jobs": whole, "gpu_decoding": vae, "gpu_overlap": both}
    return tables, about
