"""Users' own columns: from any manifest into tables and metadata, typed as they came, clashing with nothing."""

from __future__ import annotations

import io
import json
from datetime import date
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvideo_core.dataset.columns import write_rows
from cogvideo_core.dataset.own_columns import OwnColumns, own_name, own_names
from cogvideo_core.dataset.rows import TABLE_FIELDS, Shape, edit_rows, metadata_bytes
from cogvideo_core.errors import ClipError
from cogvideo_core.inputs.own_columns import own_text
from cogvideo_core.inputs.sources import read_clips
from cogvideo_core.planning.tables import read_batches, write_plan
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, RecipeSpec


def clips(folder: Path, name: str) -> list[Any]:
    if not (folder / "a.mp4").exists():
        (folder / "a.mp4").write_bytes(b"a")
    return list(read_clips(DatasetSpec(source=str(folder / name))))


def owns(record: Any) -> list[Any]:
    return [json.loads(text) for text in record["own"]]


def test_every_manifest_kind_brings_its_columns(tmp_path: Path) -> None:
    """CSV gives texts; JSONL and Parquet give numbers, booleans, lists and nested values; pictures stay behind."""
    (tmp_path / "m.csv").write_text("Clip,target_prompt,id,Licence\na.mp4,x,007,CC-BY\n")
    assert owns(clips(tmp_path, "m.csv")[0]) == [{"id": "007", "Licence": "CC-BY"}]
    row = {"clip": "a.mp4", "target_prompt": "x", "id": 7, "good": True, "tags": ["a", "b"], "by": {"who": ["me"]}}
    (tmp_path / "m.jsonl").write_text(json.dumps(row | {"empty": None, "blank": ""}))
    wanted = {"id": 7, "good": True, "tags": ["a", "b"], "by": '{"who": ["me"]}'}
    assert owns(clips(tmp_path, "m.jsonl")[0]) == [wanted]
    table = {name: [value] for name, value in row.items()} | {"day": [date(2026, 1, 2)], "picture": [b"\x89PNG"]}
    table |= {"image": [{"path": "p", "bytes": b"x"}], "binary_label": [1]}
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    assert owns(clips(tmp_path, "m.parquet")[0]) == [wanted | {"day": "2026-01-02", "binary_label": 1}]


def test_a_row_for_each_edit_keeps_its_own(tmp_path: Path) -> None:
    """Adjacent rows of a clip become one record, whose prompts keep the columns of their rows; of a prompt that comes
    twice, the first row's."""
    rows = [("x", 1), ("y", 2), ("x", 3)]
    lines = [json.dumps({"clip": "a.mp4", "target_prompt": prompt, "id": number}) for prompt, number in rows]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    (record,) = clips(tmp_path, "m.jsonl")
    assert record["target_prompts"] == ["x", "y"] and owns(record) == [{"id": 1}, {"id": 2}]


def test_columns_travel_through_a_plan_and_change_no_key(tmp_path: Path) -> None:
    """They are read back as they were written, and a plan without any has the hash that it had before."""
    (tmp_path / "m.jsonl").write_text(json.dumps({"clip": "a.mp4", "target_prompt": "x", "id": 1}))
    with_id = clips(tmp_path, "m.jsonl")
    (tmp_path / "n.jsonl").write_text(json.dumps({"clip": "a.mp4", "target_prompt": "x"}))
    without = clips(tmp_path, "n.jsonl")
    assert with_id[0]["source_id"] == without[0]["source_id"] and without[0]["own"] == [""]
    plans = []
    for name, records in (("a", with_id), ("b", without), ("c", [{k: v for k, v in without[0].items() if k != "own"}])):
        plans.append(write_plan(str(tmp_path / name), iter(records), RecipeSpec(), EngineSpec())["plan"])
    assert plans[0] != plans[1] == plans[2]
    ((record,),) = read_batches(str(tmp_path / "a"))
    assert owns(record) == [{"id": 1}]


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ([("x" * 101, 1)], "has a name that can't be used; rename it"),
        ([("a\nb", 1)], "has a name that can't be used"),
        ([(f"c{i}", 1) for i in range(101)], "its own columns hold 101 values"),
        ([("text", "x" * 30_000)], "keep 100 of 20,000 at most"),
        ([("id", 1), ("id ", 2)], "two columns 'id' hold different values"),
    ],
)
def test_too_much_is_refused(given: list[tuple[str, Any]], told: str) -> None:
    """One sentence, and the other rows go on."""
    with pytest.raises(ClipError, match=told):
        own_text("a.mp4", given)


def test_names_clash_with_nothing() -> None:
    """Columns of ours, of the scores and of what `datasets` takes for media get a prefix or lose their ending."""
    taken = {"clip", "seed"}
    names = ["seed", "score_x", "video", "mask_file_name", "own_id", "id", "mask_file"]
    found = own_names(names, taken)
    assert list(found.values()) == [
        *("own_seed", "own_score_x", "own_video", "mask_file", "own_own_id", "id", "mask_file_2")
    ]
    assert own_name("Licence", taken) == "Licence"


def rows_of(edit: Any, *texts: str) -> list[Any]:
    return edit_rows([edit(f"{i}.mp4") | {"own": text} for i, text in enumerate(texts)])


@pytest.fixture
def edit() -> Any:
    """edit(clip): a row with what the tables need."""

    def make(clip: str) -> dict[str, Any]:
        texts = dict.fromkeys((name for name, kind in TABLE_FIELDS.items() if kind == pa.string()), "x")
        numbers = dict.fromkeys(("window", "seed", "frames", "height", "width", "fps"), 1)
        return texts | numbers | {"clip": clip, "name": clip, "strength": 1.0, "scores": {"ssim": 0.5}}

    return make


def parquet(rows: list[Any], fields: dict[str, pa.DataType]) -> bytes:
    sink = io.BytesIO()
    write_rows(sink, rows, fields)
    return sink.getvalue()


def test_tables_and_metadata_hold_them(edit: Any) -> None:
    """Numbers stay numbers, a column of mixed types becomes text, and what a row lacks is empty."""
    rows = rows_of(edit, '{"id": 1, "tags": ["a"], "mixed": 1}', '{"id": 2.5, "mixed": "b", "seed": 9}', "")
    shape = Shape()
    for row in rows:
        shape.add(row | {"scores": {}})
    table = pq.read_table(pa.BufferReader(parquet(rows, TABLE_FIELDS | shape.fields())))
    assert table["id"].to_pylist() == [1.0, 2.5, None] and table["tags"].to_pylist() == [["a"], None, None]
    assert table["mixed"].to_pylist() == ["1", "b", None] and table["own_seed"].to_pylist() == [None, 9, None]
    lines = [json.loads(line) for line in metadata_bytes(rows).splitlines()]
    assert [line["mixed"] for line in lines] == ["1", "b", None] and "own" not in lines[0]
    again = edit_rows([row | {"scores": {}} for row in table.to_pylist()])
    assert [row["id"] for row in again] == [1.0, 2.5, None]  # from the table back into the table


def test_metadata_loads_in_datasets(edit: Any, tmp_path: Path) -> None:
    """`datasets` reads the columns with their types."""
    from datasets import load_dataset

    (tmp_path / "metadata.jsonl").write_bytes(metadata_bytes(rows_of(edit, '{"id": 1, "tags": ["a"]}', '{"id": 2}')))
    loaded = load_dataset("json", data_files=str(tmp_path / "metadata.jsonl"), split="train", cache_dir=str(tmp_path))
    assert loaded["id"][:] == [1, 2] and loaded["tags"][0] == ["a"]


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


@given(st.lists(st.dictionaries(st.text("abc", min_size=1, max_size=3), values, max_size=3), max_size=4))
def test_whatever_a_row_holds_makes_a_table(rows: list[dict[str, Any]]) -> None:
    """Any JSON-like values of any rows become columns that Parquet and JSON can hold."""
    own, texts = OwnColumns({"a"}), [own_text("a.mp4", row.items()) for row in rows]
    for text in texts:
        own.add(text)
    found = list(map(own.columns(), texts))
    parquet(found, own.types())
    json.dumps(found, allow_nan=False)
