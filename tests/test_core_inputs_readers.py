"""JSON lists, and columns divided by tabs or semicolons."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from cogvideo_core.errors import BadManifest, ClipError
from cogvideo_core.inputs import readers
from cogvideo_core.inputs.manifests import BadRow, Row, manifest_rows


def rows(tmp_path: Path, name: str, text: str | bytes) -> list[Any]:
    path = tmp_path / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(manifest_rows(str(path)))


def only_error(found: list[Any]) -> str:
    (bad,) = [row for row in found if isinstance(row, BadRow)]
    assert isinstance(bad.error, ClipError)
    return str(bad.error)


def test_a_list_of_objects_is_a_manifest(tmp_path: Path) -> None:
    """Aliases in any case, own columns and merging work as in JSON Lines; a byte order mark and UTF-16 are read."""
    objects = [
        {"Video": "a.mp4", "Caption": "a cat", "target_prompts": ["x", "y"], "id": 7},
        {"clip": "b.mp4", "target_prompt": "z"},
    ]
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        first, second = rows(tmp_path, "m.json", json.dumps(objects).encode(encoding))
        assert first == Row("a.mp4", "a cat", ("x", "y"), own=('{"id": 7}',) * 2, overrides=("",) * 2)
        assert (second.clip, second.target_prompts) == ("b.mp4", ("z",))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"data": [{"clip": "a.mp4"}]}', "holds one object and no list of rows; write [{...}, ...] or JSON Lines"),
        ("3", "a single value"),
        ("NaN", "a single value"),
        ('"a.mp4"', "a single value"),
        ("[1, 2", "is not JSON"),
        ("", "is not JSON"),
        (b"\xff\xfe\xff", "is not JSON"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_anything_but_a_list_is_refused_as_a_whole(tmp_path: Path, text: str | bytes, words: str) -> None:
    """One sentence names the file, what it holds and the remedy."""
    with pytest.raises(BadManifest) as caught:
        rows(tmp_path, "m.json", text)
    assert words in str(caught.value) and "m.json" in str(caught.value) and ";" in str(caught.value)


def test_rows_of_a_list_fail_alone(tmp_path: Path) -> None:
    """A row that is no object, two values for one field, too deep a value: the others go on. NaN is an empty value."""
    good = '{"clip": "b.mp4", "target_prompts": ["x"], "source_prompt": NaN}'
    deep = "[" * 40 + "]" * 40
    for bad, words in {
        "5": "row 1': it is no JSON object",
        '{"clip": "a.mp4", "clip": "c.mp4", "target_prompts": ["x"]}': "hold different values",
        '{"clip": "a.mp4", "target_prompts": ["x"], "own": ' + deep + "}": "nested more than 32 deep",
    }.items():
        found = rows(tmp_path, "m.json", f"[{bad}, {good}]")
        assert words in only_error(found) and found[-1] == Row("b.mp4", "", ("x",), own=("",), overrides=("",))
    assert rows(tmp_path, "m.json", '[{"clip": "a.mp4", "clip": "a.mp4", "target_prompts": ["x"]}]')[0].clip == "a.mp4"


def test_a_list_has_a_size_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is held in memory whole, so a larger one is refused before it is parsed; JSON Lines have no such limit."""
    monkeypatch.setattr(readers, "MAX_JSON_BYTES", 40)
    with pytest.raises(BadManifest, match=r"more than 0 MB; write it as JSON Lines"):
        rows(tmp_path, "m.json", json.dumps([{"clip": "a.mp4", "target_prompts": ["x"]}]))
    assert len(rows(tmp_path, "m.jsonl", json.dumps({"clip": "a.mp4", "target_prompts": ["x"]}))) == 1


def test_deeply_nested_lines_fail_alone(tmp_path: Path) -> None:
    """In JSON Lines as well: the columns of one's own are walked through, which has a limit."""
    deep = '{"clip": "a.mp4", "target_prompts": ["x"], "own": %s}' % ("[" * 500 + "]" * 500)
    assert "nested more than 32 deep" in only_error(rows(tmp_path, "m.jsonl", deep))


@pytest.mark.parametrize(
    ("name", "mark"), [("m.tsv", "\t"), ("m.csv", "\t"), ("m.csv", ";"), ("m.tsv", ","), ("m.tsv", ";")]
)
def test_tabs_and_semicolons_divide_cells(tmp_path: Path, name: str, mark: str) -> None:
    """The delimiter is found in the header whatever the ending; names of columns come in any case, with spaces."""
    text = f"VIDEO{mark} Caption {mark}Target_Prompts{mark}id\na.mp4{mark}a cat{mark}a dog|a cow{mark}3\n"
    assert rows(tmp_path, name, text) == [
        Row("a.mp4", "a cat", ("a dog", "a cow"), own=('{"id": "3"}',) * 2, overrides=("",) * 2)
    ]


def test_a_struct_of_datasets_names_its_path(tmp_path: Path) -> None:
    """{"path", "bytes"} as a clip in JSON: the path is taken; bytes alone are refused with the remedy."""
    good = {"video": {"path": "a.mp4", "bytes": None}, "target_prompts": ["x"]}
    bad = {"video": {"path": None, "bytes": "AAAA"}, "target_prompts": ["x"]}
    empty = {"video": {"path": None, "bytes": None}, "target_prompts": ["x"]}
    for name, text in (("m.jsonl", "\n".join(map(json.dumps, (good, bad)))), ("m.json", json.dumps([good, bad]))):
        found = rows(tmp_path, name, text)
        assert found[0].clip == "a.mp4"
        assert "holds the video's bytes and no path; write the rows as Parquet" in only_error(found)
    assert "the field clip is missing" in only_error(rows(tmp_path, "m.jsonl", json.dumps(empty)))
