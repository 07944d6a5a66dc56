"""Odd manifests and prompts files."""

from __future__ import annotations

import csv
import io
import json
import os
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from odd_cases import REFUSED, RIGHT, Case, one_sentence

from cogvideo_core.errors import EditError
from cogvideo_core.inputs.sources import read_clips
from cogvideo_core.settings.specs import DatasetSpec

Wanted = list[tuple[str, str, list[str]]]
"""(file's name, source prompt, target prompts) of each clip."""
NFD = unicodedata.normalize("NFD", "café.mp4")


def judged(
    write: Callable[[Path], Any], wanted: Wanted | str, source: str = "", prompts: str = ""
) -> Callable[[Path], str]:
    """The rows of what `write` makes must be these clips; where `wanted` is text, all is refused with these words, and
    where it is "!words", one row is, beside a good one (b.mp4, a circle)."""

    def judge(folder: Path) -> str:
        for name in ("a.mp4", "b.mp4"):
            (folder / name).write_bytes(name.encode())
        written = write(folder)
        source_path = source.format(folder) if source else str(written)
        try:
            records = list(read_clips(DatasetSpec(source=source_path, prompts=prompts.format(folder))))
        except EditError as error:
            told = isinstance(wanted, str) and wanted in str(error)
            return one_sentence(str(error)) or (REFUSED if told else f"refused as a whole: {error}")
        bad = [record["message"] for record in records if "error" in record]
        good = [
            (os.path.basename(r["uri"]), r["source_prompt"], r["target_prompts"]) for r in records if "error" not in r
        ]
        if isinstance(wanted, list):
            return RIGHT if not bad and good == wanted else f"{good} {bad}"
        alone = wanted.startswith("!") and len(bad) == 1 and wanted[1:] in bad[0]
        if alone and good == [("b.mp4", "", ["a circle"])]:
            return one_sentence(bad[0]) or REFUSED
        return f"{good} {bad}"

    return judge


def text(name: str, content: str, encoding: str = "utf-8", mark: bytes = b"") -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / name).write_bytes(mark + content.encode(encoding))
        return folder / name

    return write


def jsonl(*rows: Any) -> Callable[[Path], Path]:
    return text("m.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


def beside(row: dict[str, Any]) -> Callable[[Path], Path]:
    """A row, and a good one after it."""
    return jsonl(row, {"clip": "b.mp4", "target_prompts": ["a circle"]})


def parquet(**columns: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pq.write_table(pa.table(columns), folder / "m.parquet")
        return folder / "m.parquet"

    return write


def cells(*rows: list[str], **options: Any) -> str:
    sink = io.StringIO()
    csv.writer(sink, **options).writerows(rows)
    return sink.getvalue()


def named(name: str, row: str = "") -> Callable[[Path], Path]:
    """A file of this name, and a manifest that names it as `row` ({} stands for the folder)."""

    def write(folder: Path) -> Path:
        (folder / name).write_bytes(b"x")
        return jsonl({"clip": (row or name).format(folder), "target_prompts": ["x"]})(folder)

    return write


def prompts_file(content: bytes) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "p.list").write_bytes(content)
        return folder

    return write


def link(folder: Path) -> Path:
    os.symlink("/etc/hostname", folder / "link.mp4")
    return beside({"clip": "link.mp4", "target_prompts": ["x"]})(folder)


X: Wanted = [("a.mp4", "", ["x"])]
XY: Wanted = [("a.mp4", "", ["x", "y"])]
HEAD = ["clip", "source_prompt", "target_prompts"]


def rows() -> dict[str, Callable[[Path], str]]:
    """Columns, missing values, encodings, line breaks."""
    return {
        "both-prompt-columns": judged(text("m.csv", "clip,target_prompt,target_prompts\na.mp4,x,y\n"), XY),
        "both-prompt-fields": judged(jsonl({"clip": "a.mp4", "target_prompt": "x", "target_prompts": ["y", "x"]}), XY),
        "both-prompt-columns-parquet": judged(parquet(clip=["a.mp4"], target_prompt=["x"], target_prompts=[["y"]]), XY),
        "a-column-twice": judged(text("m.csv", "clip,target_prompts,target_prompts\na.mp4,x,y\n"), XY),
        "a-field-twice": judged(text("m.jsonl", '{"clip": "a.mp4", "target_prompt": "x", "target_prompt": "y"}\n'), XY),
        "two-captions-alike": judged(
            jsonl({"clip": "a.mp4", "caption": "c", "source_prompt": "c", "target_prompt": "x"}),
            [("a.mp4", "c", ["x"])],
        ),
        "two-captions": judged(
            beside({"clip": "a.mp4", "caption": "c", "source_prompt": "d", "target_prompt": "x"}),
            "!two columns for source_prompt",
        ),
        "one-caption-empty": judged(
            jsonl({"clip": "a.mp4", "caption": "", "source_prompt": "d", "target_prompt": "x"}), [("a.mp4", "d", ["x"])]
        ),
        "two-clips": judged(
            beside({"clip": "a.mp4", "file_name": "b.mp4", "target_prompt": "x"}), "!two columns for clip"
        ),
        "clip-twice": judged(text("m.csv", "clip,clip,target_prompts\na.mp4,a.mp4,x\n"), X),
        "nan-caption": judged(text("m.jsonl", '{"clip": "a.mp4", "source_prompt": NaN, "target_prompts": ["x"]}\n'), X),
        "nan-prompts": judged(
            text(
                "m.jsonl", '{"clip": "a.mp4", "target_prompts": NaN}\n{"clip": "b.mp4", "target_prompts": "a circle"}\n'
            ),
            "!no target prompts",
        ),
        "nan-in-a-list": judged(text("m.jsonl", '{"clip": "a.mp4", "target_prompts": ["x", NaN, null]}\n'), X),
        "nan-text": judged(text("m.csv", "clip,source_prompt,target_prompts\na.mp4,nan,x\n"), X),
        "nan-parquet": judged(parquet(clip=["a.mp4"], source_prompt=[float("nan")], target_prompts=["x"]), X),
        "null-parquet": judged(
            parquet(clip=["a.mp4"], source_prompt=pa.nulls(1, pa.string()), target_prompts=["x"]), X
        ),
        "utf-8-mark": judged(text("m.csv", "clip,target_prompts\na.mp4,x\n", "utf-8-sig"), X),
        "utf-16-le": judged(
            text("m.csv", "clip,target_prompts\na.mp4,ein grüner Kreis\n", "utf-16-le", b"\xff\xfe"),
            [("a.mp4", "", ["ein grüner Kreis"])],
        ),
        "utf-16-be": judged(text("m.csv", "clip,target_prompts\r\na.mp4,x\r\n", "utf-16-be", b"\xfe\xff"), X),
        "utf-16-jsonl": judged(
            text("m.jsonl", '{"clip": "a.mp4", "target_prompts": ["x"]}\n', "utf-16-le", b"\xff\xfe"), X
        ),
        "utf-16-tabs": judged(
            text("m.csv", "clip\ttarget_prompts\na.mp4\tx, y\n", "utf-16-le", b"\xff\xfe"), [("a.mp4", "", ["x, y"])]
        ),
        "utf-16-without-mark": judged(text("m.csv", "clip,target_prompts\na.mp4,x\n", "utf-16-le"), "no column clip"),
        "utf-16-cut": judged(
            text("m.csv", "clip,target_prompts\na.mp4,x", "utf-16-le", b"\xff\xfe\x00\xd8\x41\x00"), "UTF-16"
        ),
        "utf-32": judged(
            text("m.csv", "clip,target_prompts\na.mp4,x\n", "utf-32-le", b"\xff\xfe\0\0"), "no column clip"
        ),
        "latin-1": judged(
            lambda f: (
                (f / "m.csv").write_bytes(b"clip,target_prompts\na.mp4,caf\xe9\nb.mp4,a circle\n") and f / "m.csv"
            ),
            "!not UTF-8",
        ),
        "line-break": judged(
            text("m.csv", cells(HEAD, ["a.mp4", "one\ntwo", "x\r\n y"])), [("a.mp4", "one two", ["x y"])]
        ),
        "tab": judged(
            jsonl({"clip": "a.mp4", "target_prompts": ["a\tred\n\ncircle"]}), [("a.mp4", "", ["a red circle"])]
        ),
        "paragraph-mark": judged(
            jsonl({"clip": "a.mp4", "target_prompts": ["a\u2029red\u2028 circle\x85now"]}),
            [("a.mp4", "", ["a red circle now"])],
        ),
        "two-spaces-stay": judged(jsonl({"clip": "a.mp4", "target_prompts": ["a  red"]}), [("a.mp4", "", ["a  red"])]),
        "escape-code": judged(beside({"clip": "a.mp4", "target_prompts": ["\x1b[2J"]}), "!control characters"),
        "nul": judged(beside({"clip": "a.mp4", "target_prompts": ["a\0b"]}), "!control characters"),
        "nul-in-clip": judged(beside({"clip": "a\0.mp4", "target_prompts": ["x"]}), "!control characters"),
        "newline-in-clip": judged(beside({"clip": "a\n.mp4", "target_prompts": ["x"]}), "!control characters"),
        "crlf": judged(text("m.csv", "clip,target_prompts\r\na.mp4,x\r\n"), X),
        "quotes": judged(
            text("m.csv", cells(HEAD, ["a.mp4", "", 'a "red", circle'])), [("a.mp4", "", ['a "red", circle'])]
        ),
        "empty-lines": judged(text("m.csv", "clip,target_prompts\n\na.mp4,x\n,\n\n"), X),
        "trailing-columns": judged(text("m.csv", "clip,target_prompts\na.mp4,x,,,\n"), X),
        "unquoted-comma": judged(
            text("m.csv", "clip,target_prompts\na.mp4,a red, round circle\nb.mp4,a circle\n"),
            '!put texts with commas in "quotes"',
        ),
        "capitals": judged(text("m.csv", " Clip ,TARGET_PROMPTS\na.mp4,x\n"), X),
        "capitals-jsonl": judged(jsonl({"Clip": "a.mp4", "Target_Prompts": ["x"]}), X),
        "capitals-parquet": judged(parquet(CLIP=["a.mp4"], Target_prompt=["x"]), X),
        "semicolons": judged(text("m.csv", "clip;target_prompts\na.mp4;x\n"), X),
        "tsv": judged(text("m.tsv", "clip\ttarget_prompts\na.mp4\tx, y\n"), [("a.mp4", "", ["x, y"])]),
        "number-as-prompt": judged(beside({"clip": "a.mp4", "target_prompts": [3]}), "!no text"),
        "object-as-prompts": judged(beside({"clip": "a.mp4", "target_prompts": {"a": "b"}}), "!no list of texts"),
        "true-as-clip": judged(beside({"clip": True, "target_prompts": ["x"]}), "!missing or no text"),
        "no-prompts": judged(beside({"clip": "a.mp4", "target_prompts": []}), "!no target prompts"),
        "blank-prompts": judged(beside({"clip": "a.mp4", "target_prompts": ["  ", ""]}), "!no target prompts"),
        "long-prompt": judged(beside({"clip": "a.mp4", "target_prompts": ["x" * 2001]}), "!2001 characters"),
        "long-line": judged(text("m.csv", "clip,target_prompts\na.mp4," + "x" * (1 << 20) + "\n"), "longer than"),
        "list-row": judged(beside([1, 2]), "!no JSON object"),  # type: ignore[arg-type]
        "deep-json": judged(
            text("m.jsonl", "[" * 10_000 + '\n{"clip": "b.mp4", "target_prompts": "a circle"}\n'), "!not JSON"
        ),
        "no-header": judged(text("m.csv", "a.mp4,x\n"), "no column clip"),
        "header-with-escapes": judged(text("m.csv", "\x1b[2Jx,y\na.mp4,x\n"), "no column clip"),
        "empty-file": judged(text("m.csv", ""), "no column clip"),
        "header-alone": judged(text("m.csv", "clip,target_prompts\n"), "holds no clips"),
        "no-parquet": judged(text("m.parquet", "PAR1 no"), "no readable Parquet"),
    }


def names() -> dict[str, Callable[[Path], str]]:
    """What clips are called, and how they are named."""

    def found(name: str, row: str = "") -> Callable[[Path], str]:
        return judged(named(name, row), [(name, "", ["x"])])

    return {
        "file-url-percent": found("b c.mp4", "file://{}/b%20c.mp4"),
        "file-url-really-percent": found("b%20c.mp4", "file://{}/b%20c.mp4"),
        "path-percent": found("b%20c.mp4"),
        "double-colon": found("a::b.mp4"),
        "double-colon-absolute": found("a::b.mp4", "{}/a::b.mp4"),
        "chained-url": judged(
            beside({"clip": "simplecache::https://x/a.mp4", "target_prompts": ["x"]}), "!chained URLs"
        ),
        "protocol": judged(beside({"clip": "ftp://x/a.mp4", "target_prompts": ["x"]}), "!not allowed"),
        "hash": found("a#1.mp4"),
        "question-mark": found("what?.mp4"),
        "dash": found("-y.mp4"),
        "colon": found("c:a.mp4"),
        "emoji": found("🎬 clip.mp4"),
        "right-to-left": judged(beside({"clip": "a\u202e4pm.mp4", "target_prompts": ["x"]}), "!no such file"),
        "space": found("a b .mp4"),
        "decomposed-name": judged(named(NFD, unicodedata.normalize("NFC", NFD)), [(NFD, "", ["x"])]),
        "composed-name": judged(
            named(unicodedata.normalize("NFC", NFD), NFD), [(unicodedata.normalize("NFC", NFD), "", ["x"])]
        ),
        "windows-path": judged(beside({"clip": "clips\\a.mp4", "target_prompts": ["x"]}), "!with / instead of"),
        "windows-drive": judged(beside({"clip": "C:\\clips\\a.mp4", "target_prompts": ["x"]}), "!with / instead of"),
        "outside": judged(beside({"clip": "../a.mp4", "target_prompts": ["x"]}), "!outside the source folder"),
        "absolute-outside": judged(
            beside({"clip": "/etc/hostname", "target_prompts": ["x"]}), "!outside the source folder"
        ),
        "link-outside": judged(link, "!outside the source folder"),
        "absolute-inside": judged(lambda f: jsonl({"clip": f"{f}/a.mp4", "target_prompts": ["x"]})(f), X),
        "dots-inside": judged(jsonl({"clip": "./././a.mp4", "target_prompts": ["x"]}), X),
        "a-folder": judged(
            lambda f: (f / "d.mp4").mkdir() or beside({"clip": "d.mp4", "target_prompts": ["x"]})(f),
            "!it is an empty folder",
        ),
        "missing": judged(beside({"clip": "gone.mp4", "target_prompts": ["x"]}), "!no such file"),
        "empty-name": judged(beside({"clip": "  ", "target_prompts": ["x"]}), "!missing or no text"),
        "very-long-name": judged(beside({"clip": "x" * 5000, "target_prompts": ["x"]}), "!too long"),
        "duplicate-rows": judged(jsonl(*[{"clip": "a.mp4", "target_prompts": ["x"]}] * 3), X),
        "same-clip-more-prompts": judged(
            jsonl({"clip": "a.mp4", "target_prompts": "x"}, {"clip": "a.mp4", "target_prompts": "y"}), XY
        ),
        "a-row-for-each-edit": judged(text("m.csv", "Clip;Target_Prompt;SEED;id\na.mp4;x;1;i\na.mp4;y;;j\n"), XY),
        "edits-in-a-row": judged(
            jsonl({"clip": "a.mp4", "edits": [{"target_prompt": "x"}, {"target_prompt": "y"}]}), XY
        ),
        "edits-in-a-cell": judged(
            text("m.csv", cells(["clip", "edits"], ["a.mp4", '[{"target_prompt": "x, |"}]'])), [("a.mp4", "", ["x, |"])]
        ),
        "edits-no-list": judged(beside({"clip": "a.mp4", "edits": {"target_prompt": "x"}}), "!its edits are no list"),
        "edit-no-object": judged(beside({"clip": "a.mp4", "edits": ["x"]}), "!edit 1 of its edits is no object"),
        "edit-wrong": judged(
            beside({"clip": "a.mp4", "edits": [{"target_prompt": "x", "seed": []}]}), "!edit 1: its seed"
        ),
        "seed-text": judged(beside({"clip": "a.mp4", "target_prompts": ["x"], "seed": "s"}), "!no whole number"),
        "recipe-unknown": judged(
            beside({"clip": "a.mp4", "target_prompts": ["x"], "recipe": "blod"}), "!did you mean bold?"
        ),
        "strength-none": judged(beside({"clip": "a.mp4", "target_prompts": ["x"], "strength": 0}), "!from 0.01 to 100"),
        "start-negative": judged(
            beside({"clip": "a.mp4", "target_prompts": ["x"], "start": "-1"}), "!no time in the clip"
        ),
        "end-before-start": judged(
            beside({"clip": "a.mp4", "target_prompts": ["x"], "start": "00:01:00", "end": 2}), "!is not after its start"
        ),
        "no-such-source": judged(lambda f: f, "does not exist", source="{}/nowhere"),
        "no-such-prompts": judged(lambda f: f, "does not exist", prompts="{}/none.list"),
        "prompts-utf-16": judged(
            prompts_file(b"\xff\xfe" + "x\n# no\ny\n".encode("utf-16-le")),
            [("a.mp4", "", ["x", "y"]), ("b.mp4", "", ["x", "y"])],
            prompts="{}/p.list",
        ),
        "prompts-latin-1": judged(prompts_file(b"caf\xe9\n"), "line 1", prompts="{}/p.list"),
        "prompts-tab": judged(
            prompts_file(b"\ta\tred circle \r\n\r\n"),
            [("a.mp4", "", ["a red circle"]), ("b.mp4", "", ["a red circle"])],
            prompts="{}/p.list",
        ),
        "prompts-empty": judged(prompts_file(b"# nothing\n\n"), "holds no prompt", prompts="{}/p.list"),
        "prompts-binary": judged(prompts_file(bytes(range(256)) * 10), "prompts file", prompts="{}/p.list"),
    }


def cases() -> list[Case]:
    return [
        Case("rows", name, "read as it is meant, or refused by one sentence", judge)
        for name, judge in (rows() | names()).items()
    ]
