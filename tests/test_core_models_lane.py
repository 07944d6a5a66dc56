"""The VAE beside the transformer: the same frames, decoded while the next batch is denoised; in turn where memory is
short. A stand-in takes the place of the CUDA stream."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cogvideo_core.errors import BadSpec
from cogvideo_core.models import batching, lane, memory, model, placement
from cogvideo_core.models.lane import Clock, Lane
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.specs import EngineSpec, ModelSpec, RecipeSpec
from cogvideo_core.shapes import world

LONG_S = 20
FRAMES = world.render(world.scene_from_seed(3))


class StandIn:
    """A stream that notes what is computed in it, by thread."""

    def __init__(self) -> None:
        self.inside: set[int] = set()

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        self.inside.add(threading.get_ident())
        yield
        self.inside.remove(threading.get_ident())


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    made = StandIn()
    monkeypatch.setattr(model, "stream_on", lambda device: made)
    return made


@pytest.fixture
def beside(stream: StandIn, tiny_pipeline_folder: Path) -> VideoModel:
    return model.load(ModelSpec(path=str(tiny_pipeline_folder), vae_overlap="on"))


@pytest.fixture(scope="module")
def in_turn(tiny_pipeline_folder: Path) -> VideoModel:
    return model.load(ModelSpec(path=str(tiny_pipeline_folder)))


def while_denoising(of: VideoModel, call: Callable[[], Any]) -> tuple[bool, Any]:
    """Whether `call` came back while a transformer call was running, and what it gave."""
    inside, leave, forward = threading.Event(), threading.Event(), of.transformer.forward

    def slow(**given: Any) -> Any:
        inside.set()
        assert leave.wait(LONG_S)
        return forward(**given)

    x, text = torch.zeros(1, 3, 8, 12, 12), torch.zeros(1, 16, 64)
    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(2) as pool:
        patch.setattr(of.transformer, "forward", slow)
        denoising = pool.submit(of.velocity, x, 999, text)
        assert inside.wait(LONG_S)
        called = pool.submit(call)
        with contextlib.suppress(TimeoutError):
            called.result(LONG_S if of.vae.lane.beside else 0.3)
        back = called.done()
        assert not denoising.done()
        leave.set()
        return back, called.result(LONG_S)


def test_edits_are_decoded_while_the_next_batch_is_denoised(
    beside: VideoModel, in_turn: VideoModel, stream: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside, decoding and encoding end inside a transformer call, in the stream, and give what they give in turn, bit
    for bit; in turn they wait for its end."""
    latents = in_turn.encode(FRAMES)
    frames, decode, within = in_turn.decode(latents), beside.vae.module.decode, []
    monkeypatch.setattr(
        beside.vae.module, "decode", lambda z: (within.append(threading.get_ident() in stream.inside), decode(z))[1]
    )
    back, found = while_denoising(beside, lambda: beside.decode(latents))
    assert back and np.array_equal(found, frames) and within == [True]
    back, found = while_denoising(beside, lambda: beside.encode(FRAMES))
    assert back and torch.equal(found, latents)
    back, found = while_denoising(in_turn, lambda: in_turn.decode(latents))
    assert not back and np.array_equal(found, frames)
    assert not stream.inside


def test_what_is_finished_goes_by_way_of_the_cpu(beside: VideoModel, in_turn: VideoModel) -> None:
    """Beside, tensors reach the lane from the CPU; in turn they stay where they are."""
    far = torch.zeros(1, device="meta")
    assert in_turn.crossing(far) is far
    with pytest.raises(NotImplementedError, match="meta"):  # it asks for a copy on the CPU
        beside.crossing(far)


def test_two_decodings_take_turns(beside: VideoModel) -> None:
    """The lane has one holder at a time, whatever the transformer does."""
    at_once, most, decode = [0], [0], beside.vae.module.decode

    def counted(z: torch.Tensor) -> Any:
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.02)
        done = decode(z)
        at_once[0] -= 1
        return done

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(3) as pool:
        patch.setattr(beside.vae.module, "decode", counted)
        list(pool.map(beside.decode, [torch.zeros(3, 8, 12, 12)] * 3))
    assert most == [1]


@pytest.mark.parametrize("short", ["vae", "transformer"])
def test_out_of_memory_they_go_on_in_turn(
    beside: VideoModel, in_turn: VideoModel, short: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    """Whichever runs out beside the other is tried again alone: before tiles, before fewer edits a call; it is told
    once, and the result is the same."""
    latents = in_turn.encode(FRAMES)
    decode, tried = beside.vae.module.decode, list[bool]()

    def small(given: Any) -> Any:
        tried.append(beside.vae.lane.beside)
        if tried[-1]:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return decode(given) if short == "vae" else given

    with caplog.at_level(logging.WARNING):
        if short == "vae":
            monkeypatch.setattr(beside.vae.module, "decode", small)
            assert np.array_equal(beside.decode(latents), in_turn.decode(latents))
        else:
            assert memory.as_many_as_fit([1, 2, 3], beside.room, small, "clip 'a.mp4'") == ([1, 2, 3], [1, 2, 3])
    assert tried == [True, False] and not beside.vae.module.use_tiling and beside.room.most == 64
    (said,) = (record.getMessage() for record in caplog.records)
    assert said.endswith("going on with the VAE and the transformer in turn")
    assert not while_denoising(beside, lambda: beside.decode(latents))[0]


def test_who_waits_for_a_lane_that_is_left_takes_turns() -> None:
    """A decoding that waited behind the one that gave the lane up must not run beside the transformer."""
    turn, entered = threading.RLock(), list[str]()
    shared = Lane(turn, Clock(), contextlib.nullcontext)

    def waits() -> None:
        with shared.held():
            entered.append("waited")

    with turn, ThreadPoolExecutor(1) as pool:
        with shared.held():
            waiting = pool.submit(waits)
            time.sleep(0.1)
            shared.leave()
        time.sleep(0.1)
        assert not entered and not waiting.done()
        turn.release()
        waiting.result(LONG_S)
        turn.acquire()
    assert entered == ["waited"]


def test_seconds_of_two_at_once_count_once() -> None:
    """The clock adds up the time in which anything runs, so that a model is never busy for longer than it exists."""
    clock, started = Clock(), time.perf_counter()
    with clock.running(), ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda _: _sleep(clock), range(2)))
    time.sleep(0.05)
    assert 0.1 <= clock.seconds <= time.perf_counter() - started - 0.04


def _sleep(clock: Clock) -> None:
    with clock.running():
        time.sleep(0.1)


def test_a_cpu_has_no_stream() -> None:
    """There the lane is a lock of its own and nothing else."""
    assert lane.stream_on(torch.device("cpu")) is contextlib.nullcontext


def test_overlap_and_offload_are_refused() -> None:
    """Offloading moves one component at a time, so nothing can compute beside it."""
    with pytest.raises(BadSpec, match=r"vae_overlap: 'on' can't be combined with offload=model"):
        placement.chosen_device(ModelSpec(vae_overlap="on", offload="model"))


def test_decoding_beside_it_leaves_less_for_calls(
    beside: VideoModel, in_turn: VideoModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The number of edits a call is chosen from what decoding leaves of the free memory."""
    latents = (3, 8, 12, 12)
    row = memory.row_bytes(in_turn.transformer.config, latents, torch.float32)
    taken = batching._to_come(beside, latents)
    assert taken > row > 0 == batching._to_come(in_turn, latents)
    monkeypatch.setattr(memory, "free_bytes", lambda device: 9 * row + taken)
    recipe = RecipeSpec(name="other")
    in_turn.room.chosen.clear()
    assert batching.edits_per_batch(beside, EngineSpec(), recipe, latents) == 4
    assert batching.edits_per_batch(in_turn, EngineSpec(), recipe, latents) > 4
    in_turn.room.chosen.clear()


@pytest.mark.gpu
def test_a_gpu_decodes_the_same_beside(tiny_pipeline_folder: Path) -> None:
    """On a CUDA stream of its own, while another thread denoises: the frames are those in turn."""
    here, there = (
        model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cuda", vae_overlap=overlap))  # type: ignore[arg-type]
        for overlap in ("off", "on")
    )
    latents, x, text = here.encode(FRAMES), torch.zeros(8, 3, 8, 12, 12), torch.zeros(8, 16, 64)
    want = here.decode(latents)
    with ThreadPoolExecutor(1) as pool:
        denoising = pool.submit(lambda: [there.velocity(x, 999, text) for _ in range(50)])
        found = [there.decode(latents.cuda()) for _ in range(10)]
        denoising.result()
    assert all(np.array_equal(one, want) for one in found)
