"""Rows of a manifest with settings of their own: two forms of one thing, in every kind of file, and what is refused."""

from __future__ import annotations

import json
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvideo_core.errors import ClipError
from cogvideo_core.inputs.columns import ALIASES
from cogvideo_core.inputs.fields import number_of, part_of
from cogvideo_core.inputs.sources import read_clips
from cogvideo_core.settings.specs import DatasetSpec

PAGE = Path(__file__).parents[1] / "docs" / "manifests.md"
SEEDED, BOLD = '{"seed":3}', '{"negative_prompt":"blur","recipe":"bold","strength":2.0}'
FLAT: list[dict[str, Any]] = [
    {"clip": "a.mp4", "source_prompt": "s", "target_prompt": "x", "id": "1"},
    {"clip": "a.mp4", "source_prompt": "s", "target_prompt": "x", "id": "2", "seed": "3"},
    {"clip": "a.mp4", "source_prompt": "s", "target_prompt": "y", "id": "3", "recipe": "bold", "strength": "2"},
]
FLAT[2]["negative_prompt"] = "blur"
WANTED = [("x", "", {"id": "1"}), ("x", SEEDED, {"id": "2"}), ("y", BOLD, {"id": "3"})]
EDITS = [{name: value for name, value in row.items() if name not in ("clip", "source_prompt")} for row in FLAT]
NESTED: dict[str, Any] = {"clip": "a.mp4", "source_prompt": "s", "edits": EDITS}
NAMES = ["clip", "source_prompt", "target_prompt", "id", "seed", "recipe", "strength", "negative_prompt"]


def read(folder: Path, name: str, content: str = "", **spec: Any) -> list[Any]:
    """The records of a manifest; the clips it names are there."""
    for clip in ("a.mp4", "b.mp4", "ball.mp4", "boat.mp4", "film.mp4"):
        if not (folder / clip).exists():
            (folder / clip).write_bytes(clip.encode())
    if content:
        (folder / name).write_text(content)
    return list(read_clips(DatasetSpec(source=str(folder / name), **spec)))


def wishes(record: Any) -> list[Any]:
    owns = [json.loads(own) if own else {} for own in record["own"]]
    return list(zip(record["target_prompts"], record["overrides"], owns, strict=True))


def table(separator: str, names: list[str] = NAMES) -> str:
    cells = [[str(row.get(name.lower(), "")) for name in names] for row in FLAT]
    return "".join(separator.join(row) + "\n" for row in [names, *cells])


def csv_cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def jsonl(*rows: Any) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


def test_both_forms_are_one_thing_in_every_kind_of_file(tmp_path: Path) -> None:
    """Rows for each edit, and a list of edits, as CSV with any separator and case, JSONL and Parquet: one record."""
    columns = {name: [row.get(name) for row in FLAT] for name in NAMES}
    pq.write_table(pa.table(columns), tmp_path / "flat.parquet")
    pq.write_table(pa.Table.from_pylist([NESTED]), tmp_path / "nested.parquet")
    cell = f"CLIP;Source_Prompt;Edits\na.mp4;s;{csv_cell(json.dumps(EDITS))}\n"
    files = {
        "a.csv": table(","),
        "b.csv": table(";", [name.upper() if name != "id" else name for name in NAMES]),
        "c.tsv": table("\t"),
        "d.jsonl": jsonl(*FLAT),
        "e.jsonl": jsonl(NESTED),
        "f.csv": cell,
        "flat.parquet": "",
        "nested.parquet": "",
    }
    for name, content in files.items():
        (record,) = read(tmp_path, name, content)
        assert (record["source_prompt"], wishes(record)) == ("s", WANTED), name


def test_numbers_may_be_texts_and_floats(tmp_path: Path) -> None:
    """What pandas makes of a column with gaps, 7.0, is the seed 7; equal overrides are equal texts."""
    rows = [
        {"clip": "a.mp4", "target_prompt": "x", "seed": seed}
        for seed in (7, 7.0, "7", "7.0", " 7 ", None, float("nan"))
    ]
    (record,) = read(tmp_path, "m.jsonl", jsonl(*rows))
    assert record["overrides"] == ['{"seed":7}', ""]
    pq.write_table(
        pa.table({"clip": ["a.mp4"] * 2, "target_prompt": ["x", "x"], "seed": [7.0, None]}), tmp_path / "m.parquet"
    )
    assert read(tmp_path, "m.parquet")[0]["overrides"] == ['{"seed":7}', ""]


def test_an_edit_takes_from_its_row_what_it_leaves_out(tmp_path: Path) -> None:
    """Settings, parts and own columns; the row's own prompts and a prompts file's are edited besides, by the row's
    settings; edits with parts or first frames of their own become records of their own."""
    edits = [{"target_prompt": "y", "seed": 2, "id": "e"}, {"target_prompt": "z", "strength": 2, "caption": "own"}]
    row = {"clip": "a.mp4", "target_prompts": ["x"], "seed": 1, "id": "r", "by": "me", "edits": edits}
    (tmp_path / "more.txt").write_text("w\n")
    (record,) = read(tmp_path, "m.jsonl", jsonl(row), prompts=str(tmp_path / "more.txt"))
    first = {"id": "r", "by": "me"}
    assert wishes(record) == [
        *(("x", '{"seed":1}', first), ("w", '{"seed":1}', first), ("y", '{"seed":2}', {"id": "e", "by": "me"})),
        ("z", '{"seed":1,"strength":2.0}', first | {"caption": "own"}),
    ]
    parts = [{"target_prompt": "y", "end": 2}, {"target_prompt": "y", "start": 2}, {"target_prompt": "z", "start": 2}]
    found = read(tmp_path, "n.jsonl", jsonl({"clip": "a.mp4", "edits": parts}))
    assert [(r["start_s"], r["end_s"], r["target_prompts"]) for r in found] == [(0, 2, ["y"]), (2, 0, ["y", "z"])]


def test_an_empty_list_of_edits_is_none(tmp_path: Path) -> None:
    """The row's own prompts are edited once; without any the row is refused as before."""
    for empty in ([], "[]", "", None):
        row = {"clip": "a.mp4", "target_prompts": ["x"], "edits": empty}
        (record,) = read(tmp_path, "m.jsonl", jsonl(row))
        assert wishes(record) == [("x", "", {})], empty
        (failed,) = read(tmp_path, "m.jsonl", jsonl(row | {"target_prompts": []}))
        assert "it has no target prompts" in failed["message"]


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "recipe": ({"recipe": "blod"}, "its recipe 'blod' is no preset; did you mean bold?"),
    "recipe-far": ({"recipe": 3}, "its recipe '3' is no preset; use one of balanced, faithful"),
    "seed-text": ({"seed": "one"}, "its seed 'one' is no whole number from 0 to 2**63 - 1; correct it"),
    "seed-half": ({"seed": 1.5}, "its seed '1.5' is no whole number"),
    "seed-below": ({"seed": -1}, "its seed '-1' is no whole number"),
    "seed-above": ({"seed": 2**63}, "is no whole number"),
    "seed-huge": ({"seed": 10**400}, "is no whole number"),
    "seed-true": ({"seed": True}, "its seed 'True' is no whole number"),
    "seed-list": ({"seed": [1]}, "its seed '[1]' is no whole number"),
    "strength": ({"strength": 300}, "its strength '300' is no number from 0.01 to 100; correct it"),
    "strength-text": ({"strength": "strong"}, "its strength 'strong' is no number"),
    "negative": ({"negative_prompt": "x" * 2001}, "its negative_prompt has 2001 characters; shorten it to 2000"),
    "start": ({"start": -1}, "its start '-1' is no time in the clip; give seconds from 0 on"),
    "start-text": ({"start": "later"}, "its start 'later' is no time in the clip"),
    "start-clock": ({"start": "00:99:00"}, "its start '00:99:00' is no time in the clip"),
    "start-endless": ({"start": "1e999"}, "is no time in the clip"),
    "end": ({"start": 2, "end": 1.5}, "its end 1.5 s is not after its start 2 s; give a later end"),
    "end-zero": ({"end": 0}, "its end 0 s is not after its start 0 s"),
    "edits": ({"edits": 3}, "its edits are no list; write a list of objects such as"),
    "edits-object": ({"edits": {"target_prompt": "x"}}, "its edits are no list"),
    "edits-text": ({"edits": "none"}, "its edits are no JSON"),
    "edits-deep": ({"edits": "[" * 100_000}, "its edits are no JSON"),
    "edits-texts": ({"edits": ["x"]}, "edit 1 of its edits is no object"),
    "edits-many": ({"edits": [{}] * 1001}, "it has more than 1000 edits; split them over several rows"),
    "edit-seed": (
        {"edits": [{"target_prompt": "x"}, {"target_prompt": "y", "seed": "z"}]},
        "edit 2: its seed 'z' is no",
    ),
    "edit-prompt": ({"edits": [{"seed": 1}]}, "edit 1: it has no target prompts"),
}


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_value_is_one_row_of_errors(tmp_path: Path, name: str) -> None:
    """One sentence that names the clip, the field and the remedy; the rows around it go on, those of its clip too."""
    row, told = WRONG[name]
    around = [{"clip": clip, "target_prompt": "a circle"} for clip in ("a.mp4", "b.mp4")]
    first, failed, last = read(
        tmp_path, "m.jsonl", jsonl(around[0], {"clip": "a.mp4", "target_prompt": "x"} | row, around[1])
    )
    assert failed["message"].startswith("clip 'a.mp4': ") and told in failed["message"]
    assert failed["message"].isprintable() and len(failed["message"]) < 300
    assert (first["clip"], last["clip"], failed["stage"], failed["kind"]) == ("a.mp4", "b.mp4", "discover", "bad_input")


@pytest.mark.parametrize(
    ("start", "end", "part"),
    [
        (None, None, (0, 0)),
        (0, "", (0, 0)),
        (1, 2, (1, 2)),
        ("1.5", "00:01:02.5", (1.5, 62.5)),
        ("01:02", "1:00:00", (62, 3600)),
        (Decimal("0.25"), 0.1 + 0.2, (0.25, 0.3)),
    ],
)
def test_times_are_seconds_or_clocks(start: Any, end: Any, part: tuple[float, float]) -> None:
    """Numbers, texts of numbers, minutes:seconds and hours:minutes:seconds, to the microsecond."""
    assert part_of("a.mp4", {"start": [start], "end": [end]}) == part


@given(st.one_of(st.text(max_size=30), st.floats(), st.integers(), st.binary(max_size=3), st.lists(st.integers())))
def test_any_value_is_a_number_or_none(value: Any) -> None:
    """Nothing raises but the row's own error."""
    number = number_of(value)
    assert number is None or isinstance(number, int | float)
    try:
        start, _ = part_of("a.mp4", {"start": [value]})
    except ClipError as error:
        assert str(error).isprintable()
    else:
        assert 0 <= start <= 1e6


def test_a_row_without_a_part_keeps_its_source_id(tmp_path: Path) -> None:
    """Start 0 is no start; any other start or end names other work, the same however it is written."""
    ids = []
    for fields in ({}, {"start": 0}, {"start": 1}, {"start": "00:00:01"}, {"start": 1, "end": 2}, {"end": 1}):
        (record,) = read(tmp_path, "m.jsonl", jsonl({"clip": "a.mp4", "target_prompt": "x"} | fields))
        ids.append(record["source_id"])
    assert ids[0] == ids[1] and ids[2] == ids[3] and len(set(ids)) == 4


def examples() -> list[tuple[str, str]]:
    return re.findall(r"^```(csv|json)\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)


def test_the_examples_of_the_docs_are_read(tmp_path: Path) -> None:
    """Each example is a manifest without a wrong row; the two forms of the same edits ask for the same."""
    found = []
    for number, (language, text) in enumerate(examples()):
        name = f"m{number}.{language.replace('json', 'jsonl')}"
        found.append(read(tmp_path, name, text))
        assert all("error" not in record for record in found[-1]), text
    clips, flat, nested, parts = found
    assert [len(record["target_prompts"]) for record in clips] == [2, 1]
    assert [wish[:2] for wish in wishes(flat[0])] == [wish[:2] for wish in wishes(nested[0])]
    assert flat[0]["source_id"] == nested[0]["source_id"] and len(flat) == len(nested) == 1
    assert [(record["start_s"], record["end_s"]) for record in parts] == [(62.5, 69.0), (95.25, 0.0)]


def test_the_docs_list_every_column_that_has_a_meaning() -> None:
    """The page's table names each column that is read, and no other."""
    rows = re.findall(r"^\| (`.*?) \|", PAGE.read_text("utf-8"), re.M)
    assert {name for row in rows for name in re.findall(r"`(\w+)`", row)} == {
        n for names in ALIASES.values() for n in names
    }
