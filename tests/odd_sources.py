"""Odd sources of other kinds: lists, tars, tables with videos in them, saved data sets, frames and captions."""

from __future__ import annotations

import io
import json
import os
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from odd_cases import REFUSED, RIGHT, Case, one_sentence
from PIL import Image

from cogvideo_core.errors import EditError
from cogvideo_core.inputs.clip_files import fetched
from cogvideo_core.inputs.sources import read_clips
from cogvideo_core.media.video import Limits
from cogvideo_core.settings.specs import DatasetSpec

LIMITS = Limits(max_seconds=10, max_pixels=10**6, max_bytes=10**6, timeout_s=60)
STRUCT = pa.struct({"bytes": pa.binary(), "path": pa.string()})
Wanted = Sequence[tuple[str, bytes]]
"""(source prompt, bytes) of each clip."""


def judged(write: Callable[[Path], Path], wanted: Wanted | str) -> Callable[[Path], str]:
    """What `write` makes must give these clips with the target prompt "x" (b"" stands for any bytes), or one sentence
    with these words, for its only clip or as a whole, when it is read or when it is fetched."""

    def judge(folder: Path) -> str:
        (folder / "p.list").write_text("x\n")
        (folder / "in").mkdir()
        try:
            records: list[Any] = list(
                read_clips(DatasetSpec(source=str(write(folder / "in")), prompts=f"{folder}/p.list"))
            )
            bad = [record["message"] for record in records if "error" in record]
            found = [] if bad else [(r["source_prompt"], _bytes(r), r["target_prompts"]) for r in records]
        except EditError as error:
            bad, found = [str(error)], []
        if isinstance(wanted, str):
            told = len(bad) == 1 and wanted in bad[0]
            return one_sentence(bad[0]) or REFUSED if told else f"{found} {bad}"
        right = len(found) == len(wanted) and all(
            one[0] == other[0] and other[1] in (one[1], b"") and one[2] == ["x"]
            for one, other in zip(found, wanted, strict=True)
        )
        return RIGHT if right and not bad else f"{[one[::2] for one in found]} {bad}"

    return judge


def _bytes(record: Any) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        return fetched(record, Path(folder), LIMITS)[0].read_bytes()


def tar(*members: tuple[str, bytes | str], name: str = "s.tar", cut: int = 0, **fields: Any) -> Callable[[Path], Path]:
    """A tar of files; a member whose content is text is a link to it. `fields` are those of the first one."""

    def write(folder: Path) -> Path:
        sink = io.BytesIO()
        with tarfile.open(fileobj=sink, mode="w") as file:
            for index, (called, content) in enumerate(members):
                info = tarfile.TarInfo(called)
                data = content if isinstance(content, bytes) else b""
                info.size = len(data)
                if isinstance(content, str):
                    info.type, info.linkname = tarfile.SYMTYPE, content
                for field, value in fields.items() if not index else ():
                    setattr(info, field, value)
                file.addfile(info, io.BytesIO(data))
        (folder / name).write_bytes(sink.getvalue()[: cut or None])
        return folder / name

    return write


def cells(values: list[Any], kind: Any = STRUCT, **options: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        pq.write_table(pa.table({"video": pa.array(values, kind)}), folder / "m.parquet", **options)
        return folder / "m.parquet"

    return write


def listed(value: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "a.mp4").write_bytes(b"A")
        (folder / "m.json").write_text(value if isinstance(value, str) else json.dumps(value))
        return folder / "m.json"

    return write


def frames(
    *names: str, extra: Callable[[Path], Any] = lambda folder: None, parent: bool = True, **row: Any
) -> Callable[[Path], Path]:
    """A folder of pictures, in a source folder or named by a manifest with these columns."""

    def write(folder: Path) -> Path:
        (folder / "clip").mkdir()
        for name in names:
            Image.new("RGB", (32, 24), "red").save(folder / "clip" / name)
        extra(folder / "clip")
        if parent:
            return folder
        (folder / "m.jsonl").write_text(json.dumps({"clip": "clip"} | row))
        return folder / "m.jsonl"

    return write


def captions(videos: str, texts: str) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "a.mp4").write_bytes(b"A")
        (folder / "b.mp4").write_bytes(b"B")
        (folder / "videos.txt").write_text(videos)
        (folder / "prompts.txt").write_text(texts)
        return folder

    return write


def saved(state: Any) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        (folder / "dataset_info.json").write_text("{}")
        (folder / "state.json").write_text(json.dumps(state))
        return folder

    return write


def tars() -> dict[str, Callable[[Path], str]]:
    caption = ("1.txt", b"a cat")
    return {
        "tar": judged(tar(("1.mp4", b"A"), caption, ("2.webm", b"B")), [("a cat", b"A"), ("", b"B")]),
        "tar-json": judged(tar(("1.json", b'{"caption": "a cat"}'), ("1.mp4", b"A")), [("a cat", b"A")]),
        "tar-climbs": judged(tar(("../../1.mp4", b"A"), ("../../1.txt", b"a cat")), [("a cat", b"A")]),
        "tar-absolute": judged(tar(("/etc/1.mp4", b"A")), [("", b"A")]),
        "tar-mac": judged(tar(("._1.mp4", b"x"), ("1.mp4", b"A")), [("", b"A")]),
        "tar-link": judged(tar(("1.mp4", "/etc/passwd")), "it is a link or a device in its tar"),
        "tar-caption-link": judged(tar(("1.mp4", b"A"), ("1.txt", "/etc/passwd")), "is no plain file"),
        "tar-device": judged(tar(("1.mp4", b""), type=tarfile.BLKTYPE), "it is a link or a device in its tar"),
        "tar-no-video": judged(tar(("1.jpg", b"x"), caption), "its sample holds no video"),
        "tar-cut": judged(tar(("1.mp4", b"A" * 9000), cut=3000), "no whole, uncompressed tar"),
        "tar-empty": judged(tar(), "holds no clips"),
        "tar-gzip": judged(tar(("1.mp4", b"A"), name="s.tar.gz"), "is a compressed tar"),
        "tar-bad-json": judged(tar(("1.mp4", b"A"), ("1.json", b"{")), "its '1.json' can't be read"),
        "tar-control": judged(tar(("1\x1b.mp4", b"A")), "control characters"),
        "tar-too-large": judged(tar(("1.mp4", b"A" * 1_100_000)), "more than 1 MB"),
    }


def tables() -> dict[str, Callable[[Path], str]]:
    one = {"path": "a.mp4", "bytes": b"A"}
    return {
        "cells": judged(cells([one, {"path": None, "bytes": b"B"}]), [("", b"A"), ("", b"B")]),
        "cells-no-statistics": judged(cells([one], write_statistics=False), [("", b"A")]),
        "cells-plain": judged(cells([b"A"], pa.large_binary()), [("", b"A")]),
        "cells-empty": judged(cells([None]), "the field clip is missing"),
        "cells-path-climbs": judged(cells([{"path": "../../a.mp4", "bytes": None}]), "outside the source folder"),
        "cells-too-large": judged(cells([{"path": "a", "bytes": os.urandom(1_100_000)}]), "write smaller row groups"),
        "list": judged(listed([{"clip": "a.mp4", "caption": "a cat"}]), [("a cat", b"A")]),
        "list-struct": judged(listed([{"video": {"path": "a.mp4", "bytes": None}}]), [("", b"A")]),
        "list-nan": judged(listed('[{"clip": "a.mp4", "caption": NaN}]'), [("", b"A")]),
        "list-twice": judged(listed('[{"clip": "a.mp4", "clip": "b.mp4"}]'), "two columns for clip"),
        "list-object": judged(listed({"videos": []}), "holds one object and no list of rows"),
        "list-scalar": judged(listed("NaN"), "holds a single value"),
        "list-empty": judged(listed([]), "holds no clips"),
        "list-deep": judged(listed("[" * 10_000), "nested too deeply"),
        "list-deep-row": judged(listed('[{"clip": "a.mp4", "x": ' + "[" * 99 + "]" * 99 + "}]"), "more than 32 deep"),
        "saved-elsewhere": judged(saved({"_data_files": [{"filename": "../m.arrow"}]}), "names no Arrow files"),
        "saved-nothing": judged(saved({}), "has no list '_data_files'"),
        "saved-gone": judged(saved({"_data_files": [{"filename": "m.arrow"}]}), "no readable Arrow file"),
    }


def folders() -> dict[str, Callable[[Path], str]]:
    def cut(folder: Path) -> None:
        (folder / "3.png").write_bytes((folder / "2.png").read_bytes()[:-30])

    def large(folder: Path) -> None:
        Image.new("1", (4000, 4000)).save(folder / "3.png")

    def other(folder: Path) -> None:
        Image.new("RGB", (24, 32)).save(folder / "3.png")

    two = ("1.png", "2.png")
    return {
        "frames": judged(frames("8.jpg", "09.jpg", "0010.jpeg"), [("", b"")]),
        "frames-row": judged(frames(*two, parent=False, fps="30000/1001"), [("", b"")]),
        "frames-huge-rate": judged(frames(*two, parent=False, fps="1e10000000"), "its fps '1e10000000' is no number"),
        "frames-no-rate": judged(frames(*two, parent=False, fps="fast"), "its fps 'fast' is no number"),
        "frames-cut": judged(frames(*two, extra=cut), "frame '3.png': it can't be decoded"),
        "frames-bomb": judged(frames(*two, extra=large), "frame '3.png': it has 4000x4000 pixels"),
        "frames-of-two-sizes": judged(frames(*two, extra=other), "differ in size"),
        "frames-twice": judged(frames("1.png", "01.png"), "have one number"),
        "frames-and-more": judged(
            frames(*two, parent=False, extra=lambda f: (f / "a.txt").touch()), "'a.txt' in it is no numbered"
        ),
        "frames-link": judged(
            frames(*two, parent=False, extra=lambda f: os.symlink("/etc/passwd", f / "3.png")), "'3.png' in it is no"
        ),
        "frames-too-long": judged(frames(*two, parent=False, fps=0.1), "more than max_seconds"),
        "captions": judged(captions("b.mp4\na.mp4\n\n", "\na cat"), [("", b"B"), ("a cat", b"A")]),
        "captions-too-few": judged(captions("b.mp4\na.mp4\n", "\na cat\nx\n"), "has 2 lines and prompts.txt 3"),
    }


def cases() -> list[Case]:
    return [
        Case("rows", name, "each clip's own bytes and caption, or one sentence", judge)
        for name, judge in (tars() | tables() | folders()).items()
    ]
