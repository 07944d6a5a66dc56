"""A root as a whole: every damage is found and named, a run repairs it, and only what nothing needs goes."""

from __future__ import annotations

import pickle
import random
import shutil
import uuid
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from cogvideo_core.dataset.tables import collect_run
from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.specs import OutputSpec
from cogvideo_core.storage.keys import STAGES
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.upkeep.verify import garbage, open_root, remove, retention, usage, verify_tree

NOW = timedelta(0)


@pytest.fixture
def run(toy: Any, tmp_path: Path) -> Callable[..., Any]:
    """run(root, ...): a whole toy run of one clip, with its evaluations."""

    def started(root: str, **more: Any) -> int:
        model = toy.ToyModel()
        assert not any("error" in record for record in toy.run(root, tmp_path / "clips", 1, model, **more))
        return model.evaluations

    return started


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def is_watched(name: str) -> bool:
    """What the promise of `verify` covers: shards, collected videos, and commits of all stages."""
    inside = name.startswith("trajectories/") or name.startswith("dataset/videos/")
    return inside or (name.endswith("/commit.json") and name.split("/")[0] in STAGES)


DAMAGES: dict[str, Callable[[bytes, random.Random], bytes | None]] = {
    "flip": lambda data, draw: flipped(data, draw.randrange(len(data)), draw.randrange(8)),
    "truncate": lambda data, draw: data[: draw.randrange(1, len(data))],
    "empty": lambda data, draw: b"",
    "remove": lambda data, draw: None,
}


def flipped(data: bytes, at: int, bit: int) -> bytes:
    return data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


def test_a_backup_without_trajectories_is_whole(run: Any, toy: Any, tmp_path: Path) -> None:
    """What deployments/README.md tells to copy, without trajectories, tables and dataset: nothing in it is damaged,
    collecting gives the dataset back, and a run makes the trajectories anew and no edit."""
    root, copy = tmp_path / "run", tmp_path / "copy"
    whole = run(str(root))
    shutil.copytree(root, copy, ignore=shutil.ignore_patterns("trajectories", "tables", "dataset"))
    assert list(verify_tree(str(copy))) == []
    collect_run(OutputSpec(root=str(copy)), Ledger(str(copy)), [], {})
    rows = [(path / "dataset" / "metadata.jsonl").read_bytes() for path in (root, copy)]
    assert rows[0] == rows[1] and rows[0]
    assert 0 < run(str(copy)) < whole
    assert toy.result(str(copy)) == toy.result(str(root))


@pytest.mark.parametrize("damage", ["flip", *(pytest.param(d, marks=pytest.mark.e2e) for d in list(DAMAGES)[1:])])
def test_every_damage_is_found_named_and_repaired(run: Any, toy: Any, tmp_path: Path, damage: str) -> None:
    """Each shard, collected video and commit, one after the other: full verification names exactly what was damaged,
    and a run that verifies in full ends with the result it had, and a clean tree."""
    root, draw = tmp_path / "run", random.Random(damage)
    whole = run(str(root))
    good, names, ledger = toy.result(str(root)), list(filter(is_watched, files(root))), Ledger(str(root))
    assert len(names) == 1 + 4 + 12 and list(verify_tree(str(root))) == []
    for name in names:
        (path,) = [root / each for each in files(root) if same_place(each, name)]
        bad = DAMAGES[damage](path.read_bytes(), draw)
        path.unlink() if bad is None else path.write_bytes(bad)
        found = {finding.name for finding in verify_tree(str(root))}
        assert path.relative_to(root).as_posix() in found, name
        assert all(each.startswith(("dataset/", *found_near(name))) for each in found), found
        assert run(str(root), verify="full") <= whole
        assert toy.result(str(root)) == good and list(verify_tree(str(root))) == [], name
        remove(ledger, list(garbage(ledger, "all", NOW)))  # what a commit that can't be read leaves behind


def same_place(one: str, other: str) -> bool:
    """Whether two names differ in nothing but the attempt."""
    return [part for part in one.split("/") if len(part) != 32] == [
        part for part in other.split("/") if len(part) != 32
    ]


def found_near(name: str) -> tuple[str, ...]:
    """A unit's folder: what is wrong with a commit may be said of its folder too."""
    return ("/".join(name.split("/")[:3]),)


def test_sizes_alone_do_not_show_a_flip(run: Any, tmp_path: Path) -> None:
    """Verification by size sees a cut and no flip, and none at all looks at commits only."""
    root = tmp_path / "run"
    run(str(root))
    (shard,) = root.glob("trajectories/*/*/*/trajectory.arrow")
    data = shard.read_bytes()
    shard.write_bytes(flipped(data, len(data) // 2, 0))
    assert [len(list(verify_tree(str(root), how))) for how in ("none", "size", "full")] == [0, 0, 1]  # type: ignore[arg-type]
    shard.write_bytes(data[:-1])
    assert [len(list(verify_tree(str(root), how))) for how in ("none", "size", "full")] == [0, 1, 1]  # type: ignore[arg-type]


def test_collecting_repairs_collected_videos_alone(run: Any, toy: Any, tmp_path: Path) -> None:
    """collect with verify=full compares each copy with what is committed; with verify=size it trusts equal sizes."""
    root = tmp_path / "run"
    run(str(root))
    good = toy.result(str(root))
    for video in sorted(root.glob("dataset/videos/*.mp4")):
        video.write_bytes(flipped(video.read_bytes(), 100, 3))
    for verify, counts in (("size", (0, 4)), ("full", (4, 0))):
        output = OutputSpec(root=str(root), verify=verify)  # type: ignore[arg-type]
        done = collect_run(output, Ledger(str(root)), [], {})
        assert (done["copied"], done["kept"]) == counts
    assert toy.result(str(root)) == good


@pytest.mark.parametrize("name", ["tables/edits.parquet", "tables/timings.parquet", "plan/settings.json"])
@pytest.mark.parametrize("damage", ["truncate", "empty"])
def test_a_broken_table_stops_nothing(run: Any, toy: Any, tmp_path: Path, name: str, damage: str) -> None:
    """Tables and the plan are views: a broken one is said so and made anew."""
    root = tmp_path / "run"
    run(str(root))
    good, path = toy.result(str(root)), root / name
    path.write_bytes(DAMAGES[damage](path.read_bytes(), random.Random(0)) or b"")
    assert collect_run(OutputSpec(root=str(root)), Ledger(str(root)), [], {})["edits"] == 3
    assert run(str(root)) == 0 and toy.result(str(root)) == good


def stray(root: Path) -> list[str]:
    """An attempt beside a commit, one without a commit, and a half-made commit."""
    unit = next(root.glob("trajectories/*/*"))
    other = root / "edits" / "ab" / ("ab" * 32)
    names = [unit / uuid.uuid4().hex / "trajectory.arrow", other / uuid.uuid4().hex / "edit.mp4"]
    names.append(unit / f"commit.json.{uuid.uuid4().hex}.tmp")
    for path in names:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 10)
    return sorted(path.relative_to(root).as_posix() for path in names)


def test_attempts_without_commit_go_when_they_are_old(run: Any, tmp_path: Path) -> None:
    """Only those; younger than the limit they may belong to a writer; nothing goes before `remove`."""
    root = tmp_path / "run"
    run(str(root))
    before, strays, ledger = files(root), stray(root), open_root(str(root))
    assert list(garbage(ledger, "all", timedelta(hours=1))) == []
    found = list(garbage(ledger, "all", NOW))
    assert sorted(finding.name for finding in found) == strays and {finding.size for finding in found} == {10}
    remove(ledger, found)
    assert files(root) == before and list(garbage(ledger, "all", NOW)) == []


def test_a_commit_that_does_not_verify_keeps_its_objects(run: Any, tmp_path: Path) -> None:
    """A rotten commit.json is no licence to remove a trajectory."""
    root = tmp_path / "run"
    run(str(root))
    commit = next(root.glob("trajectories/*/*/commit.json"))
    commit.write_bytes(flipped(commit.read_bytes(), 40, 1))
    assert list(garbage(open_root(str(root)), "none", NOW)) == []


@pytest.mark.parametrize("kind", ["file", "memory"])
def test_trajectories_past_their_retention(run: Any, toy: Any, tmp_path: Path, kind: str) -> None:
    """until_edited: those whose edits are all made; none: all; the run's own setting is known; edits stay."""
    root = str(tmp_path / "run") if kind == "file" else f"memory://upkeep/{uuid.uuid4().hex}"
    run(root)
    ledger, good = open_root(root), toy.result(root)
    assert retention(ledger) == "all" and list(garbage(ledger, "all", NOW)) == []
    assert len(list(garbage(ledger, "until_edited", NOW))) == 2
    edits = list(ledger.units("edits"))
    (pair, *_) = [commit.record["batch"] for commit in edits if len(commit.record["batch"]) == 2]
    for commit in edits:
        if commit.key != pair[0]:
            ledger.remove(commit)
    assert list(garbage(ledger, "until_edited", NOW)) == []
    remove(ledger, list(garbage(ledger, "none", NOW)))
    assert list(ledger.units("trajectories")) == [] and usage(ledger).get("trajectories", (0, 0)) == (0, 0)
    assert run(root) > 0 and toy.result(root) == good


def test_what_was_set_aside_goes_on_demand(run: Any, tmp_path: Path) -> None:
    """Quarantine is kept until it is asked for."""
    root = tmp_path / "run"
    run(str(root))
    (shard,) = root.glob("trajectories/*/*/*/trajectory.arrow")
    shard.write_bytes(b"rotten")
    run(str(root), verify="full")
    ledger = open_root(str(root))
    assert list(garbage(ledger, "all", NOW)) == []
    found = list(garbage(ledger, "all", NOW, quarantine=True))
    assert {finding.name.rpartition("/")[2] for finding in found} == {"why.json", "commit.json", "trajectory.arrow"}


def test_usage_adds_up(run: Any, tmp_path: Path) -> None:
    """Objects and bytes of each folder are those on disk, stages first."""
    root = tmp_path / "run"
    run(str(root))
    found, stored = usage(open_root(str(root))), files(root)
    assert sum(count for count, _ in found.values()) == len(stored)
    assert sum(size for _, size in found.values()) == sum(map(len, stored.values()))
    tops = {name.split("/")[0] if "/" in name else "" for name in stored}
    assert list(found)[:6] == [stage for stage in STAGES if stage in tops] and set(found) == tops


def test_a_mistyped_root_is_an_error(tmp_path: Path) -> None:
    """A root where nothing was ever stored is not reported as sound."""
    for call in (lambda: open_root(str(tmp_path / "typo")), lambda: list(verify_tree(str(tmp_path / "typo")))):
        with pytest.raises(BadSpec, match=r"nothing is stored under .*typo'; give the root of a run"):
            call()
    assert not (tmp_path / "typo").exists()


def test_nothing_is_unpickled(run: Any, toy: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing, reading back with every check, repairing and collecting: no pickle is opened on the way."""

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("something was unpickled")

    for module, name in ((pickle, "load"), (pickle, "loads"), (pickle, "Unpickler"), (torch, "load"), (np, "load")):
        monkeypatch.setattr(module, name, refuse)
    root = tmp_path / "run"
    for container, codec in (("arrow", "xor-shuffle-zstd"), ("zarr", "shuffle-zstd")):
        run(f"{root}-{container}", container=container, codec=codec)
        assert run(f"{root}-{container}", verify="full", container=container, codec=codec) == 0
        assert list(verify_tree(f"{root}-{container}")) == []
