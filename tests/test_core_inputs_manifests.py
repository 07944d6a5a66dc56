"""Manifests of every kind give checked rows; a bad row fails alone, a bad file stops the run."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cogvideo_core.errors import BadManifest
from cogvideo_core.inputs import sources
from cogvideo_core.inputs.fields import MAX_PROMPT, MAX_PROMPTS
from cogvideo_core.inputs.lines import MAX_LINE_BYTES
from cogvideo_core.settings.specs import DatasetSpec

Record = dict[str, Any]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three clips, one of them deeper, among other files."""
    root = tmp_path / "clips"
    for name in ("b.mp4", "a/z.MOV", "c.webm", ".hidden.mp4", ".cache/x.mp4", "notes.txt", "a/thumb.png"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def read(source: Path | str, prompts: Path | str = "", **more: Any) -> list[Record]:
    return [dict(r) for r in sources.read_clips(DatasetSpec(source=str(source), prompts=str(prompts), **more))]


def clips(records: list[Record]) -> list[str]:
    return [r["clip"] for r in records if "error" not in r]


def only_failure(records: list[Record]) -> Record:
    (found,) = [r for r in records if "error" in r]
    return found


def jsonl(path: Path, *rows: object) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def test_every_manifest_kind_gives_the_same_clips(folder: Path) -> None:
    """CSV, JSONL and Parquet with the same content give equal records, aliases and unknown columns included."""
    table = {"file_name": ["b.mp4", "c.webm"], "caption": ["a, b", None], "target_prompts": [["x", "y"], ["z"]]}
    jsonl(folder / "m.jsonl", *pa.table(table | {"more": ["p", "q"]}).to_pylist())
    pq.write_table(pa.table(table | {"more": ["p", "q"]}), folder / "m.parquet")
    (folder / "m.csv").write_text('more,video,caption,target_prompt\np,b.mp4,"a, b",x|y\nq, c.webm,,z\n')
    expected = read(folder / "m.jsonl")
    assert [r["target_prompts"] for r in expected] == [["x", "y"], ["z"]]
    assert read(folder / "m.parquet") == read(folder / "m.csv") == expected


def test_a_first_frame_is_read_from_every_manifest_kind(folder: Path) -> None:
    """CSV, JSONL and Parquet; it is found beside the clips; adjacent rows with different ones are not merged."""
    (folder / "x.png").write_bytes(b"x")
    table = {"clip": ["b.mp4"] * 4, "target_prompts": [["1"], ["2"], ["3"], ["4"]]}
    table |= {"first_frame_uri": ["x.png", "x.png", None, "a/thumb.png"]}
    rows = pa.table(table).to_pylist()
    jsonl(folder / "m.jsonl", *rows)
    pq.write_table(pa.table(table), folder / "m.parquet")
    lines = [f"b.mp4,{row['target_prompts'][0]}, {row['first_frame_uri'] or ''}\n" for row in rows]
    (folder / "m.csv").write_text("".join(["clip,target_prompts,first_frame_uri\n", *lines]))
    expected = read(folder / "m.jsonl")
    found = [(r["first_frame_uri"], r["target_prompts"]) for r in expected]
    assert found == [("x.png", ["1", "2"]), ("", ["3"]), ("a/thumb.png", ["4"])]
    assert [r["image_uri"] for r in expected] == [str(folder / "x.png"), "", str(folder / "a/thumb.png")]
    assert read(folder / "m.parquet") == read(folder / "m.csv") == expected


@pytest.mark.parametrize("value", [7, ["x.png"], {"a": 1}])
def test_a_first_frame_that_is_no_text_is_refused(folder: Path, value: object) -> None:
    """The row fails alone and says which field."""
    records = read(jsonl(folder / "m.jsonl", {"clip": "b.mp4", "target_prompts": ["1"], "first_frame_uri": value}))
    assert "its first_frame_uri is no text" in only_failure(records)["message"]


def test_adjacent_rows_of_a_clip_are_merged(folder: Path) -> None:
    """Prompts keep their order, repeats are dropped; another source prompt, or a row between, keeps rows apart."""
    rows = [("b.mp4", "", "1"), ("b.mp4", "", "2"), ("b.mp4", "", "1"), ("c.webm", "", "1"), ("b.mp4", "", "3")]
    rows += [("b.mp4", "cat", "3")]
    keys = ("clip", "source_prompt", "target_prompts")
    records = read(jsonl(folder / "m.jsonl", *(dict(zip(keys, row, strict=True)) for row in rows)))
    found = [(r["clip"], r["source_prompt"], r["target_prompts"]) for r in records]
    expected = [("b.mp4", "", ["1", "2"]), ("c.webm", "", ["1"]), ("b.mp4", "", ["3"]), ("b.mp4", "cat", ["3"])]
    assert found == expected


def test_text_prompts_are_added_to_a_manifest(folder: Path, tmp_path: Path) -> None:
    """A text file beside a manifest applies to each of its rows, after their own prompts."""
    (tmp_path / "p.txt").write_text("blue\nown\n")
    manifest = jsonl(folder / "m.jsonl", {"clip": "b.mp4", "target_prompts": ["own"]}, {"clip": "c.webm"})
    assert [r["target_prompts"] for r in read(manifest, tmp_path / "p.txt")] == [["own", "blue"], ["blue", "own"]]


def test_a_manifest_is_streamed(folder: Path) -> None:
    """The first clips come before the rest is read: a fault further on does not stop them."""
    manifest = jsonl(folder / "m.jsonl", *({"clip": "b.mp4", "target_prompts": [str(i)]} for i in range(2)))
    with manifest.open("a") as file:
        file.write('{"clip": "c.webm", "target_prompts": ["x"]}\n' + "x" * (MAX_LINE_BYTES + 1))
    stream = sources.read_clips(DatasetSpec(source=str(manifest)))
    assert [r["clip"] for r in islice(stream, 1)] == ["b.mp4"]
    with pytest.raises(BadManifest, match="line 4 is longer"):
        list(stream)


BAD_ROWS: dict[str, tuple[object, str]] = {
    "no clip": ({"target_prompts": ["x"]}, "field clip is missing"),
    "clip is a number": ({"clip": 3, "target_prompts": ["x"]}, "field clip is missing"),
    "no object": (["b.mp4"], "no JSON object"),
    "no prompts": ({"clip": "b.mp4"}, "no target prompts"),
    "blank prompts": ({"clip": "b.mp4", "target_prompts": [" "]}, "no target prompts"),
    "prompt is a number": ({"clip": "b.mp4", "target_prompts": [1]}, "target prompt is no text"),
    "prompts are an object": ({"clip": "b.mp4", "target_prompts": {"a": 1}}, "no list"),
    "too long": ({"clip": "b.mp4", "target_prompts": ["x" * (MAX_PROMPT + 1)]}, "2001 characters"),
    "too many": ({"clip": "b.mp4", "target_prompts": [str(i) for i in range(MAX_PROMPTS + 1)]}, "more than 1000"),
    "bell": ({"clip": "b.mp4", "target_prompts": ["a\x07b"]}, "control characters"),
    "escape": ({"clip": "b.mp4", "source_prompt": "a\x1b[2J", "target_prompts": ["x"]}, "source_prompt has control"),
    "surrogate": ({"clip": "b.mp4", "target_prompts": ["\ud800"]}, "control characters or is not UTF-8"),
    "missing": ({"clip": "gone.mp4", "target_prompts": ["x"]}, "no such file"),
    "below a file": ({"clip": "b.mp4/x.mp4", "target_prompts": ["x"]}, "no such file"),
    "folder": ({"clip": "a", "target_prompts": ["x"]}, "no numbered JPEG"),
    "dots": ({"clip": "../../etc/passwd", "target_prompts": ["x"]}, "outside the source folder"),
    "absolute": ({"clip": "/etc/passwd", "target_prompts": ["x"]}, "outside the source folder"),
    "file URL": ({"clip": "file:///etc/passwd", "target_prompts": ["x"]}, "outside the source folder"),
    "odd file URL": ({"clip": "file://host/x", "target_prompts": ["x"]}, "must be absolute"),
    "NUL": ({"clip": "b.mp4\0.txt", "target_prompts": ["x"]}, "control characters"),
    "chained": ({"clip": "zip://a.mp4::memory://sources/a.zip", "target_prompts": ["x"]}, "chained"),
    "protocol": ({"clip": "ssh://host/a.mp4", "target_prompts": ["x"]}, "'ssh' is not allowed"),
    "password": ({"clip": "https://me:secret@127.0.0.1/a.mp4", "target_prompts": ["x"]}, "user name"),
    "remote dots": ({"clip": "memory://sources/../a.mp4", "target_prompts": ["x"]}, "may not contain"),
    "gone object": ({"clip": "memory://nowhere/a.mp4", "target_prompts": ["x"]}, "no such object"),
    "broken URL": ({"clip": "http://[x/a.mp4", "target_prompts": ["x"]}, "no valid URL"),
}


@pytest.mark.parametrize("case", BAD_ROWS)
def test_a_bad_row_fails_alone(folder: Path, case: str) -> None:
    """Each kind of bad row becomes one failure that says why, in text UTF-8 can hold; the rows around it go on."""
    row, reason = BAD_ROWS[case]
    good = [{"clip": name, "target_prompts": ["x"]} for name in ("b.mp4", "c.webm")]
    records = read(jsonl(folder / "m.jsonl", good[0], row, good[1]))
    failure = only_failure(records)
    assert clips(records) == ["b.mp4", "c.webm"]
    assert reason in failure["message"] and failure["stage"] == "discover" and failure["kind"] == "bad_input"
    json.dumps(failure, ensure_ascii=False).encode()


@pytest.mark.parametrize("line", [b"{oops", b"\xfe\xe9{}", b"[" * 100_000, b'"text"', b"NaN"])
def test_a_line_that_is_not_json_fails_alone(folder: Path, line: bytes) -> None:
    """Broken, deeply nested and non-UTF-8 lines are failures that name the line."""
    (folder / "m.jsonl").write_bytes(line + b'\n{"clip": "b.mp4", "target_prompts": "x"}\n')
    records = read(folder / "m.jsonl")
    assert clips(records) == ["b.mp4"] and only_failure(records)["clip"] == "line 1"


def test_a_csv_row_with_an_unquoted_comma_fails_alone(folder: Path) -> None:
    """A prompt is never cut short in silence, and bytes that are no UTF-8 are refused."""
    text = b"clip,target_prompts\nb.mp4,a red, round thing\nc.webm,\xff\n\nb.mp4,fine\n"
    (folder / "m.csv").write_bytes(text)
    records = read(folder / "m.csv")
    assert [r["message"].count("3 cells, the header 2") for r in records[:1]] == [1]
    assert "not UTF-8" in records[1]["message"] and clips(records) == ["b.mp4"]


def test_a_csv_cell_without_end_does_not_fill_memory(folder: Path) -> None:
    """An open quote fails at the csv module's field limit, and reading goes on behind it."""
    (folder / "m.csv").write_text('clip,target_prompts\nb.mp4,"x\n' + "y,1\n" * 40_000)
    records = read(folder / "m.csv")
    assert "field limit" in records[0]["message"] and len(records) > 1


WHOLE_FILES: dict[str, tuple[str, bytes, str]] = {
    "no column": ("m.csv", b"path,target_prompts\na,b\n", "no column clip .*file_name"),
    "empty csv": ("m.csv", b"", "no column clip"),
    "header only": ("m.csv", b"clip,target_prompts\n", "holds no clips"),
    "empty jsonl": ("m.jsonl", b"\n", "holds no clips"),
    "no parquet": ("m.parquet", b"PAR1 nonsense", "no readable Parquet"),
    "no prompts": ("prompts.txt", b"# nothing\n", "holds no prompt"),
    "bad prompt": ("prompts.txt", b"fine\n\xff\xff\n", "line 2.*UTF-8"),
}


@pytest.mark.parametrize("case", WHOLE_FILES)
def test_a_file_that_is_no_manifest_stops_the_run(folder: Path, case: str) -> None:
    """One sentence names the file and what is wrong with it."""
    name, data, reason = WHOLE_FILES[case]
    (folder / name).write_bytes(data)
    with pytest.raises(BadManifest, match=reason):
        read(folder if name == "prompts.txt" else folder / name)


def test_two_manifests_are_refused(folder: Path) -> None:
    """Source and prompts may not both name clips."""
    manifest = jsonl(folder / "m.jsonl", {"clip": "b.mp4", "target_prompts": ["x"]})
    with pytest.raises(BadManifest, match="both name clips"):
        read(manifest, manifest)
