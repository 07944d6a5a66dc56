"""The ledger: done means committed and intact, whatever happens to writers, bytes and files in between."""

from __future__ import annotations

import errno
import json
import logging
import os
import threading
import uuid
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvideo_core.errors import BadSpec, CorruptObject, StorageError
from cogvideo_core.storage import local
from cogvideo_core.storage.keys import STAGES
from cogvideo_core.storage.ledger import Commit, Ledger
from cogvideo_core.storage.objects import Objects, redacted
from cogvideo_core.storage.opening import open_objects

KEY = "0123456789abcdef" * 4
STAGE = "edits"
CONTENT = {"video.mp4": bytes(range(256)) * 2, "deep/er/latents.bin": b"\x00" * 300}


@pytest.fixture
def files(tmp_path):
    """Local files to commit, by logical name."""
    made = {}
    for name, data in CONTENT.items():
        made[name] = tmp_path / "made" / name
        made[name].parent.mkdir(parents=True, exist_ok=True)
        made[name].write_bytes(data)
    return made


def snapshot(ledger):
    """{path below the root: bytes} of everything stored."""
    objects = ledger.objects
    found = [path for path in objects.fs.find(objects.root) if not path.endswith(objects.root)]
    return {path.split(objects.root.strip("/") + "/", 1)[1]: objects.fs.cat_file(path) for path in found}


def put_back(ledger, before):
    """Make the store hold exactly what a snapshot held."""
    for name in snapshot(ledger):
        ledger.objects.fs.rm_file(ledger.objects.path(name))
    for name, data in before.items():
        ledger.objects.fs.pipe_file(ledger.objects.path(name), data)


def unit_name(commit, name):
    return f"{commit.stage}/{commit.key[:2]}/{commit.key}/{name}"


def commit_name(commit):
    return unit_name(commit, "commit.json")


def test_commit_then_find(ledger, files):
    """A committed unit is found at every level of verification, with its spec, record, sizes and hashes."""
    assert ledger.find(STAGE, KEY) is None
    commit = ledger.commit(STAGE, KEY, files, {"seed": 3}, {"frames": 9, "shape": (1, 2)})
    for verify in ("none", "size", "full"):
        assert ledger.find(STAGE, KEY, verify=verify) == commit
    assert commit.spec == {"seed": 3} and commit.record == {"frames": 9, "shape": [1, 2]}
    assert {name: stored.size for name, stored in commit.files.items()} == {n: len(d) for n, d in CONTENT.items()}
    assert "torch" in commit.versions
    assert ledger.find("latents", KEY) is None


def test_reading_back(ledger, files, tmp_path):
    """fetch gives a local file and open_url a file system and path, both with the committed bytes."""
    commit = ledger.commit(STAGE, KEY, files, {}, {})
    for name, data in CONTENT.items():
        assert ledger.fetch(commit, name, tmp_path / "copy").read_bytes() == data
        fs, path = ledger.open_url(commit, name)
        assert fs.cat_file(path) == data
    with pytest.raises(ValueError, match=r"no file 'other'; it holds"):
        ledger.fetch(commit, "other", tmp_path)


def test_fetch_checks_its_copy(files, tmp_path):
    """Where fetching copies, a copy that is not what was committed is refused and not left lying there."""
    ledger = Ledger(f"memory://fetch/{uuid.uuid4().hex}")
    commit = ledger.commit(STAGE, KEY, files, {}, {})
    fs, path = ledger.open_url(commit, "video.mp4")
    fs.pipe_file(path, b"\xff" * 512)
    with pytest.raises(CorruptObject, match=f"{KEY}: 'video.mp4' does not match"):
        ledger.fetch(commit, "video.mp4", tmp_path / "copy")
    assert list((tmp_path / "copy").iterdir()) == []


def test_fetch_from_a_local_root_copies_nothing(files, tmp_path):
    """Where the root is local, fetch gives the stored file itself."""
    ledger = Ledger(str(tmp_path / "root"))
    commit = ledger.commit(STAGE, KEY, files, {}, {})
    assert ledger.fetch(commit, "video.mp4", tmp_path / "copy") == Path(ledger.open_url(commit, "video.mp4")[1])
    assert not (tmp_path / "copy").exists()


def test_a_unit_may_be_its_record(ledger):
    """No files: the record alone is the result."""
    commit = ledger.commit("clips", KEY, {}, {"uri": "a.mp4"}, {"content": "c" * 64})
    assert ledger.find("clips", KEY, verify="full") == commit and commit.files == {}


def test_units_and_keys(ledger, files):
    """units() yields every commit of its stage in order of key, leaves an altered one out and says so."""
    keys = sorted(f"{i:064x}" if i % 2 else f"{i:x}".ljust(64, "f") for i in range(1, 8))
    for key in reversed(keys):
        ledger.commit(STAGE, key, {}, {"key": key}, {})
    ledger.commit("latents", KEY, files, {}, {})
    assert [commit.key for commit in ledger.units(STAGE)] == keys == list(ledger.keys(STAGE))
    ledger.objects.fs.pipe_file(ledger.objects.path(f"{STAGE}/{keys[2][:2]}/{keys[2]}/commit.json"), b"{}")
    assert [commit.key for commit in ledger.units(STAGE)] == keys[:2] + keys[3:]
    assert list(ledger.units("clips")) == []


def test_remove(ledger, files):
    """A removed unit is not done, leaves no object behind, and can be committed again."""
    commit = ledger.commit(STAGE, KEY, files, {}, {})
    ledger.remove(commit)
    assert snapshot(ledger) == {} and ledger.find(STAGE, KEY) is None
    again = ledger.commit(STAGE, KEY, files, {}, {})
    ledger.remove(commit)  # the old one: must not take the new one with it
    assert ledger.find(STAGE, KEY, verify="full") == again


@pytest.mark.parametrize("damage", ["truncate", "empty", "grow", "flip", "remove"])
@pytest.mark.parametrize("name", [*CONTENT, "commit.json"])
def test_damage_is_found_set_aside_and_redone(ledger, files, name, damage, caplog):
    """verify=full finds every damage, verify=size every one that changes a size; the bad bytes go to quarantine with
    a record, the warning names stage, key and object, and the work can be redone."""
    commit = ledger.commit(STAGE, KEY, files, {}, {})
    path = ledger.objects.path(commit_name(commit)) if name == "commit.json" else ledger.open_url(commit, name)[1]
    data = ledger.objects.fs.cat_file(path)
    bad = {"truncate": data[:-1], "empty": b"", "grow": data + b"x", "flip": bytes([data[0] ^ 8]) + data[1:]}
    if damage == "remove":
        ledger.objects.fs.rm_file(path)
    else:
        ledger.objects.fs.pipe_file(path, bad[damage])
    with caplog.at_level(logging.WARNING):
        if damage == "flip" and name != "commit.json":
            assert ledger.find(STAGE, KEY, verify="size") == commit
        assert ledger.find(STAGE, KEY, verify="full" if damage == "flip" else "size") is None
    stored = snapshot(ledger)
    assert commit_name(commit) not in stored
    if (name, damage) != ("commit.json", "remove"):
        assert all(text in caplog.text for text in (STAGE, KEY, name))
        (why,) = [json.loads(raw) for path, raw in stored.items() if path.endswith("why.json")]
        assert why["key"] == KEY and why["stage"] == STAGE and list(why["problems"]) == [name]
        kept = [raw for path, raw in stored.items() if path.startswith("quarantine/") and path.endswith(name)]
        assert kept == ([] if damage == "remove" else [bad[damage]])
    again = ledger.commit(STAGE, KEY, files, {}, {})
    assert ledger.find(STAGE, KEY, verify="full") == again != commit


def test_every_97th_byte(ledger, files):
    """One bit flipped at every 97th byte of every object, commit.json included: verify=full finds each of them."""
    commit = ledger.commit(STAGE, KEY, files, {"a": [1, 2]}, {"b": "text"})
    before, flips = snapshot(ledger), 0
    for name, data in before.items():
        for position in range(0, len(data), 97):
            bad = bytearray(data)
            bad[position] ^= 1 << position % 8
            ledger.objects.fs.pipe_file(ledger.objects.path(name), bytes(bad))
            assert ledger.find(STAGE, KEY, verify="full") is None, (name, position)
            put_back(ledger, before)
            flips += 1
    assert flips > 15 and ledger.find(STAGE, KEY, verify="full") == commit


def test_a_commit_of_another_unit_is_refused(ledger, files):
    """An intact commit.json copied to another key, or one that points out of its attempt, is not trusted."""
    commit = ledger.commit(STAGE, KEY, files, {}, {})
    other = "f" * 64
    path = ledger.objects.path(f"{STAGE}/ff/{other}/commit.json")
    ledger.commit(STAGE, other, {}, {}, {})
    ledger.objects.fs.pipe_file(path, commit.to_bytes())
    assert ledger.find(STAGE, other, verify="none") is None
    outside = commit.files["video.mp4"].model_copy(update={"object": "../../../secret"})
    forged = commit.model_copy(update={"files": {"video.mp4": outside}})
    with pytest.raises(ValueError, match="outside its own attempt"):
        Commit.from_bytes(forged.to_bytes(), STAGE, KEY)


@pytest.mark.parametrize("raw", [b"", b"null", b"[]", b"{", b'{"a":NaN}', b"[" * 100_000, b"\xff\xfe", b'"x"', b"1"])
def test_any_bytes_may_lie_there(raw):
    """Whatever commit.json holds, reading it ends in ValueError."""
    with pytest.raises(ValueError, match="can't be read"):
        Commit.from_bytes(raw, STAGE, KEY)


def test_a_commit_that_is_being_written_is_waited_for(ledger, files, monkeypatch):
    """A store that makes commit.json first and fills it then may be read in between: nothing is set aside."""
    commit = ledger.commit(STAGE, KEY, files, {}, {})
    before, parts = snapshot(ledger), [commit.to_bytes(), commit.to_bytes()[:-10]]
    path = ledger.objects.path(commit_name(commit))
    ledger.objects.fs.pipe_file(path, b"")
    clock = SimpleNamespace(sleep=lambda _: ledger.objects.fs.pipe_file(path, parts.pop()))
    monkeypatch.setattr("cogvideo_core.storage.ledger.time", clock)
    assert ledger.find(STAGE, KEY, verify="full") == commit and parts == []
    assert snapshot(ledger) == before


def test_two_writers_race(ledger, files, request):
    """Two threads that commit one key at the same time both succeed, with the same commit, and leave nothing over. On a
    store that overwrites what it was told to create, each has a whole commit, and one of them stays."""
    creates = "quirky" not in request.node.name
    for turn in range(5):
        key, barrier, results = f"{turn:064x}", threading.Barrier(2), []

        def write(key=key, barrier=barrier, results=results):
            barrier.wait()
            results.append(ledger.commit(STAGE, key, files, {}, {}))

        threads = [threading.Thread(target=write) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(results) == 2 and ledger.find(STAGE, key, verify="full") in results
        assert [ledger.check(result) for result in results] == [{}, {}]
        assert results[0] == results[1] or not creates
    assert len(snapshot(ledger)) == 5 * 3 or not creates


def test_the_loser_replaces_a_bad_winner(ledger, files):
    """Who loses to a commit whose data are bad sets that aside and commits its own."""
    first = ledger.commit(STAGE, KEY, files, {}, {})
    fs, path = ledger.open_url(first, "video.mp4")
    fs.pipe_file(path, b"\xff" * 512)
    second = ledger.commit(STAGE, KEY, files, {}, {})
    assert second.attempt != first.attempt and ledger.find(STAGE, KEY, verify="full") == second


@pytest.mark.parametrize("error", [KeyboardInterrupt, StorageError, MemoryError])
def test_a_crash_before_the_commit_leaves_nothing_trusted(ledger, files, error, monkeypatch):
    """Data without commit.json count for nothing; the next attempt is whole."""

    def crash(name, data):
        raise error("crash")

    with monkeypatch.context() as patch:
        patch.setattr(ledger.objects, "create", crash)
        with pytest.raises(error):
            ledger.commit(STAGE, KEY, files, {}, {})
    assert len(snapshot(ledger)) == 2
    assert ledger.find(STAGE, KEY, verify="none") is None and list(ledger.units(STAGE)) == []
    assert ledger.find(STAGE, KEY) is None
    commit = ledger.commit(STAGE, KEY, files, {}, {})
    assert ledger.find(STAGE, KEY, verify="full") == commit


class Faulty(Objects):
    """A store whose n-th call fails, before or after it did its work."""

    def __init__(self, inner, nth, late):
        super().__init__(inner.fs, inner.root)
        self.left, self.late = nth, late

    def _call(self, verb, *arguments):
        self.left -= 1
        if self.left == 0 and not self.late:
            raise StorageError(f"{verb}: injected")
        result = getattr(Objects, verb)(self, *arguments)
        if self.left == 0:
            raise StorageError(f"{verb}: injected, late")
        return result

    def read(self, *arguments):
        return self._call("read", *arguments)

    def put(self, *arguments):
        return self._call("put", *arguments)

    def create(self, *arguments):
        return self._call("create", *arguments)

    def remove(self, *arguments):
        return self._call("remove", *arguments)

    def move(self, *arguments):
        return self._call("move", *arguments)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("bad", [False, True])
def test_any_call_may_fail(files, late, bad):
    """Whichever call to the store fails, early or after the deed, a second try ends with one intact commit; so too
    when the first has to set a damaged unit aside."""
    for nth in range(1, 60):
        objects = open_objects(f"memory://faulty/{uuid.uuid4().hex}")
        ledger, faulty = Ledger(objects), Ledger(Faulty(objects, nth, late))
        if bad:
            fs, path = ledger.open_url(ledger.commit(STAGE, KEY, files, {}, {}), "video.mp4")
            fs.pipe_file(path, b"\xff" * 512)
        for each in (faulty, ledger):
            try:
                commit = each.find(STAGE, KEY, verify="full") or each.commit(STAGE, KEY, files, {}, {})
            except StorageError as error:
                assert "injected" in str(error) and each is faulty
        assert ledger.find(STAGE, KEY, verify="full") == commit
        if faulty.objects.left > 0:  # beyond the last call
            break
    assert 5 < nth < 59


def test_a_lost_answer_is_not_a_lost_commit(ledger, files, monkeypatch):
    """commit.json was created but the answer got lost: the writer looks, and is content."""
    create = ledger.objects.create

    def late(name, data):
        create(name, data)
        raise StorageError("time-out")

    monkeypatch.setattr(ledger.objects, "create", late)
    commit = ledger.commit(STAGE, KEY, files, {}, {})
    assert ledger.find(STAGE, KEY, verify="full") == commit


def test_a_refusal_in_other_words(ledger, files, monkeypatch):
    """Some clients report "it exists already" as an ordinary failure: the loser still takes the winner's commit."""
    create, winners = ledger.objects.create, []

    def beaten(name, data):
        ledger.objects.create = create
        winners.append(ledger.commit(STAGE, KEY, files, {}, {}))
        raise StorageError("a pre-condition did not hold")

    monkeypatch.setattr(ledger.objects, "create", beaten)
    assert ledger.commit(STAGE, KEY, files, {}, {}) == winners[0]
    assert len(snapshot(ledger)) == 3


def test_a_retried_request_meets_its_own_commit(ledger, files, monkeypatch):
    """A client that retried a request that had succeeded is told "exists": its own commit stays whole."""
    create = ledger.objects.create

    def twice(name, data):
        create(name, data)
        create(name, data)

    monkeypatch.setattr(ledger.objects, "create", twice)
    commit = ledger.commit(STAGE, KEY, files, {}, {})
    assert ledger.find(STAGE, KEY, verify="full") == commit


def test_a_store_without_create_only(files):
    """Where a later writer overwrites an earlier one's commit.json, both return the one that lies there."""
    ledger = Ledger(f"memory://quirky/{uuid.uuid4().hex}")
    theirs: list[Commit] = []

    def overwrite(name, data):
        ledger.objects.fs.pipe_file(ledger.objects.path(name), data)
        if not theirs:
            theirs.append(None)
            theirs[0] = ledger.commit(STAGE, KEY, files, {}, {})

    ledger.objects.create = overwrite
    assert ledger.commit(STAGE, KEY, files, {}, {}) == theirs[0] == ledger.find(STAGE, KEY, verify="full")
    assert len(snapshot(ledger)) == 3


def test_a_short_write_is_noticed(files, monkeypatch):
    """A store that keeps fewer bytes than it was given is found out at once, and nothing is left."""
    ledger = Ledger(f"memory://short/{uuid.uuid4().hex}")
    monkeypatch.setattr(ledger.objects, "size", lambda name: 100)
    with pytest.raises(StorageError, match=r"video\.mp4.*100 bytes stored of 512"):
        ledger.commit(STAGE, KEY, files, {}, {})
    assert snapshot(ledger) == {}


def test_a_full_disk_is_an_error_of_the_store(ledger, files, monkeypatch):
    """ENOSPC becomes a StorageError that names the object and may be retried; a failing store is never "not done"."""

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(local.os if ledger.objects.local else ledger.objects, *_writing(ledger, full))
    with pytest.raises(StorageError, match=r"video\.mp4.*No space left on device.*run again") as caught:
        ledger.commit(STAGE, KEY, files, {}, {})
    assert caught.value.retryable
    monkeypatch.setattr(ledger.objects.fs, "cat_file", full)
    with pytest.raises(StorageError, match="No space left"):
        ledger.find(STAGE, KEY)


def _writing(ledger, full):
    return ("fsync", full) if ledger.objects.local else ("_writer", full)


def test_disks_without_hard_links(files, tmp_path, monkeypatch):
    """Where the disk has no hard links, commit.json is still created only once."""

    def refuse(source, target):
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(local.os, "link", refuse)
    ledger = Ledger(str(tmp_path / "root"))
    commit = ledger.commit(STAGE, KEY, files, {}, {})
    assert ledger.commit(STAGE, KEY, files, {}, {}) == commit == ledger.find(STAGE, KEY, verify="full")
    assert len(snapshot(ledger)) == 3


bad_keys = st.text(max_size=80) | st.sampled_from(
    [
        "",
        ".",
        "..",
        "/",
        "../" * 20 + "etc",
        "A" * 64,
        "g" * 64,
        "a" * 63,
        "a" * 65,
        "a" * 64 + "\n",
        "／" * 64,
        "٣" * 64,
    ]
)
bad_names = st.text(max_size=30).filter(
    lambda text: not (text and set(text) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-"))
) | st.sampled_from(["..", ".", "a/../b", "/a", "a/", "a//b", "./a", "a\\b", "a\x00", "a\n", "b" * 101, "c:d"])


@settings(max_examples=200, deadline=None)
@given(bad_keys, bad_names)
def test_nothing_leaves_the_root(key, name):
    """A key that is not 64 hex characters, a name that is not plain, an unknown stage: refused before any access."""
    ledger = Ledger(Objects(None, "nowhere"))  # any access would be an AttributeError
    for stage in STAGES:
        with pytest.raises(ValueError, match="key"):
            ledger.find(stage, key)
        with pytest.raises(ValueError, match="key"):
            ledger.commit(stage, key, {}, {}, {})
    parts = name.split("/")
    if "" in parts or ".." in parts or "." in parts or not name.replace("/", "").isascii():
        with pytest.raises(ValueError, match="file name"):
            ledger.commit(STAGE, KEY, {name: Path("x")}, {}, {})


@pytest.mark.parametrize(
    "name", ["..", "a/../b", "/a", "a/", "a//b", "./a", "a\\b", "a\x00", "a\n", "b" * 101, "é", ""]
)
def test_names_that_are_refused(name):
    """Logical file names are plain relative names."""
    with pytest.raises(ValueError, match="file name"):
        Ledger(Objects(None, "nowhere")).commit(STAGE, KEY, {name: Path("x")}, {}, {})


@pytest.mark.parametrize("stage", ["", "..", "quarantine", "edits/..", "Edits"])
def test_stages_that_are_refused(stage):
    """Only the stages are folders of the ledger."""
    ledger = Ledger(Objects(None, "nowhere"))
    for call in (lambda: ledger.find(stage, KEY), lambda: list(ledger.units(stage))):
        with pytest.raises(ValueError, match="stage"):
            call()


def test_symlinks_do_not_lead_out(files, tmp_path):
    """A unit's folder that is a symlink to elsewhere is refused; a stage kept on another disk by a symlink is not."""
    outside, root = tmp_path / "outside", tmp_path / "root"
    outside.mkdir()
    (root / STAGE / KEY[:2]).mkdir(parents=True)
    (root / STAGE / KEY[:2] / KEY).symlink_to(outside)
    (root / "latents").symlink_to(outside)
    ledger = Ledger(str(root))
    for call in (lambda: ledger.find(STAGE, KEY), lambda: ledger.commit(STAGE, KEY, files, {}, {})):
        with pytest.raises(BadSpec, match="symlink leads out"):
            call()
    assert os.listdir(outside) == []
    assert ledger.commit("latents", KEY, files, {}, {}) == ledger.find("latents", KEY, verify="full")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text(max_size=9), json_values, max_size=4))
def test_commit_json_round_trip(spec):
    """Any JSON spec comes back equal, and the commit's bytes are the same when written again."""
    ledger = Ledger(f"memory://roundtrip/{uuid.uuid4().hex}")
    commit = ledger.commit(STAGE, KEY, {}, spec, {10: "a", 9: "b"})
    found = ledger.find(STAGE, KEY)
    assert found == commit and found.spec == spec and found.record == {"9": "b", "10": "a"}
    assert found.sha256 == commit.sha256 and Commit.from_bytes(commit.to_bytes(), STAGE, KEY) == commit


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1, 2}, b"x", "\ud800", object()])
def test_what_is_not_json_is_refused(ledger, files, value):
    """A spec or record that JSON can't hold is refused before anything is stored."""
    with pytest.raises(ValueError, match=f"record of edits {KEY}: not plain JSON"):
        ledger.commit(STAGE, KEY, files, {}, {"value": value})
    with pytest.raises(ValueError, match=f"spec of edits {KEY}: not plain JSON"):
        ledger.commit(STAGE, KEY, files, {"value": value}, {})
    assert ledger.objects.names(STAGE) == []


@pytest.mark.parametrize("root", ["simplecache::memory://x", "nosuchprotocol://x"])
def test_roots_that_are_refused(root):
    """A cache in front of a store, or an unknown protocol, can't keep the ledger's promises."""
    with pytest.raises(BadSpec, match="root"):
        Ledger(root)


def test_errors_tell_no_secrets():
    """Passwords and signatures in URLs don't reach messages."""
    text = redacted(OSError("GET https://me:hunter2@host/a?X-Signature=deadbeef failed"))
    assert "hunter2" not in text and "deadbeef" not in text and "host/a" in text
