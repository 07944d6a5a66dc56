"""A dataset of many edits: its layout, what `datasets` makes of it, memory that does not grow, and collecting again."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made_up_root import key_of, make_root, rows_of

from cogvideo_core.dataset import collect, columns, contact_sheet, gallery, gather, spool, tables, videos
from cogvideo_core.dataset.rows import OWN, TABLE_FIELDS, edit_rows, metadata_bytes
from cogvideo_core.dataset.target import temporary_prefix
from cogvideo_core.errors import StorageError
from cogvideo_core.settings.specs import OutputSpec
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.upkeep.verify import verify_tree
from tasks.work import place_videos

Row = dict[str, Any]
EDITS, MANY = 40, 30


@pytest.fixture
def small_limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few edits are many, and a row group or a thread's part is a few rows."""
    monkeypatch.setattr(collect, "MANY", MANY)
    for module in (collect, columns):
        monkeypatch.setattr(module, "GROUP", 7)
    monkeypatch.setattr(collect, "AT_ONCE", 20)
    monkeypatch.setattr(spool, "READ_AT_ONCE", 10)
    monkeypatch.setattr(gather, "PART", 5)


def collected(root: Path, **output: Any) -> Row:
    return tables.collect_run(OutputSpec(root=str(root), **output), Ledger(str(root)), [], {})


def tree(root: Path, *tops: str) -> dict[str, bytes]:
    """What a collection has written, without what it keeps for itself."""
    wanted = tops or ("tables", "dataset", "index.html")
    files = (path for path in root.rglob("*") if path.is_file() and path.relative_to(root).parts[0] in wanted)
    found = {str(path.relative_to(root)): path.read_bytes() for path in files}
    return {name: data for name, data in found.items() if not name.endswith("collected.json")}


def loaded(folder: Path, cache: Path, **more: Any) -> Any:
    """The dataset as `datasets` loads it, its videos as paths."""
    from datasets import Video, load_dataset

    found = load_dataset("videofolder", split="train", cache_dir=str(cache), **more)
    for column in ("video", "source"):
        found = found.cast_column(column, Video(decode=False))
    return found


@pytest.mark.usefixtures("small_limits")
def test_others_may_copy_the_videos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whole batches, each by a worker that is told by JSON: the same files and counts; a second time there is nothing
    to copy."""
    monkeypatch.setattr(videos, "BATCH", 15)
    sizes: list[int] = []

    def by_workers(root: str, linked: bool, batches: Iterator[list[Any]]) -> Iterator[tuple[list[Any], list[Any]]]:
        for batch in batches:
            sizes.append(len(batch))
            yield batch, place_videos.fn(root, linked, json.loads(json.dumps(batch)))

    make_root(tmp_path / "run", EDITS)
    output, ledger = OutputSpec(root=str(tmp_path / "run")), Ledger(str(tmp_path / "run"))
    spread = tables.collect_run(output, ledger, [], {}, placing=by_workers)
    files, made = tree(tmp_path / "run"), list(sizes)
    again = tables.collect_run(output, ledger, [], {"title": "b"}, placing=by_workers)
    alone = tmp_path / "alone"
    make_root(alone, EDITS)
    assert collected(alone) == spread and tree(alone) == files
    assert made == [15, 15, 15, 5] == sizes and again["copied"] == 0 and again["kept"] == spread["copied"] == 50


@pytest.mark.parametrize("streaming", [False, True], ids=["loaded", "streamed"])
@pytest.mark.parametrize("edits", [MANY, EDITS], ids=["small", "large"])
@pytest.mark.usefixtures("small_limits")
def test_datasets_loads_both_sizes(edits: int, streaming: bool, tmp_path: Path) -> None:
    """Up to the limit one metadata.jsonl, above it a metadata.parquet in each folder of videos: `datasets` gives each
    edit once, with paths of its own two videos, by `videofolder` and by the card."""
    from datasets import Video, load_dataset

    make_root(tmp_path / "run", edits)
    collected(tmp_path / "run", gallery=False)
    folder = tmp_path / "run/dataset"
    assert (folder / "metadata.jsonl").exists() == (edits <= MANY)
    files = {"data_dir": str(folder)} if edits <= MANY else {"data_files": f"{folder}/videos/*/metadata.parquet"}
    assert str(next(iter(files.values()))).removeprefix(f"{folder.parent}/") in (folder / "README.md").read_text()
    by_card = load_dataset(str(folder), split="train", cache_dir=str(tmp_path / "two"), streaming=streaming)
    by_card = by_card.cast_column("video", Video(decode=False)).cast_column("source", Video(decode=False))
    for found in (loaded(folder, tmp_path / "one", streaming=streaming, **files), by_card):
        rows = list(found)
        assert sorted(row["edit_key"] for row in rows) == sorted(row["edit_key"] for row in rows_of(edits))
        for row in rows:
            video, source = Path(row["video"]["path"]), Path(row["source"]["path"])
            assert video.parent == source.parent and video.read_bytes().startswith(b"edit.mp4")
            assert row["edit_key"][:12] in video.name and row["source_key"][:12] in source.name
            assert source.read_bytes().startswith(b"source.mp4") and row["id"] == int(row["clip"][-11:-4])


@pytest.mark.usefixtures("small_limits")
def test_a_dataset_that_grows_moves_once_and_back(tmp_path: Path) -> None:
    """Past the limit the videos get names in folders and are not copied again; the old names and metadata go; with
    fewer edits it is as it was before. The tables name the files where they are."""
    make_root(tmp_path, MANY)
    counts = collected(tmp_path)
    before = tree(tmp_path, "dataset")
    make_root(tmp_path, EDITS, MANY)
    grown = collected(tmp_path)
    new = len({row["source_key"] for row in rows_of(EDITS)} - {row["source_key"] for row in rows_of(MANY)})
    assert grown["copied"] == EDITS - MANY + new and grown["kept"] == counts["copied"]
    names = set(tree(tmp_path, "dataset"))
    rows = list(tables.iter_table(str(tmp_path), "edits"))
    wanted = {f"dataset/{row[name]}" for row in rows for name in ("file_name", "source_file_name")}
    assert {name for name in names if name.endswith(".mp4")} == wanted
    assert {name for name in names if "metadata" in name} == {f"{name[:17]}/metadata.parquet" for name in wanted}
    assert list(verify_tree(str(tmp_path))) == [] and len(contact_sheet.first_clips(str(tmp_path))) == 6
    for row in rows_of(EDITS, MANY):
        (tmp_path / "edits" / row["edit_key"][:2] / row["edit_key"] / "commit.json").unlink()
    shrunk = collected(tmp_path)
    assert (shrunk["edits"], shrunk["errors"]) == (MANY, EDITS - MANY)
    assert {name for name in tree(tmp_path, "dataset") if name.endswith(".mp4")} == {
        name for name in before if name.endswith(".mp4")
    }
    assert (tmp_path / "dataset/metadata.jsonl").read_bytes() == before["dataset/metadata.jsonl"]


def plain_tables(rows: list[Row]) -> tuple[pa.Table, bytes]:
    """Edits' table and metadata.jsonl, of all rows at once."""
    flat = edit_rows(rows)
    others = sorted({name for row in flat for name in row} - {*TABLE_FIELDS, OWN})
    columns = {name: pa.array([row.get(name) for row in flat], kind) for name, kind in TABLE_FIELDS.items()}
    columns |= {name: pa.array([row.get(name) for row in flat]) for name in others}
    return pa.table(columns), metadata_bytes(flat)


def test_rows_in_parts_are_the_rows_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the order in which rows come: the same table, types included, and the same metadata; and with one row
    group the very bytes that Arrow writes of one table."""
    rows = []
    for number, row in enumerate(rows_of(50)):
        own = {"id": number if number % 2 else number / 3, "mixed": number if number < 40 else "x", "tags": []}
        own |= {"tags": ["a"]} if number > 44 else {}
        places = {f"{what}_object": str(tmp_path / f"made-up/{what}.mp4") for what in ("edit", "source")}
        rows.append(row | places | {"own": json.dumps(own if number % 5 else {})})
    make_root(tmp_path, 0)
    table, lines = plain_tables(rows)
    inside = [name.removeprefix(f"{tmp_path}/") for name in table["edit_object"].to_pylist()]
    table = table.set_column(table.schema.names.index("edit_object"), "edit_object", pa.array(inside))
    inside = [name.removeprefix(f"{tmp_path}/") for name in table["source_object"].to_pylist()]
    table = table.set_column(table.schema.names.index("source_object"), "source_object", pa.array(inside))
    pq.write_table(table, tmp_path / "plain.parquet", compression="zstd")
    for group in (columns.GROUP, 7):
        monkeypatch.setattr(collect, "GROUP", group)
        shuffled = random.Random(group).sample(rows, len(rows))
        collect.collect(str(tmp_path), iter(shuffled), [], [], {}, gallery=False)
        found = pq.read_table(tmp_path / "tables/edits.parquet")
        assert found.schema == table.schema and found.to_pylist() == table.to_pylist()
        assert (tmp_path / "dataset/metadata.jsonl").read_bytes() == lines
        same = (tmp_path / "tables/edits.parquet").read_bytes() == (tmp_path / "plain.parquet").read_bytes()
        assert same == (group > 50)


@pytest.mark.parametrize(
    "values", [[1, 2.5], [2**53 + 1, 0.5], [True, 1], [[1], [2.5]], [[], ["a"]], [None], [{"a": 1}]]
)
def test_types_are_known_from_values_one_by_one(values: list[Any]) -> None:
    """As Arrow infers them from all at once; text where it can't."""
    seen = columns.Columns()
    for value in values * 3:
        seen.add("x", value)
    try:
        wanted = pa.array(values).type
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        wanted = pa.string()
    assert seen.types() == {"x": wanted}
    columns.array(values, wanted)


def peak_mib(work: Callable[[], Any]) -> float:
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def many_rows(count: int, root: Path) -> Iterator[Any]:
    places = {f"{what}_object": str(root / f"made-up/{what}.mp4") for what in ("edit", "source")}
    return (row | places | {"kept": False} for row in rows_of(count))


@pytest.mark.usefixtures("small_limits")
def test_memory_does_not_grow_with_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four times the rows, the same peak of Python's memory, all tables and the gallery included."""
    for name, value in {"INLINE_BYTES": 1_000, "INDEX_BYTES": 10_000, "PAGE_SECTIONS": 5}.items():
        monkeypatch.setattr(gallery, name, value)
    for module in (collect, columns):
        monkeypatch.setattr(module, "GROUP", 100)
    monkeypatch.setattr(collect, "AT_ONCE", 100)

    def failures(count: int) -> Iterator[Row]:
        about = {"stage": "encode", "error": "NotAVideo", "kind": "bad_input", "message": "no video"}
        return (about | {"clip": f"{number:07d}.mp4"} for number in range(count))

    def peak(count: int) -> float:
        timings = ({"clip": "a", "stage": "edit", "seconds": 1.0, "reused": False, "evaluations": 1},) * count
        rows = many_rows(count, tmp_path)
        return peak_mib(lambda: collect.collect(str(tmp_path / str(count)), rows, failures(count), iter(timings), {}))

    peak(100)  # imports and caches
    few, many = peak(500), peak(2_000)
    assert many < 1.25 * few, f"{few:.1f} MiB for 500 rows, {many:.1f} MiB for 2,000"


@pytest.mark.usefixtures("small_limits")
def test_gathering_does_not_grow_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows of the ledger and of the last tables: as many live rows, however many there are."""
    monkeypatch.setattr(gather, "AHEAD", 2)
    monkeypatch.setattr(videos, "AHEAD", 4)
    monkeypatch.setattr(videos, "AT_ONCE", 1)  # each has a buffer of a megabyte
    sizes = {"imports and caches": 8, "few": 80, "many": 320}
    for name, edits in sizes.items():
        make_root(tmp_path / name, edits)
    _, few, many = (peak_mib(lambda name=name: collected(tmp_path / name, gallery=False)) for name in sizes)
    assert many < 1.3 * few, f"{few:.1f} MiB for 80 rows, {many:.1f} MiB for 320"


def test_a_full_temporary_disk_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It says where to make room; the tables of before stay."""
    make_root(tmp_path, 60)
    monkeypatch.setattr(collect, "SCHEMA", f"PRAGMA max_page_count=7; {collect.SCHEMA}")
    with pytest.raises(StorageError, match="make room in the folder that TMPDIR names"):
        collected(tmp_path)
    assert not (tmp_path / "dataset").exists() and not (tmp_path / "tables").exists()


@pytest.mark.parametrize("at", ["tables/edits.parquet", "dataset/metadata.jsonl", "index.html"])
def test_an_end_in_the_middle_leaves_whole_tables(at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Writing raises half-way through a file: every file is the one of before or the new one, none is half, nothing is
    left over, and the next collection gives what it would have given."""
    make_root(tmp_path / "run", 20)
    collected(tmp_path / "run")
    before = tree(tmp_path / "run")
    make_root(tmp_path / "run", EDITS, 20)
    make_root(tmp_path / "whole", EDITS)
    collected(tmp_path / "whole")
    after = tree(tmp_path / "whole")
    publish = collect.Target.publish

    def full(target: Any, temporary: str, final: str) -> None:
        if final.endswith(at):
            os.truncate(temporary, os.path.getsize(temporary) // 2)
            raise OSError(28, "No space left on device")
        publish(target, temporary, final)

    with monkeypatch.context() as patch:
        patch.setattr(collect.Target, "publish", full)
        with pytest.raises(Exception, match="No space left"):
            collected(tmp_path / "run")
    for name, data in tree(tmp_path / "run").items():
        assert data in (before.get(name), after.get(name)), name
    assert len(pq.read_table(tmp_path / "run/tables/edits.parquet")) in (20, EDITS)
    collected(tmp_path / "run")
    assert tree(tmp_path / "run") == after


class Counted(Ledger):
    """A ledger that counts the commits it reads."""

    reads = 0

    def find(self, *given: Any) -> Any:
        self.reads += 1
        return super().find(*given)


def reads(root: Path, about: Row | None = None, **output: Any) -> tuple[Row, int]:
    """The counts of a collection, and how many commits it has read."""
    ledger = Counted(str(root))
    return tables.collect_run(OutputSpec(root=str(root), **output), ledger, [], about or {}), ledger.reads


def test_collecting_again_reads_what_is_new(tmp_path: Path) -> None:
    """Nothing where nothing has changed, and no file is written; new edits and their sources alone where some came;
    no commit for a review or another limit, which decide anew; everything with verify=full. Each time the tables are
    those of a collection from nothing."""
    make_root(tmp_path / "run", 20)
    first = collected(tmp_path / "run")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    again, read = reads(tmp_path / "run")
    assert read == 0 and again == first | {"copied": 0, "kept": first["copied"]}
    assert stamps == {path: path.stat().st_mtime_ns for path in (tmp_path / "run").rglob("*") if path.is_file()}
    make_root(tmp_path / "run", 28, 20)
    assert reads(tmp_path / "run")[1] == 8 + 2
    (tmp_path / "run/reviews.jsonl").write_text(json.dumps({"edit_key": key_of("edit", 0, 1), "said": "reject"}) + "\n")
    counts, read = reads(tmp_path / "run")
    assert (counts["edits"], counts["rejected"], read) == (27, 1, 0)
    about = {"judge": {"text": "none", "preset": "off", "least_preserved": 0.5}}
    counts, read = reads(tmp_path / "run", about)
    assert counts["rejected"] > 5 and read == 0
    assert reads(tmp_path / "run", verify="full")[1] >= 28
    make_root(tmp_path / "new", 28)
    (tmp_path / "new/reviews.jsonl").write_bytes((tmp_path / "run/reviews.jsonl").read_bytes())
    reads(tmp_path / "new", about)
    assert tree(tmp_path / "run") == tree(tmp_path / "new")


@pytest.mark.parametrize("gone", ["commit.json", "edit.mp4"])
def test_a_lost_or_cut_object_is_seen_again(gone: str, tmp_path: Path) -> None:
    """A commit or video that is gone makes its row a failure of stage collect, though the tables of before knew it."""
    make_root(tmp_path, 8)
    collected(tmp_path)
    key = key_of("edit", 1, 2)
    (path,) = (tmp_path / "edits" / key[:2] / key).rglob(gone)
    path.unlink()
    counts = collected(tmp_path)
    assert (counts["edits"], counts["errors"]) == (7, 1)
    (error,) = tables.read_table(str(tmp_path), "errors")
    assert error["stage"] == "collect" and "is gone" in error["message"]


@pytest.mark.parametrize("damage", ["dataset/README.md", "video", "tables/collected.json", "tables/edits.parquet"])
def test_what_was_taken_away_comes_back(damage: str, tmp_path: Path) -> None:
    """A file that a collection wrote, and that is gone or shorter since, is written again, though nothing else
    changed."""
    make_root(tmp_path, 8)
    collected(tmp_path)
    before = tree(tmp_path)
    path = next((tmp_path / "dataset/videos").glob("*source.mp4")) if damage == "video" else tmp_path / damage
    path.write_bytes(path.read_bytes()[:-7])
    assert collected(tmp_path)["edits"] == 8
    assert tree(tmp_path) == before


def test_videos_can_be_linked(tmp_path: Path) -> None:
    """`output.videos=link` gives stored videos a second name; going back to copies replaces them by files of their own,
    for then users may write to them."""
    make_root(tmp_path, 4)
    collected(tmp_path, videos="link")
    copies = sorted((tmp_path / "dataset/videos").glob("*.mp4"))
    stored = {os.stat(path).st_ino for stage in ("edits", "sources") for path in (tmp_path / stage).rglob("*.mp4")}
    assert {os.stat(path).st_ino for path in copies} <= stored
    assert collected(tmp_path, videos="copy")["copied"] == len(copies)
    assert not {os.stat(path).st_ino for path in copies} & stored
    assert collected(tmp_path, videos="link")["kept"] == len(copies)


@pytest.mark.usefixtures("small_limits")
def test_an_object_store_has_the_same_large_layout(tmp_path: Path) -> None:
    """Collected from and into an object store, first small, then large: the same files as on a disk, and nothing is
    written where nothing changed."""
    memory = fsspec.filesystem("memory")
    make_root(tmp_path, MANY)
    memory.put(f"{tmp_path}/", "/large/", recursive=True)
    tables.collect_run(OutputSpec(root="memory://large"), Ledger("memory://large"), [], {})
    make_root(tmp_path, EDITS, MANY)
    for stage in ("edits", "sources"):
        memory.put(f"{tmp_path / stage}/", f"/large/{stage}/", recursive=True)
    counts = tables.collect_run(OutputSpec(root="memory://large"), Ledger("memory://large"), [], {})
    assert counts["kept"] == MANY + len({row["source_key"] for row in rows_of(MANY)})
    collected(tmp_path)
    for name, data in tree(tmp_path).items():
        assert memory.cat_file(f"/large/{name}") == data, name
    found = set(memory.find("/large/dataset"))
    assert found == {f"/large/{name}" for name in tree(tmp_path, "dataset")}
    ledger = Counted("memory://large")
    assert tables.collect_run(OutputSpec(root="memory://large"), ledger, [], {}) == counts | {
        "copied": 0,
        "kept": counts["copied"] + counts["kept"],
    }
    assert ledger.reads == 0
    memory.rm("/large", recursive=True)


def test_a_row_that_comes_again_is_known_by_its_objects(tmp_path: Path) -> None:
    """A run's own record of an edit that the tables hold replaces the row, and its commit is not read again."""
    make_root(tmp_path, 8)
    collected(tmp_path)
    (row,) = rows_of(1)
    record = {"clip": row["clip"], "window": 0, "edits": [row | {"source_id": key_of("touched"), "reused": True}]}
    ledger = Counted(str(tmp_path))
    counts = tables.collect_run(OutputSpec(root=str(tmp_path)), ledger, [record], {})
    assert counts["edits"] == 8 and ledger.reads == 0
    assert key_of("touched") in {row["source_id"] for row in tables.iter_table(str(tmp_path), "edits")}


def test_a_link_that_leads_out_of_the_root_is_refused(tmp_path: Path) -> None:
    """The listing does not follow it."""
    make_root(tmp_path / "run", 1)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "run/edits/00").mkdir(exist_ok=True)
    (tmp_path / "run/edits/00" / ("0" * 64)).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Exception, match="a symlink leads out"):
        collected(tmp_path / "run")
    assert videos.shards(collect.Target.of(str(tmp_path / "run"))) == []


def test_what_a_killed_collection_left_goes(tmp_path: Path) -> None:
    """Temporary files of processes of this machine that have ended; those of living ones and of other machines stay."""
    make_root(tmp_path, MANY)
    collected(tmp_path)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    own = temporary_prefix()
    dead, alive = own.replace(f"-{os.getpid()}-", f"-{ended.pid}-") + "x", own + "x"
    other = f".collect-{'0' * 12}-{ended.pid}-x"
    for folder in ("dataset", "dataset/videos"):
        for name in (dead, alive, other):
            (tmp_path / folder / name).write_bytes(b"")
    make_root(tmp_path, MANY + 1, MANY)
    collected(tmp_path)
    for folder in ("dataset", "dataset/videos"):
        assert {path.name for path in (tmp_path / folder).glob(".collect-*")} == {alive, other}
