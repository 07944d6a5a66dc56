"""What was edited becomes a folder that `datasets` loads, the same bytes each time."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow.parquet as pq
import pytest

from cogvideo_core.dataset.collect import EditRow, collect
from cogvideo_core.dataset.rows import SPLIT_WORDS, edit_rows, failure_row, metadata_bytes
from cogvideo_core.dataset.target import Target
from cogvideo_core.errors import EditError

Row = dict[str, Any]
FAILURE = {"clip": "bad.mp4", "stage": "encode", "error": "NotAVideo", "kind": "bad_input", "message": "no | video"}
TIMING = {"clip": "a.mp4", "stage": "edit", "seconds": 1.5, "reused": False, "evaluations": 12, "host": "here"}
ABOUT = {"title": "Edits", "model": {"path": "shapes"}}


def key(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


@pytest.fixture
def edit(tmp_path: Path) -> Callable[..., EditRow]:
    """Makes a row whose two files exist; the clip's name decides the source, clip and prompt the edit."""

    def make(clip: str = "a.mp4", prompt: str = "a blue circle", **more: Any) -> EditRow:
        texts = ("source_prompt", "inversion_prompt", "negative_prompt", "recipe_fingerprint", "model_fingerprint")
        row: Any = dict.fromkeys(texts, "") | {"model": "shapes", "recipe": "balanced", "state": "done", "scores": {}}
        row |= {"clip": clip, "name": clip.partition(".")[0], "target_prompt": prompt, "seed": 0, "window": 0}
        row |= {"frames": 9, "height": 48, "width": 48, "fps": 8}
        row |= {"trajectory_key": key("t" + clip), "latents_key": key("l" + clip)}
        row |= {"source_id": key("s" + clip), "source_key": key("v" + clip), "edit_key": key(clip + prompt)} | more
        for field, stage in (("edit_object", "edits"), ("source_object", "latents")):
            unit = row["edit_key"] if stage == "edits" else row["source_key"]
            path = tmp_path / "run" / stage / unit[:12] / "video.mp4"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(f"{stage} {unit}".encode())
            row.setdefault(field, str(path))
        return row

    return make


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "run"


def tree(root: Path) -> dict[str, bytes]:
    parts = ("tables", "dataset", "gallery", "index.html")
    files = (p for p in root.rglob("*") if p.is_file() and p.relative_to(root).parts[0] in parts)
    return {str(p.relative_to(root)): p.read_bytes() for p in files}


def metadata(root: Path) -> list[Row]:
    return [json.loads(line) for line in (root / "dataset/metadata.jsonl").read_text("utf-8").splitlines()]


def load(folder: Path, cache: Path, *args: Any, **more: Any) -> Any:
    """The dataset as a user loads it, its videos as paths."""
    from datasets import Video, load_dataset

    loaded = load_dataset(*args, split="train", cache_dir=str(cache), **more)
    for column in ("video", "source"):
        loaded = loaded.cast_column(column, Video(decode=False))
    return loaded


def test_the_tree_is_complete(root: Path, edit: Callable[..., EditRow]) -> None:
    """Two clips, three edits: five videos, one metadata row an edit, three tables, a card and a gallery."""
    edits = [edit("b.mp4"), edit("a.mp4", "x"), edit("a.mp4", "y")]
    counts = collect(str(root), edits, [FAILURE], [TIMING], ABOUT)
    wanted = {"edits": 3, "clips": 2, "errors": 1, "rejected": 0, "copied": 5, "kept": 0}
    assert {name: counts[name] for name in wanted} == wanted
    names = set(tree(root))
    tables = {f"tables/{name}.parquet" for name in ("edits", "errors", "timings")}
    assert {n for n in names if "/videos/" not in n} == tables | {
        "dataset/metadata.jsonl",
        "dataset/README.md",
        "index.html",
    }
    for row, source in zip(metadata(root), (edits[1], edits[2], edits[0]), strict=True):
        assert row["file_name"] == f"videos/{source['name']}-{source['edit_key'][:12]}.mp4"
        assert row["source_file_name"] == f"videos/{source['name']}-{source['source_key'][:12]}-source.mp4"
        assert (root / "dataset" / row["file_name"]).read_bytes() == f"edits {source['edit_key']}".encode()
        assert (root / "dataset" / row["source_file_name"]).read_bytes() == f"latents {source['source_key']}".encode()
    (table,) = pq.read_table(root / "tables/errors.parquet").to_pylist()
    assert table == {**FAILURE, "attempts": 1, "retryable": False, "source_id": "", "window": 0, "parked": False}
    assert pq.read_table(root / "tables/timings.parquet").to_pylist()[0]["host"] == "here"


def test_datasets_loads_one_row_an_edit(root: Path, edit: Callable[..., EditRow], tmp_path: Path) -> None:
    """`videofolder` and the folder's own card both give the committed edits, each with its two videos, and no more.

    One clip has a name that `datasets` would take for a split of its own.
    """
    edits = [edit("a.mp4", "x", scores={"psnr": 30.0}), edit("a.mp4", "y"), edit("my-test-2.mp4"), edit("train.mp4")]
    collect(str(root), edits, [FAILURE], [], ABOUT)
    folder = root / "dataset"
    by_kind = load(folder, tmp_path / "one", "videofolder", data_dir=str(folder))
    by_card = load(folder, tmp_path / "two", str(folder))
    rows = metadata(root)
    assert len(rows) == 4
    for loaded in (by_kind, by_card):
        assert loaded["target_prompt"] == [row["target_prompt"] for row in rows]
        assert loaded["edit_key"] == [row["edit_key"] for row in rows]
        for column, name in (("video", "file_name"), ("source", "source_file_name")):
            assert [v["path"] for v in loaded[column]] == [str(folder / row[name]) for row in rows]
        assert loaded["score_psnr"] == [30.0, None, None, None]


def test_a_second_collection_copies_nothing_and_gives_equal_bytes(root: Path, edit: Callable[..., EditRow]) -> None:
    """The order in which rows and failures come does not matter either."""
    edits = [edit("b.mp4"), edit("a.mp4", "x", scores={"psnr": 1 / 3}), edit("a.mp4", "y")]
    failures = [FAILURE, FAILURE | {"clip": "worse.mp4"}]
    collect(str(root), edits, failures, [TIMING], ABOUT)
    before = tree(root)
    counts = collect(str(root), reversed(edits), reversed(failures), [TIMING], ABOUT)
    assert (counts["copied"], counts["kept"]) == (0, 5)
    assert tree(root) == before


def test_damaged_and_stale_videos_are_put_right(root: Path, edit: Callable[..., EditRow]) -> None:
    """A short video is copied again, one of an edit that is gone is removed, a stranger's file stays."""
    collect(str(root), [edit("a.mp4"), edit("b.mp4")], [], [], ABOUT)
    videos = root / "dataset/videos"
    (short,) = (p for p in videos.iterdir() if p.name.startswith("a-") and "source" not in p.name)
    short.write_bytes(b"half")
    (videos / "holiday.mp4").write_bytes(b"mine")
    counts = collect(str(root), [edit("a.mp4")], [], [], ABOUT)
    assert (counts["copied"], counts["kept"]) == (1, 1)
    assert sorted(p.name[:2] for p in videos.iterdir()) == ["a-", "a-", "ho"]
    assert short.read_bytes().startswith(b"edits ")


def test_an_edit_whose_file_is_gone_is_a_failure_not_a_row(root: Path, edit: Callable[..., EditRow]) -> None:
    """`datasets` breaks on a row without a file; so the row goes to the errors, and the rest is collected."""
    gone = edit("b.mp4")
    Path(gone["edit_object"]).unlink()
    counts = collect(str(root), [edit("a.mp4"), gone], [], [], ABOUT)
    assert (counts["edits"], counts["errors"]) == (1, 1)
    (row,) = pq.read_table(root / "tables/errors.parquet").to_pylist()
    assert (row["clip"], row["stage"], row["retryable"]) == ("b.mp4", "collect", True) and "run again" in row["message"]
    assert len(list((root / "dataset/videos").iterdir())) == 2


def test_a_large_gallery_is_split_and_shrinks_again(
    root: Path, edit: Callable[..., EditRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its parts are written below gallery/; those that a smaller gallery lacks go, and files of others stay."""
    monkeypatch.setattr("cogvideo_core.dataset.gallery.INLINE_BYTES", 100)
    monkeypatch.setattr("cogvideo_core.dataset.gallery.PAGE_SECTIONS", 1)
    collect(str(root), [edit(f"{name}.mp4") for name in "abc"], [], [], ABOUT)
    assert {path.name for path in (root / "gallery").iterdir()} == {"00001.js", "00002.js", "index-00000.js"}
    (root / "gallery/mine.js").write_text("mine")
    collect(str(root), [edit(f"{name}.mp4") for name in "ab"], [], [], ABOUT)
    assert {path.name for path in (root / "gallery").iterdir()} == {"00001.js", "index-00000.js", "mine.js"}
    monkeypatch.undo()
    collect(str(root), [edit("a.mp4")], [], [], ABOUT)
    assert {path.name for path in (root / "gallery").iterdir()} == {"mine.js"}


def test_the_gallery_s_page_is_written_last(
    root: Path, edit: Callable[..., EditRow], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page names its parts, so a run that ends early leaves the page of before; and nothing goes before it."""
    monkeypatch.setattr("cogvideo_core.dataset.gallery.INLINE_BYTES", 100)
    monkeypatch.setattr("cogvideo_core.dataset.gallery.PAGE_SECTIONS", 1)
    collect(str(root), [edit(f"{name}.mp4") for name in "abc"], [], [], ABOUT)
    before = (root / "index.html").read_bytes()
    write = Target.write

    def full(target: Target, name: str, data: bytes) -> None:
        if name == "index.html":
            raise OSError("no space left")
        write(target, name, data)

    monkeypatch.setattr(Target, "write", full)
    with pytest.raises(OSError, match="no space left"):
        collect(str(root), [edit(f"{name}.mp4") for name in "ab"], [], [], ABOUT)
    assert (root / "index.html").read_bytes() == before and (root / "gallery/00002.js").exists()


def test_equal_content_under_two_paths_makes_two_rows(root: Path, edit: Callable[..., EditRow]) -> None:
    """Same keys, another clip: both are rows; the very same row twice is one."""
    first = edit("a.mp4")
    other = edit("copy/a.mp4", name="a", edit_key=first["edit_key"], source_key=first["source_key"])
    counts = collect(str(root), [first, other, first], [], [], ABOUT)
    assert (counts["edits"], counts["clips"], counts["copied"]) == (2, 2, 2)


def test_tables_exist_with_their_columns_when_there_is_nothing(root: Path) -> None:
    """An empty run leaves readable tables and a page."""
    counts = collect(str(root), [], [], [], {}, gallery=False)
    assert set(counts.values()) == {0} and not (root / "index.html").exists()
    columns = {n: pq.read_schema(root / f"tables/{n}.parquet").names for n in ("edits", "errors", "timings")}
    assert columns["errors"][:7] == ["clip", "stage", "error", "kind", "message", "attempts", "retryable"]
    assert "edit_key" in columns["edits"] and "seconds" in columns["timings"]


def test_collecting_between_stores(root: Path, edit: Callable[..., EditRow], tmp_path: Path) -> None:
    """Local files to an object store, within it, and from there to a disk: the same dataset."""
    memory = fsspec.filesystem("memory")
    collect("memory://gathered/one", [edit()], [], [], ABOUT)
    moved: Any = dict(edit())
    for field in ("edit_object", "source_object"):
        moved[field] = f"memory://gathered/{field}.mp4"
        memory.put_file(edit()[field], moved[field])
    assert collect("memory://gathered/two", [moved], [], [], ABOUT)["copied"] == 2
    assert collect("memory://gathered/two", [moved], [], [], ABOUT)["kept"] == 2
    collect(str(tmp_path / "three"), [moved], [], [], ABOUT)
    names = [name for name in tree(tmp_path / "three") if "edits.parquet" not in name]
    assert len(names) == 7
    for name in names:
        same = {memory.cat_file(f"/gathered/{n}/{name}") for n in ("one", "two")}
        assert same == {(tmp_path / "three" / name).read_bytes()}, name
    for path in memory.find("/gathered"):
        memory.rm_file(path)


def test_objects_inside_the_root_are_named_relative_to_it(root: Path, edit: Callable[..., EditRow]) -> None:
    """A moved folder keeps its meaning."""
    row = edit()
    collect(str(root), [row], [], [], ABOUT)
    (found,) = pq.read_table(root / "tables/edits.parquet").to_pylist()
    assert found["edit_object"] == f"edits/{row['edit_key'][:12]}/video.mp4"


@pytest.mark.parametrize("bad", ["ssh://host/x", "a::b"])
def test_a_root_that_may_not_be_used_is_refused(bad: str) -> None:
    """One sentence, before anything is written."""
    with pytest.raises(EditError, match=r"not allowed"):
        collect(bad, [], [], [], {})


def test_hostile_texts_do_no_harm(root: Path, edit: Callable[..., EditRow], tmp_path: Path) -> None:
    """Names become safe file names; markup, table breaks and lone surrogates are written as plain text; it loads."""
    nasty = '<script>alert(1)</script> | "a" {x} `b`\n---\n# t \ud800'
    edits = [edit(nasty, nasty, name="../../" + nasty, model=nasty, source_prompt=nasty)]
    failure = FAILURE | {"clip": nasty, "message": nasty * 100}
    collect(str(root), edits, [failure], [], {"title": nasty, "recipe": {"name": nasty}})
    (row,) = metadata(root)
    assert re.fullmatch(r"videos/[A-Za-z0-9._-]{1,64}-[0-9a-f]{12}\.mp4", row["file_name"])
    card = (root / "dataset/README.md").read_text("utf-8")
    assert "<script>" not in card.partition("\n---\n")[2] and "<script>alert" not in (root / "index.html").read_text(
        "utf-8"
    )
    assert card.count("\n---\n") == 1
    assert load(root, tmp_path / "hf", str(root / "dataset"))["target_prompt"] == [nasty.replace("\ud800", "\\ud800")]


def test_a_signed_url_is_not_published(root: Path, edit: Callable[..., EditRow]) -> None:
    """Everything written shows the address without its query."""
    clip = "https://host/a.mp4?signature=secret"
    failure = FAILURE | {"clip": clip, "message": f"clip {clip!r}: no video"}
    collect(str(root), [edit(clip=clip)], [failure], [TIMING | {"clip": clip}], ABOUT)
    assert metadata(root)[0]["clip"] == "https://host/a.mp4"
    assert not [name for name, data in tree(root).items() if b"signature=secret" in data]


def test_scores_become_columns(edit: Callable[..., EditRow]) -> None:
    """Every score of any row is a column; what was not measured, or is no number, is null."""
    rows = edit_rows([edit("a.mp4", scores={"psnr": 30, "oracle": float("nan")}), edit("b.mp4", scores={"ssim": 0.5})])
    scores = [{k: v for k, v in row.items() if k.startswith("score_")} for row in rows]
    expected: list[Row] = [{"score_psnr": 30.0, "score_ssim": None}, {"score_psnr": None, "score_ssim": 0.5}]
    assert scores == [row | {"score_oracle": None} for row in expected]
    assert b"NaN" not in metadata_bytes(rows)


@pytest.mark.parametrize("name", ["test", "a-train", "my.val.1", "x_dev", "3eval3", "TEST-valid", "testing-evaluation"])
def test_no_file_name_looks_like_a_split(name: str, edit: Callable[..., EditRow]) -> None:
    """No word that `datasets` makes splits of stands between separators; words that only contain one stay."""
    from datasets.data_files import NON_WORDS_CHARS, SPLIT_KEYWORDS

    (row,) = edit_rows([edit("a.mp4", name=name)])
    parts = set(re.split(f"[{NON_WORDS_CHARS}]", row["file_name"].removeprefix("videos/").lower()))
    assert not parts & {word for words in SPLIT_KEYWORDS.values() for word in words}
    assert not SPLIT_WORDS.search("latest-trained-device")


def test_columns_beyond_the_known_ones_are_kept(root: Path, edit: Callable[..., EditRow]) -> None:
    """Timings may carry more; a column of mixed types becomes text."""
    collect(str(root), [edit()], [], [TIMING | {"a": 1, "b": 1}, TIMING | {"b": "x"}], ABOUT)
    rows = pq.read_table(root / "tables/timings.parquet").to_pylist()
    assert [(row["a"], row["b"]) for row in rows] == [(1, "1"), (None, "x")]


def test_failures_have_all_columns() -> None:
    """Unknown fields are dropped, missing ones filled, messages cut."""
    row = failure_row(FAILURE | {"message": "x" * 9_000, "timings": [], "attempts": 3})
    assert list(row) == [*FAILURE, "attempts", "retryable", "source_id", "window", "parked"]
    assert (len(row["message"]), row["attempts"], row["retryable"]) == (2_000, 3, False)


def test_the_card_says_what_it_is(root: Path, edit: Callable[..., EditRow]) -> None:
    """Front matter that YAML reads, counts, columns, settings, failures."""
    import yaml  # type: ignore[import-untyped,unused-ignore]

    collect(str(root), [edit(scores={"psnr": 3.0})], [FAILURE] * 25, [], ABOUT)
    card = (root / "dataset/README.md").read_text()
    front = yaml.safe_load(card.split("---\n")[1])
    assert front["pretty_name"] == "Edits" and front["task_categories"] == ["video-to-video"]
    assert front["size_categories"] == ["n<1K"]
    for text in (
        "| Edits | 1 |",
        "| Failures | 25 |",
        "| model.path | shapes |",
        "| `score_psnr` |",
        "no &#124; video",
    ):
        assert text in card
    assert "5 more are in `tables/errors.parquet`" in card
