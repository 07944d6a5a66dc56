"""Trajectories: what goes in comes out, level by level, from every container on every kind of file system."""

from __future__ import annotations

import hashlib
import json
import struct
import uuid
import weakref
from pathlib import Path

import fsspec
import google_crc32c
import numpy as np
import pyarrow as pa
import pytest
import torch
import zarr
from fsspec.implementations.dirfs import DirFileSystem
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvideo_core.errors import BadSpec, CorruptObject, ModelError
from cogvideo_core.ledger import Ledger
from cogvideo_core.specs import fingerprint
from cogvideo_core.stores import CONTAINERS, DTYPES, Unrepresentable, open_trajectory, write_trajectory
from cogvideo_core.stores.objects import Objects

TIMESTEPS = [-1, 199, 399, 599, 799]
TORCH = {name: kind for name, (kind, _) in DTYPES.items()}
SHAPE = (3, 4, 6, 8)


@pytest.fixture(params=["file", "memory", "generic"])
def ledger(request, tmp_path):
    """One ledger for each kind of file system; "generic" is a disk behind fsspec's ordinary interface."""
    if request.param == "file":
        yield Ledger(str(tmp_path / "root"))
    elif request.param == "generic":
        yield Ledger(Objects(DirFileSystem(str(tmp_path), fs=fsspec.filesystem("file")), "root"))
    else:
        name = f"memory://{uuid.uuid4().hex}/root"
        yield Ledger(name)
        fsspec.filesystem("memory").rm(name.rpartition("/")[0], recursive=True)


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
@pytest.mark.parametrize("container", CONTAINERS)
def test_round_trip(ledger, tmp_path, container, dtype):
    """Each level comes back as float32 and equals the state rounded to the stored dtype, bit for bit."""
    commit, trajectory = store(ledger, tmp_path, container, dtype)
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


@pytest.mark.parametrize("container", CONTAINERS)
@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=8, max_size=8))
def test_float32_is_bit_exact(tmp_path_factory, container, values):
    """Any finite float32, subnormal and negative zero included, keeps all its bits."""
    state = torch.tensor(values, dtype=torch.float32).reshape(1, 2, 2, 2)
    folder = tmp_path_factory.mktemp("exact")
    ledger = Ledger(f"memory://exact/{uuid.uuid4().hex}")
    files, record = write_trajectory(folder, [state], [-1], "float32", container)
    commit = ledger.commit("trajectories", fingerprint(values), files, {}, record)
    found = open_trajectory(ledger, commit).read(0)
    assert torch.equal(found.view(torch.int32), state.view(torch.int32))


@pytest.mark.parametrize("container", CONTAINERS)
def test_only_the_level_is_read(ledger, tmp_path, container, monkeypatch):
    """Reading one level is one request for exactly that level's bytes."""
    commit, trajectory = store(ledger, tmp_path, container)
    requests, cat_file = [], ledger.objects.fs.cat_file

    def counted(path, **options):
        requests.append(len(data := cat_file(path, **options)))
        return data

    monkeypatch.setattr(ledger.objects.fs, "cat_file", counted)
    trajectory.read(3)
    assert requests == [2 * int(np.prod(SHAPE))]
    assert sum(stored.size for stored in commit.files.values()) > 5 * requests[0]


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


@pytest.mark.parametrize("container", CONTAINERS)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_damage_shows_when_a_level_is_read(ledger, tmp_path, container, damage):
    """A damaged level raises an error that names trajectory, level and remedy; the others are still read."""
    commit, trajectory = store(ledger, tmp_path, container)
    step = commit.record["steps"][4]
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
        assert torch.equal(trajectory.read(3), make_states()[3].half().float())


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
