"""Trajectories: what goes in comes out, level by level, from every container on every kind of file system."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import math
import struct
import threading
import time
import tracemalloc
import uuid
import weakref
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
import torch
import zarr
from hypothesis import given, settings
from hypothesis import strategies as st
from numcodecs import Blosc

from cogvideo_core.errors import BadSpec, CorruptObject, ModelError
from cogvideo_core.settings.specs import fingerprint
from cogvideo_core.storage import local
from cogvideo_core.storage.codecs import compress, decompress
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.storage.trajectories import (
    CODECS,
    CONTAINERS,
    DTYPES,
    Ahead,
    Unrepresentable,
    open_trajectory,
    write_trajectory,
)

TIMESTEPS = [-1, 199, 399, 599, 799]
TORCH = {name: kind for name, (kind, _) in DTYPES.items()}
SHAPE = (3, 4, 6, 8)
PACKED = [("arrow", "none"), ("zarr", "none"), ("arrow", "shuffle-zstd"), ("zarr", "shuffle-zstd")]
PACKED += [("arrow", "xor-shuffle-zstd")]


@pytest.fixture
def requests(ledger, monkeypatch):
    """Bytes of each read that reaches the file system, in order."""
    sizes, cat_file = [], ledger.objects.fs.cat_file

    class Counted(io.FileIO):
        def readinto(self, buffer):
            sizes.append(got := super().readinto(buffer))
            return got

    def counted(path, **options):
        sizes.append(len(data := cat_file(path, **options)))
        return data

    monkeypatch.setattr(local, "open", lambda path, mode, **how: Counted(path, mode), raising=False)
    monkeypatch.setattr(ledger.objects.fs, "cat_file", counted)
    return sizes


def make_states(count=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(SHAPE, generator=generator) * (1 + level) for level in range(count)]


def store(ledger, folder, container="arrow", dtype="float16", states=None, **options):
    """A committed trajectory: (commit, trajectory)."""
    states = make_states() if states is None else states
    files, record = write_trajectory(folder / "made", iter(states), TIMESTEPS, dtype, container, **options)
    key = fingerprint([container, dtype, str(folder), options])
    commit = ledger.commit("trajectories", key, files, {"dtype": dtype}, record)
    return commit, open_trajectory(ledger, commit)


def local_copy(ledger, commit, folder):
    """Local paths of all files of a commit, by logical name."""
    return {name: ledger.fetch(commit, name, folder / "copy") for name in commit.files}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("container", "codec"), PACKED)
def test_round_trip(ledger, tmp_path, container, codec, dtype):
    """Each level comes back as float32 and equals the state rounded to the stored dtype, bit for bit."""
    commit, trajectory = store(ledger, tmp_path, container, dtype, codec=codec)
    assert commit.record["codec"] == codec
    assert trajectory.shape == (5, *SHAPE) and trajectory.timesteps == tuple(TIMESTEPS)
    assert trajectory.levels == (0, 1, 2, 3, 4)
    for level, state in enumerate(make_states()):
        found = trajectory.read(level)
        assert found.dtype == torch.float32
        assert torch.equal(found, state.to(TORCH[dtype]).float())
    assert ledger.find("trajectories", commit.key, verify="full") == commit


@pytest.mark.parametrize("dtype", DTYPES)
def test_containers_agree(ledger, tmp_path, dtype):
    """Arrow and Zarr give back identical tensors."""
    _, arrow = store(ledger, tmp_path, "arrow", dtype)
    _, sharded = store(ledger, tmp_path, "zarr", dtype)
    for level in arrow.levels:
        assert torch.equal(arrow.read(level), sharded.read(level))


@pytest.mark.parametrize(("container", "codec"), PACKED)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=16, max_size=16))
def test_float32_is_bit_exact(tmp_path_factory, container, codec, values):
    """Any finite float32, subnormal and negative zero included, keeps all its bits."""
    states = torch.tensor(values, dtype=torch.float32).reshape(4, 1, 2, 2, 1)
    folder = tmp_path_factory.mktemp("exact")
    ledger = Ledger(f"memory://exact/{uuid.uuid4().hex}")
    files, record = write_trajectory(folder, list(states), [-1, 0, 1, 2], "float32", container, codec=codec)
    trajectory = open_trajectory(ledger, ledger.commit("trajectories", fingerprint(values), files, {}, record))
    for level, found in trajectory.stream():
        assert torch.equal(found.view(torch.int32), states[level].view(torch.int32))


@pytest.mark.parametrize("dtype", DTYPES)
def test_levels_in_any_order(ledger, tmp_path, dtype, requests):
    """Whatever is read before it, and whoever wrote into what was given out: a level is the same. In the order of use
    a level that is stored as a difference takes one request, and so does the clean one at any time."""
    for levels in (None, [0, 2, 4], [1, 2]):
        commit, trajectory = store(ledger, tmp_path, dtype=dtype, codec="xor-shuffle-zstd", levels=levels)
        kept, expected = trajectory.levels, {j: s.to(TORCH[dtype]).float() for j, s in enumerate(make_states())}
        for level in [*kept, *reversed(kept), kept[-1], kept[0], *kept]:
            found = trajectory.read(level)
            assert torch.equal(found, expected[level])
            found.zero_()
        requests.clear()
        list(open_trajectory(ledger, commit).stream())
        assert len(requests) == len(kept)
    _, trajectory = store(ledger, tmp_path / "whole", codec="xor-shuffle-zstd")
    requests.clear()
    trajectory.read(0)
    assert len(requests) == 1


def test_smooth_trajectories_take_less_room(tmp_path):
    """States that change slowly: shuffled bytes compress, differences between levels compress further."""
    ramp = torch.linspace(-1, 1, math.prod(SHAPE)).reshape(SHAPE)
    states = [ramp * math.cos(0.02 * level) for level in range(20)]
    sizes = []
    for codec in CODECS:
        _, record = write_trajectory(tmp_path / codec, states, [-1, *range(19)], "bfloat16", codec=codec)
        sizes.append(sum(step["size"] for step in record["steps"]))
    assert sizes[1] < 0.8 * sizes[0] and sizes[2] < 0.8 * sizes[1]


@pytest.mark.parametrize(
    "frame", [b"", b"abc", bytes(16), b"\x02\x01\x21\x02" + b"\xff" * 12, compress(np.zeros(9, "<u2"))]
)
def test_what_is_no_frame_is_refused(frame):
    """Bytes that claim another size than the level's never reach the decompressor."""
    with pytest.raises(ValueError, match="no compressed level"):
        decompress(np.frombuffer(frame, np.uint8), 16)


@pytest.mark.parametrize("at", range(0, 400, 7))
def test_a_frame_that_was_altered_unseen(at):
    """With its hash unchecked, an altered frame gives other bits or a ValueError, and never ends the process."""
    bits = np.arange(600, dtype="<u2") * 31
    frame = compress(bits).copy()
    frame[at % len(frame)] ^= 0x15
    with contextlib.suppress(ValueError):
        assert len(decompress(frame, bits.nbytes)) == bits.nbytes


@pytest.mark.parametrize("container", CONTAINERS)
def test_only_the_level_is_read(ledger, tmp_path, container, requests):
    """Reading one level is one request for exactly that level's bytes; a stream makes one request a level."""
    commit, trajectory = store(ledger, tmp_path, container)
    step_bytes = 2 * math.prod(SHAPE)
    requests.clear()  # small stores are asked while committing too
    trajectory.read(3)
    assert requests == [step_bytes]
    assert sum(stored.size for stored in commit.files.values()) > 5 * step_bytes
    list(trajectory.stream())
    assert requests == [step_bytes] * 6


def test_plain_tools_read_compressed_levels(ledger, tmp_path):
    """Of a compressed trajectory pyarrow gives Blosc frames and zarr the values; the frames are the same."""
    commits, trajectories = zip(*(store(ledger, tmp_path, c, codec="shuffle-zstd") for c in CONTAINERS), strict=True)
    with pa.OSFile(str(local_copy(ledger, commits[0], tmp_path)["trajectory.arrow"])) as source:
        table = pa.ipc.open_file(source).read_all()
    frame = table["latents"][2].as_py()
    state = np.frombuffer(Blosc().decode(frame), "<f2").reshape(SHAPE).astype(np.float32)
    array = zarr.open_array(str(local_copy(ledger, commits[1], tmp_path)["trajectory.zarr/zarr.json"].parent), mode="r")
    assert np.array_equal(state, trajectories[0].read(2).numpy()) and np.array_equal(array[2].astype(np.float32), state)
    assert commits[0].record["steps"][2]["sha256"] == commits[1].record["steps"][2]["sha256"]


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_pyarrow_reads_it(ledger, tmp_path, dtype):
    """An Arrow trajectory is an ordinary IPC file: pyarrow alone gives the bits, the timesteps and the dtype."""
    commit, trajectory = store(ledger, tmp_path, "arrow", dtype)
    (path,) = local_copy(ledger, commit, tmp_path).values()
    with pa.OSFile(str(path)) as source:
        reader = pa.ipc.open_file(source)
        assert reader.num_record_batches == 5
        table = reader.read_all()
    metadata = table.schema.metadata
    assert metadata[b"logical_dtype"] == dtype.encode() and json.loads(metadata[b"shape"]) == [5, *SHAPE]
    assert table["timestep"].to_pylist() == TIMESTEPS == json.loads(metadata[b"timesteps"])
    bits = table["latents"].chunk(2).flatten().to_numpy().reshape(SHAPE)
    assert bits.dtype == (np.float32 if dtype == "float32" else np.uint16)
    expected = trajectory.read(2).to(TORCH[dtype])
    raw = expected.numpy() if dtype == "float32" else expected.view(torch.int16).numpy().view(np.uint16)
    assert np.array_equal(bits, raw)


@pytest.mark.parametrize("dtype", DTYPES)
def test_plain_zarr_reads_it(ledger, tmp_path, dtype):
    """A Zarr trajectory is an ordinary v3 array of one shard with checksums; bfloat16 comes as uint16 bits."""
    commit, trajectory = store(ledger, tmp_path, "zarr", dtype)
    assert sorted(commit.files) == ["trajectory.zarr/c/0/0/0/0/0", "trajectory.zarr/zarr.json"]
    array = zarr.open_array(str(local_copy(ledger, commit, tmp_path)["trajectory.zarr/zarr.json"].parent), mode="r")
    assert array.shape == (5, *SHAPE) and array.chunks == (1, *SHAPE) and array.shards == (5, *SHAPE)
    assert array.attrs["logical_dtype"] == dtype and list(array.attrs["timesteps"]) == TIMESTEPS
    found = torch.from_numpy(np.asarray(array[2]))
    if dtype == "bfloat16":
        found = found.view(torch.int16).view(torch.bfloat16)
    assert torch.equal(found.float(), trajectory.read(2))


def test_zarr_notices_a_flipped_bit(tmp_path):
    """The chunk checksum that we write is the one plain zarr checks."""
    files, record = write_trajectory(tmp_path, make_states(), TIMESTEPS, "float16", "zarr")
    shard = files["trajectory.zarr/c/0/0/0/0/0"]
    data = bytearray(shard.read_bytes())
    data[record["steps"][1]["offset"] + 5] ^= 1
    shard.write_bytes(data)
    array = zarr.open_array(str(files["trajectory.zarr/zarr.json"].parent), mode="r")
    assert np.isfinite(array[0]).all()
    with pytest.raises(ValueError, match="checksum"):
        array[1]


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_missing_chunk_never_reads_as_zeros(ledger, tmp_path, dtype):
    """A shard whose index says "no such chunk" and whose bytes are zero: plain zarr gives NaN, we refuse it."""
    commit, trajectory = store(ledger, tmp_path, "zarr", dtype)
    copies = local_copy(ledger, commit, tmp_path)
    shard = copies["trajectory.zarr/c/0/0/0/0/0"]
    data = bytearray(shard.read_bytes())
    step = commit.record["steps"][2]
    data[step["offset"] : step["offset"] + step["size"]] = bytes(step["size"])
    index = np.frombuffer(bytes(data[-84:-4]), "<u8").copy().reshape(5, 2)
    index[2] = 2**64 - 1
    data[-84:] = index.tobytes() + struct.pack("<I", google_crc32c.value(index.tobytes()))
    shard.write_bytes(data)
    fs, path = ledger.open_url(commit, "trajectory.zarr/c/0/0/0/0/0")
    fs.pipe_file(path, bytes(data))
    plain = torch.from_numpy(np.asarray(zarr.open_array(str(shard.parents[5]), mode="r")[2]))
    if dtype == "bfloat16":
        plain = plain.view(torch.int16).view(torch.bfloat16)
    assert torch.isnan(plain).all()
    with pytest.raises(CorruptObject, match="level 2"):
        trajectory.read(2)
    assert ledger.find("trajectories", commit.key, verify="full") is None


@pytest.mark.parametrize(("container", "codec"), PACKED)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_shows_when_a_level_is_read(ledger, tmp_path, container, codec, damage):
    """A damaged level raises an error that names trajectory, level and remedy; the others are still read."""
    commit, trajectory = store(ledger, tmp_path, container, codec=codec)
    step = commit.record["steps"][-1 if codec.startswith("xor") else 4]
    fs, path = ledger.open_url(commit, step["object"])
    data = bytearray(fs.cat_file(path))
    data[step["offset"] + 7] ^= 0x40
    if damage == "remove":
        fs.rm_file(path)
    else:
        fs.pipe_file(path, bytes(data if damage == "flip" else data[: step["offset"] + 9]))
    with pytest.raises(CorruptObject, match=rf"{commit.key}: level 4 .*; run again with verify='full'") as caught:
        trajectory.read(4)
    assert not caught.value.retryable
    if damage != "remove":
        other = 0 if codec.startswith("xor") else 3
        assert torch.equal(trajectory.read(other), make_states()[other].half().float())


def test_verify_off_trusts_the_bytes(ledger, tmp_path):
    """verify=False skips the hash, and only the hash."""
    commit, _ = store(ledger, tmp_path)
    step = commit.record["steps"][1]
    fs, path = ledger.open_url(commit, step["object"])
    data = bytearray(fs.cat_file(path))
    data[step["offset"]] ^= 1
    fs.pipe_file(path, bytes(data))
    trusting = open_trajectory(ledger, commit, verify=False)
    assert not torch.equal(trusting.read(1), make_states()[1].half().float())
    fs.pipe_file(path, bytes(data[: step["offset"] + 2]))
    with pytest.raises(CorruptObject, match="ends early"):
        trusting.read(1)


@pytest.mark.parametrize("container", CONTAINERS)
def test_some_levels_only(ledger, tmp_path, container):
    """Levels that are not kept take no space and are refused by name; the kept ones keep their numbers."""
    whole, _ = store(ledger, tmp_path, container)
    commit, trajectory = store(ledger, tmp_path, container, levels=[0, 3])
    assert trajectory.levels == (0, 3) and trajectory.shape == (5, *SHAPE)
    assert torch.equal(trajectory.read(3), make_states()[3].half().float())
    with pytest.raises(BadSpec, match="level 2 isn't stored"):
        trajectory.read(2)
    size = [sum(stored.size for stored in each.files.values()) for each in (commit, whole)]
    assert size[0] < 0.75 * size[1]


def test_stream_goes_from_noise_to_clean(ledger, tmp_path):
    """stream() yields every level once, noisiest first unless told otherwise, with the values of read()."""
    _, trajectory = store(ledger, tmp_path)
    seen = list(trajectory.stream())
    assert [level for level, _ in seen] == [4, 3, 2, 1, 0]
    assert all(torch.equal(state, trajectory.read(level)) for level, state in seen)
    assert [level for level, _ in trajectory.stream([1, 3])] == [1, 3]
    assert list(trajectory.stream([])) == []


@pytest.mark.parametrize("order", [[4, 3, 2, 1, 0], [4], [], [0, 4, 3]])
def test_reading_ahead_changes_nothing(ledger, tmp_path, order):
    """Asked in the announced order, in another, again or beyond it: the states are those of read()."""
    _, trajectory = store(ledger, tmp_path)
    for asked in (order, [4, 4, 2, 2, 3, 0, 1], [0, 1, 2, 3, 4]):
        with Ahead(trajectory.read, order) as state_at:
            assert all(torch.equal(state_at(level), trajectory.read(level)) for level in asked)


def test_reading_ahead_asks_once_for_each_level(ledger, tmp_path, requests):
    """In the announced order no level is read twice, however often it is used, and none that is not used."""
    _, trajectory = store(ledger, tmp_path)
    requests.clear()
    with Ahead(trajectory.read, [4, 3, 2]) as state_at:
        for level in (4, 4, 4, 3, 2):
            state_at(level)
    assert len(requests) == 3


def test_an_error_ahead_comes_when_its_level_is_asked_for(ledger, tmp_path):
    """A damaged level that was read ahead spoils no other, and is an error where it is wanted."""
    commit, trajectory = store(ledger, tmp_path)
    step = commit.record["steps"][3]
    fs, path = ledger.open_url(commit, step["object"])
    data = bytearray(fs.cat_file(path))
    data[step["offset"]] ^= 1
    fs.pipe_file(path, bytes(data))
    with Ahead(trajectory.read, [4, 3, 2]) as state_at:
        assert torch.equal(state_at(4), make_states()[4].half().float())
        with pytest.raises(CorruptObject, match="level 3"):
            state_at(3)
        assert torch.equal(state_at(2), make_states()[2].half().float())


def waited(read, levels, compute_s):
    """Share of its time that a loop spends waiting for states, with `compute_s` of work after each."""
    started, waiting = time.perf_counter(), 0.0
    with Ahead(*read) as state_at:
        for level in levels:
            asked = time.perf_counter()
            state_at(level)
            waiting += time.perf_counter() - asked
            time.sleep(compute_s)
    return waiting / (time.perf_counter() - started)


def test_a_slow_store_hardly_slows_the_loop(tmp_path, monkeypatch):
    """50 ms a request: a loop of 25 steps that compute 75 ms each waits for less than 5 % of its time; without reading
    ahead it is 40 %."""
    ledger, timesteps = Ledger(f"memory://slow/{uuid.uuid4().hex}"), [-1, *range(24)]
    files, record = write_trajectory(tmp_path, make_states(25), timesteps)
    trajectory = open_trajectory(ledger, ledger.commit("trajectories", "a" * 64, files, {}, record))
    cat_file = ledger.objects.fs.cat_file

    def slow(path, **options):
        time.sleep(0.05)
        return cat_file(path, **options)

    monkeypatch.setattr(ledger.objects.fs, "cat_file", slow)
    order = list(reversed(trajectory.levels))
    assert waited((trajectory.read, order), order, 0.075) < 0.05
    assert waited((trajectory.read, []), order[:10], 0.075) > 0.3


@pytest.mark.parametrize("place", ["file", "memory"])
@pytest.mark.parametrize(("dtype", "codec"), [("float16", codec) for codec in CODECS] + [("float32", "none")])
def test_a_reader_holds_less_than_three_states(tmp_path, dtype, codec, place):
    """While a trajectory is streamed, the state in use, the one read ahead and all buffers take less than three states
    of float32, where each is let go before the next is asked for; from a remote store the stored bits of a float32
    state come on top."""
    shape, count = (4, 16, 64, 64), 12
    ledger = Ledger(str(tmp_path / "root") if place == "file" else f"memory://room/{uuid.uuid4().hex}")
    states = (torch.rand(shape) + level for level in range(count))
    files, record = write_trajectory(tmp_path / "made", states, [-1, *range(count - 1)], dtype, codec=codec)
    trajectory = open_trajectory(ledger, ledger.commit("trajectories", "a" * 64, files, {}, record))
    one_state, before = 4 * math.prod(shape), traced()
    try:
        for level, state in trajectory.stream():
            assert level <= float(state[0, 0, 0, 0]) <= level + 1
            time.sleep(0.01)  # time for the next one to come
            del state  # else it is held until the next one is bound, and the one after that may be there by then
        most = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    extra = 1 if (dtype, place) == ("float32", "memory") else 0
    assert 2 * one_state <= most < (2.9 + extra) * one_state


def traced():
    """Bytes allocated now; from here on the most is recorded."""
    tracemalloc.start()
    tracemalloc.reset_peak()
    return tracemalloc.get_traced_memory()[0]


@pytest.mark.parametrize("container", CONTAINERS)
def test_writing_holds_two_states(tmp_path, container):
    """However long the trajectory, no more than two of its states are alive while it is written."""
    alive: list[weakref.ref] = []
    most = 0

    def states():
        nonlocal most
        for level in range(40):
            state = torch.full(SHAPE, float(level))
            alive.append(weakref.ref(state))
            most = max(most, sum(ref() is not None for ref in alive))
            yield state

    write_trajectory(tmp_path, states(), [-1, *range(39)], "float32", container)
    assert len(alive) == 40 and most <= 2


@pytest.mark.parametrize("container", CONTAINERS)
def test_overflow_is_refused(tmp_path, container):
    """A value beyond float16 is never stored as infinity: the error names the dtype that can hold it."""
    states = make_states()
    states[2][0, 0, 0, 0] = 65520.0
    with pytest.raises(Unrepresentable, match=r"level 2: 65520 does not fit .*; store dtype='float32'") as caught:
        write_trajectory(tmp_path, states, TIMESTEPS, "float16", container)
    assert not caught.value.retryable and caught.value.kind == "storage"
    states[2][0, 0, 0, 0] = 65519.0  # the largest that still rounds to a float16
    write_trajectory(tmp_path, states, TIMESTEPS, "float16", container)
    states[2][0, 0, 0, 0] = 3.4e38
    with pytest.raises(Unrepresentable):
        write_trajectory(tmp_path, states, TIMESTEPS, "bfloat16", container)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_nan_is_refused(tmp_path, value, dtype):
    """A state that is not finite is the model's fault and is not stored."""
    states = make_states()
    states[1][0, 1, 0, 0] = value
    with pytest.raises(ModelError, match="level 1"):
        write_trajectory(tmp_path, states, TIMESTEPS, dtype, "arrow")


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"states": make_states(4)}, "fewer states"),
        ({"states": make_states(6)}, "more states"),
        ({"states": []}, "no states"),
        ({"states": [*make_states(4), torch.zeros(1, 4, 6, 8)]}, "level 4: shape"),
        ({"states": [torch.zeros(3)] * 5}, "not \\[f,C,h,w\\]"),
        ({"timesteps": [0, 1, 2, 3, 4]}, "ascend from -1"),
        ({"timesteps": [-1, 5, 5, 6, 7]}, "ascend from -1"),
        ({"dtype": "float64"}, "dtype"),
        ({"container": "os"}, "container"),
        ({"codec": "gzip"}, "codec 'gzip': not known"),
        ({"codec": "xor-shuffle-zstd", "container": "zarr"}, "use container='arrow'"),
        ({"levels": [0, 5]}, "levels"),
        ({"levels": []}, "levels"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, problem):
    """Settings and states that contradict each other are refused with a sentence."""
    given_ = {"states": make_states(), "timesteps": TIMESTEPS, "dtype": "float16", "container": "arrow", **change}
    with pytest.raises(BadSpec, match=problem):
        write_trajectory(tmp_path, **given_)


def test_step_table_is_true(tmp_path):
    """The step table's offsets and hashes are those of the file's bytes, for both containers."""
    for container in CONTAINERS:
        files, record = write_trajectory(tmp_path / container, make_states(), TIMESTEPS, "bfloat16", container)
        for step in record["steps"]:
            data = Path(files[step["object"]]).read_bytes()[step["offset"] : step["offset"] + step["size"]]
            assert hashlib.sha256(data).hexdigest() == step["sha256"]
        assert [step["timestep"] for step in record["steps"]] == TIMESTEPS


def test_other_commits_are_no_trajectories(tmp_path):
    """Opening a commit that holds no trajectory is refused with a sentence that names it."""
    ledger = Ledger(str(tmp_path))
    commit = ledger.commit("edits", "a" * 64, {}, {}, {"frames": 9})
    with pytest.raises(BadSpec, match=f"edits {'a' * 64}: not a trajectory"):
        open_trajectory(ledger, commit)


class Ranges(SimpleHTTPRequestHandler):
    """A folder over HTTP, parts of files included."""

    asked: ClassVar[list[str]] = []

    def do_GET(self):
        wanted = self.headers.get("Range", "")
        self.asked.append(wanted)
        path = Path(self.translate_path(self.path))
        if not wanted or not path.is_file():
            return super().do_GET()
        start, _, end = wanted.removeprefix("bytes=").partition("-")
        part = path.read_bytes()[int(start) : int(end) + 1]
        self.send_response(206)
        self.send_header("Content-Length", str(len(part)))
        self.end_headers()
        self.wfile.write(part)

    def log_message(self, *arguments):
        pass


def test_reading_over_http(tmp_path):
    """A committed trajectory behind a plain web server is found, verified and read level by level, a range each."""
    commit, trajectory = store(Ledger(str(tmp_path / "root")), tmp_path / "work", codec="shuffle-zstd")
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Ranges, directory=str(tmp_path / "root")))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        ledger = Ledger(f"http://127.0.0.1:{server.server_port}")
        assert ledger.find("trajectories", commit.key, "full") == commit and ledger.find("edits", "a" * 64) is None
        Ranges.asked.clear()
        over_http = open_trajectory(ledger, commit)
        assert all(torch.equal(state, trajectory.read(level)) for level, state in over_http.stream())
        steps = reversed(commit.record["steps"])
        assert Ranges.asked == [f"bytes={s['offset']}-{s['offset'] + s['size'] - 1}" for s in steps]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
