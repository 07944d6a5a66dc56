"""Parquet and Arrow files whose cells hold videos, as `datasets` writes them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cogvideo_core.errors import BadManifest, ClipTooLarge, MissingClip, StorageError
from cogvideo_core.inputs import clip_files, sources, tables
from cogvideo_core.settings.specs import DatasetSpec

VIDEO = pa.struct({"bytes": pa.binary(), "path": pa.string()})
Record = dict[str, Any]


def read(source: Path | str, **more: Any) -> list[Record]:
    return [dict(record) for record in sources.read_clips(DatasetSpec(source=str(source), **more))]


def write(path: Path, cells: list[Any], kind: pa.DataType = VIDEO, group: int = 2, **columns: Any) -> Path:
    columns = {"target_prompts": [["x"]] * len(cells)} | columns
    pq.write_table(pa.table({"video": pa.array(cells, kind), **columns}), path, row_group_size=group)
    return path


def fetched(record: Record, folder: Path, most: int = 10**6) -> bytes:
    return clip_files.fetch(record, folder, most).read_bytes()


def test_paths_of_structs_are_clips(tmp_path: Path) -> None:
    """A struct without bytes names a file beside the manifest."""
    (tmp_path / "a.mp4").write_bytes(b"1234")
    (record,) = read(write(tmp_path / "m.parquet", [{"path": "a.mp4", "bytes": None}]))
    assert (record["clip"], record["uri"], record["size"]) == ("a.mp4", str((tmp_path / "a.mp4").resolve()), 4)


@pytest.mark.parametrize("statistics", [True, False])
def test_bytes_in_cells_are_clips(tmp_path: Path, statistics: bool) -> None:
    """Bytes win over a path, which is their name; a group may mix bytes, paths and empty cells, and each row comes back
    as it was, with and without the file's own count of nulls."""
    (tmp_path / "b.mp4").write_bytes(b"on disk")
    cells = [
        {"path": "a.mp4", "bytes": b"AAAA"},
        {"path": "b.mp4", "bytes": None},
        {"path": None, "bytes": b"CC"},
        None,
        {"path": "/else/where/e.mp4", "bytes": b"E" * 3_000_000},
    ]
    table = pa.table({"video": pa.array(cells, VIDEO), "target_prompts": [["x"]] * 5, "caption": list("vwxyz")})
    pq.write_table(table, tmp_path / "m.parquet", row_group_size=3, write_statistics=statistics)
    records = read(tmp_path / "m.parquet")
    assert [r["clip"] for r in records] == ["a.mp4", "b.mp4", "m.parquet row 3", "row 4", "/else/where/e.mp4"]
    assert "the field clip is missing" in records.pop(3)["message"]
    assert [r["source_prompt"] for r in records] == ["v", "w", "x", "z"]
    got = [fetched(record, tmp_path / "down", 10**7) for record in records]
    assert got == [b"AAAA", b"on disk", b"CC", b"E" * 3_000_000]
    assert len({record["source_id"] for record in records}) == 4


def test_a_column_of_plain_bytes_is_one_of_clips(tmp_path: Path) -> None:
    """Without a struct, and with no other column at all: target prompts come from the prompts file."""
    pq.write_table(pa.table({"Video": [b"1", b"22"]}), tmp_path / "m.parquet")
    (tmp_path / "p.list").write_text("blue\n")
    records = read(tmp_path / "m.parquet", prompts=str(tmp_path / "p.list"))
    assert [r["clip"] for r in records] == ["m.parquet row 1", "m.parquet row 2"]
    assert [fetched(r, tmp_path / "down") for r in records] == [b"1", b"22"]


def test_bytes_are_not_read_with_the_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reading the rows asks Parquet for no column of bytes."""
    path = write(tmp_path / "m.parquet", [{"path": "a", "bytes": b"x"}] * 5, picture=[b"p"] * 5, id=list(range(5)))
    asked: list[str] = []
    whole = pq.ParquetFile.iter_batches

    def spied(self: Any, *args: Any, columns: list[str], **more: Any) -> Any:
        asked.extend(columns)
        return whole(self, *args, columns=columns, **more)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", spied)
    assert len(read(path)) == 5
    assert set(asked) == {"video.path", "target_prompts", "id"}


def test_too_many_bytes_are_refused(tmp_path: Path) -> None:
    """A video over the limit, and a row group that would not fit in memory, each name their remedy."""
    (record,) = read(write(tmp_path / "m.parquet", [{"path": "a", "bytes": b"x" * 5000}]))
    with pytest.raises(ClipTooLarge, match="write smaller row groups, or raise"):
        fetched(record, tmp_path, 4000)
    assert len(fetched(record, tmp_path, 6000)) == 5000


def test_a_table_that_has_changed_is_not_read(tmp_path: Path) -> None:
    """Rows may have moved: the clip fails until the source is listed again."""
    path = write(tmp_path / "m.parquet", [{"path": "a", "bytes": b"one"}])
    (record,) = read(path)
    write(path, [{"path": "b", "bytes": b"other"}])
    with pytest.raises(StorageError, match="has changed since it was listed"):
        fetched(record, tmp_path)
    path.write_bytes(b"no table at all")
    broken = record | {"stamp": str(path.stat().st_mtime_ns)}
    with pytest.raises(StorageError, match="can't be read any more"):
        fetched(broken, tmp_path)
    path.unlink()
    with pytest.raises(MissingClip):
        fetched(record, tmp_path)


def test_tables_on_a_store(tmp_path: Path) -> None:
    """Parquet is read in place; an Arrow file must be local."""
    memory = fsspec.filesystem("memory")
    memory.pipe_file(
        "/tables/m.parquet", write(tmp_path / "m.parquet", [{"path": "a.mp4", "bytes": b"one"}]).read_bytes()
    )
    try:
        (record,) = read("memory://tables/m.parquet")
        assert record["uri"].startswith("cell+memory://tables/m.parquet#") and fetched(record, tmp_path / "x") == b"one"
        with pytest.raises(BadManifest, match="is an Arrow file on a store; copy it here"):
            read("memory://tables/m.arrow")
    finally:
        memory.rm("/tables", recursive=True)


@pytest.mark.parametrize("kind", ["stream", "file"])
def test_arrow_files(tmp_path: Path, kind: str) -> None:
    """Both forms of Arrow, several batches: rows, and bytes by batch and row."""
    cells = [{"path": f"{n}.mp4", "bytes": bytes([n]) * n} for n in range(1, 8)]
    table = pa.table({"video": pa.array(cells, VIDEO), "target_prompts": [["x"]] * 7})
    make: Callable[..., Any] = pa.ipc.new_stream if kind == "stream" else pa.ipc.new_file
    with make(tmp_path / "m.arrow", table.schema) as writer:
        writer.write_table(table, max_chunksize=3)
    records = read(tmp_path / "m.arrow")
    assert [r["clip"] for r in records] == [f"{n}.mp4" for n in range(1, 8)]
    assert [fetched(r, tmp_path / "down") for r in records] == [bytes([n]) * n for n in range(1, 8)]


@pytest.mark.parametrize("ending", ["parquet", "arrow"])
def test_broken_tables_are_refused_as_a_whole(tmp_path: Path, ending: str) -> None:
    """Noise, an empty file, a cut file, and one without a clip column: one sentence that names the file."""
    table = pa.table({"clip": ["a.mp4"] * 50, "target_prompts": [["x"]] * 50})
    whole = tmp_path / "whole"
    if ending == "parquet":
        pq.write_table(table, whole)
    else:
        with pa.ipc.new_file(whole, table.schema) as writer:
            writer.write_table(table)
    data = whole.read_bytes()
    path = tmp_path / f"m.{ending}"
    for broken in (b"noise" * 100, b"", data[: len(data) // 2], data[:-9]):
        path.write_bytes(broken)
        with pytest.raises(BadManifest, match=rf"m\.{ending}.*write it anew"):
            read(path)


def test_offsets_that_lead_out_of_an_arrow_file(tmp_path: Path) -> None:
    """Text whose offsets point behind the file's end is refused, and never read."""
    batch = pa.record_batch({"clip": ["a.mp4", "b.mp4"], "target_prompts": ["x", "y"]})
    with pa.ipc.new_stream(tmp_path / "m.arrow", batch.schema) as writer:
        writer.write_batch(batch)
    good, bad = (b"".join(n.to_bytes(4, "little") for n in (0, 5, end)) for end in (10, 2_000_000))
    data = (tmp_path / "m.arrow").read_bytes()
    assert data.count(good) == 1
    (tmp_path / "m.arrow").write_bytes(data.replace(good, bad))
    with pytest.raises(BadManifest, match="no readable Arrow file"):
        read(tmp_path / "m.arrow")


def test_layout_finds_the_columns() -> None:
    """Structs with other parts and lists of bytes are neither clips with bytes nor own columns."""
    schema = pa.schema({"CLIP": VIDEO, "caption": pa.string(), "frames": pa.list_(pa.binary()), "id": pa.int64()})
    layout = tables.layout_of("m", schema)
    assert layout.clips == [tables.Column("CLIP.path", "CLIP.bytes")] and layout.own == ["id"]
    assert layout.named["source_prompt"] == ["caption"]
