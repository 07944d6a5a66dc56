"""An export goes on where it was interrupted, splits by clip, and says in one sentence what it can't do."""

from __future__ import annotations

import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import exported_run
import fsspec
import pyarrow.parquet as pq
import pytest
from pydantic import ValidationError

from cogvideo_core.errors import BadSpec, CorruptObject, EditError, ForbiddenUri, StorageError
from cogvideo_core.exports import export as exporting
from cogvideo_core.exports import formats
from cogvideo_core.exports import rows as export_rows
from cogvideo_core.exports.export import export
from cogvideo_core.exports.place import OURS, Place
from cogvideo_core.exports.spec import ExportSpec, shares_of, split_of

FORMATS = ("webdataset", "parquet", "finetrainers", "triplets")
HALVES = "train=0.5,validation=0.5"
Run = exported_run.Run


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    return exported_run.make(str(folder / "root"), folder / "made")


@pytest.fixture
def run(made_once: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Four clips with two edits each; two edits make a shard."""
    monkeypatch.setattr(formats, "ROWS_MOST", 2)
    return made_once.copied(str(tmp_path / "root"))


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def made(folder: Path) -> dict[str, int]:
    """When each file of data was made."""
    names = re.compile(r".*\.(tar|parquet|mp4)")
    return {n: (folder / n).stat().st_ino for n in tree(folder) if names.fullmatch(n)}


def triplets(folder: Path, split: str = "train") -> list[dict[str, str]]:
    path = folder / f"triplets-{split}.jsonl"
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()] if path.exists() else []


def prompts(root: str, dest: Path, **fields: Any) -> list[str]:
    """Instructions of the edits that an export holds."""
    export(root, str(dest), ExportSpec(to="triplets", **fields))
    return [row["instruction"] for row in triplets(dest)]


# Interrupted


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, StorageError])
def test_an_interrupted_export_goes_on(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: Any, error: type[BaseException]
) -> None:
    """Stopped while it makes its third shard, an export has no sums and no half file; done again, it keeps the two
    shards that are finished, and ends with the bytes of one that was never disturbed."""
    export(run.root, str(tmp_path / "whole"), ExportSpec(to=to))
    place, (ask, record) = tmp_path / "stopped", (Place.finished, Place.record)
    recorded: list[str] = []

    def ask_or_stop(self: Place, shard: str, *given: Any) -> Any:
        if len(recorded) == 2:
            monkeypatch.setattr(export_rows, "READERS", 1)
            monkeypatch.setattr("cogvideo_core.exports.export.read_video", stop_at_second())
        return ask(self, shard, *given)

    def stop_at_second() -> Callable[..., Any]:
        from cogvideo_core.exports.export import read_video

        calls: list[int] = []

        def read(*given: Any) -> Any:
            calls.append(1)
            if len(calls) > 2:
                raise error("stopped")
            return read_video(*given)

        return read

    monkeypatch.setattr(
        Place, "record", lambda self, shard, *given: (recorded.append(shard), record(self, shard, *given))
    )
    monkeypatch.setattr(Place, "finished", ask_or_stop)
    with pytest.raises(error):
        export(run.root, str(place), ExportSpec(to=to))
    monkeypatch.undo()
    monkeypatch.setattr(formats, "ROWS_MOST", 2)
    before, left = made(place), tree(place)
    assert recorded == ["train-00000", "train-00001"] and "sha256sums.txt" not in left
    assert not [name for name in left if name.startswith(".export/tmp/")]
    assert {name: data for name, data in left.items() if name in before} == {
        name: data for name, data in tree(tmp_path / "whole").items() if name in before
    }
    counts = export(run.root, str(place), ExportSpec(to=to))
    assert (counts["edits"], counts["shards"], counts["shards_kept"]) == (8, 2, 2)
    finished = {name for name in before if to in ("webdataset", "parquet") or json.dumps(name)[1:-1] in records(place)}
    assert finished and {name: made(place)[name] for name in finished} == {name: before[name] for name in finished}
    assert tree(place) == tree(tmp_path / "whole")


def records(place: Path) -> str:
    """What is recorded of the first two shards."""
    return "".join((place / f".export/shards/train-0000{number}.json").read_text() for number in (0, 1))


def test_a_finished_export_is_kept_as_it_is(run: Run, tmp_path: Path) -> None:
    """Done again, nothing is written but lists, card and sums, with equal bytes."""
    for to in FORMATS:
        first = export(run.root, str(tmp_path / to), ExportSpec(to=to))
        before, inodes = tree(tmp_path / to), made(tmp_path / to)
        again = export(run.root, str(tmp_path / to), ExportSpec(to=to))
        assert (again["shards"], again["shards_kept"]) == (0, first["shards"]) == (0, 4)
        assert again["bytes"] == first["bytes"] and again["edits"] == 8
        assert tree(tmp_path / to) == before and made(tmp_path / to) == inodes


@pytest.mark.parametrize("to", FORMATS)
def test_a_damaged_shard_is_made_again(run: Run, tmp_path: Path, to: Any) -> None:
    """A byte that changed is found by `full`, and a length that changed by `size`; the other shards stay."""
    place = tmp_path / "export"
    export(run.root, str(place), ExportSpec(to=to))
    whole, names = tree(place), sorted(made(place))
    data = bytearray((place / names[0]).read_bytes())
    data[len(data) // 2] ^= 1
    (place / names[0]).write_bytes(data)
    assert export(run.root, str(place), ExportSpec(to=to, verify="size"))["shards"] == 0
    assert export(run.root, str(place), ExportSpec(to=to))["shards"] == 1 and tree(place) == whole
    (place / names[0]).write_bytes(data[:-1])
    assert export(run.root, str(place), ExportSpec(to=to, verify="size"))["shards"] == 1 and tree(place) == whole
    (place / f".export/shards/{'train-00000'}.json").write_text('{"files": 3}')
    assert export(run.root, str(place), ExportSpec(to=to))["shards"] == 1 and tree(place) == whole


def test_new_edits_are_added_and_stale_files_go(run: Run, tmp_path: Path) -> None:
    """Shards before the new edit are kept; with fewer edits, files that are no longer part of it go, and a stranger's
    file stays."""
    place = tmp_path / "export"
    export(run.root, str(place), ExportSpec())
    run.edit("clip9.mp4", "a green square")
    counts = export(run.collect(), str(place), ExportSpec())
    assert (counts["edits"], counts["shards"], counts["shards_kept"]) == (9, 1, 4)
    (place / "notes.txt").write_text("mine")
    (place / ".export/tmp").mkdir(exist_ok=True)
    (place / ".export/tmp/half").write_bytes(b"half")
    del run.rows[2:]
    counts = export(run.collect(), str(place), ExportSpec())
    assert (counts["edits"], counts["shards"], counts["shards_kept"]) == (2, 0, 1)
    wanted = {"train-00000.tar", "README.md", "sha256sums.txt", "notes.txt"}
    assert set(tree(place)) == wanted | {".export/export.json", ".export/shards/train-00000.json"}


# Splits


def splits_of(folder: Path) -> dict[str, str]:
    """target -> split of a triplets export."""
    found = {}
    for path in folder.glob("triplets-*.jsonl"):
        split = path.stem.partition("-")[2]
        found |= {row["target"].rpartition("-")[2]: split for row in triplets(folder, split)}
    return found


def test_a_clip_stays_in_its_split(tmp_path: Path) -> None:
    """All edits and windows of a clip are in one split, equal content under another name too; more clips, another
    order of rows and another order of the shares move none."""
    run = Run(str(tmp_path / "root"), tmp_path / "made")
    for number in range(6):
        run.edit(f"clip{number}.mp4", "a red square")
        run.edit(f"clip{number}.mp4", "a red square", window=1)
        run.edit(f"clip{number}.mp4", "a blue square", window=1)
    run.edit("copy.mp4", "a red square", content="clip0.mp4", window=2)
    export(run.collect(), str(tmp_path / "one"), ExportSpec(to="triplets", split=HALVES))
    one, keys = splits_of(tmp_path / "one"), {row["edit_key"][:12] + ".mp4": row for row in run.rows}
    by_content: dict[str, set[str]] = {}
    for target, split in one.items():
        clip = keys[target]["clip"]
        by_content.setdefault("clip0.mp4" if clip == "copy.mp4" else clip, set()).add(split)
    assert len(one) == 19 and len(by_content) == 6
    assert all(len(split) == 1 for split in by_content.values()) and set.union(*by_content.values()) == {
        "train",
        "validation",
    }
    for number in range(3):
        run.edit(f"a{number}.mp4", "a red square")
    run.rows.reverse()
    spec = ExportSpec(to="triplets", split="validation=0.5, train=0.5")
    export(run.collect(), str(tmp_path / "two"), spec)
    two = splits_of(tmp_path / "two")
    assert {target: two[target] for target in one} == one and len(two) == 22


def test_shares_are_kept_and_grow_from_one_side() -> None:
    """Of 4,000 clips a tenth goes to validation; with a larger share none leaves it."""
    contents = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(4_000)]
    tenth = {c for c in contents if split_of(c, shares_of("train=0.9,validation=0.1")) == "validation"}
    fifth = {c for c in contents if split_of(c, shares_of("train=0.8,validation=0.2")) == "validation"}
    assert 340 < len(tenth) < 460 and 700 < len(fifth) < 900 and tenth < fifth
    assert {split_of(c, shares_of("")) for c in contents} == {"train"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("train=0.9", "add up to 0.9"),
        ("train=0.5,train=0.5", "each name once"),
        ("../x=1", "names no split"),
        ("all=1", "names no split"),
        ("train=half,b=0.5", "has no share"),
        ("train=nan,b=0.5", "has no share"),
        ("train=2,b=-1", "has no share"),
    ],
)
def test_a_bad_split_is_refused(text: str, problem: str) -> None:
    """With what is wrong and what to write."""
    with pytest.raises(ValidationError, match=problem):
        ExportSpec(split=text)


# Which edits


def test_which_edits(tmp_path: Path) -> None:
    """kept: those of the dataset; passed: those not rejected; all: every one that has a video, never a stopped one."""
    run = Run(str(tmp_path / "root"), tmp_path / "made")
    run.edit("a.mp4", "kept", verdict="accepted", kept=True)
    run.edit("a.mp4", "surpassed", verdict="accepted", kept=False)
    run.edit("a.mp4", "rejected", verdict="rejected", kept=False)
    run.edit("a.mp4", "stopped", verdict="rejected", kept=False, state="stopped")
    root = run.collect()
    assert prompts(root, tmp_path / "kept") == ["kept"]
    assert prompts(root, tmp_path / "passed", which="passed") == ["kept", "surpassed"]
    assert prompts(root, tmp_path / "all", which="all") == ["kept", "rejected", "surpassed"]


def test_duplicates_are_dropped(tmp_path: Path) -> None:
    """Equal source, prompt and edit make a duplicate, of which the first row stays; a difference in one of them does
    not."""
    run = Run(str(tmp_path / "root"), tmp_path / "made")
    run.edit("a.mp4", "a red square", bytes_of="same")
    run.edit("a.mp4", "a red square", bytes_of="same", seed=1)
    run.edit("a.mp4", "a red square", bytes_of="other", seed=2)
    run.edit("a.mp4", "a crimson square", bytes_of="same")
    run.edit("b.mp4", "a red square", bytes_of="same")
    run.edit("copy.mp4", "a red square", content="a.mp4", bytes_of="same")
    root = run.collect()
    counts = export(root, str(tmp_path / "all"), ExportSpec())
    assert (counts["edits"], counts["duplicates"]) == (6, 0)
    counts = export(root, str(tmp_path / "some"), ExportSpec(to="parquet", dedupe=True))
    assert (counts["edits"], counts["duplicates"]) == (4, 2)
    rows = pq.read_table(
        tmp_path / "some/data/train-00000.parquet", columns=["clip", "target_prompt", "seed"]
    ).to_pylist()
    assert [(row["clip"], row["target_prompt"], row["seed"]) for row in rows] == [
        ("a.mp4", "a crimson square", 0),
        ("a.mp4", "a red square", 0),
        ("a.mp4", "a red square", 2),
        ("b.mp4", "a red square", 0),
    ]


# What is missing or damaged


def stored(run: Run, stage: Any, key: str, name: str) -> Path:
    commit = run.ledger.read(stage, key)
    return Path(run.root) / run.ledger.object_name(commit, name)


@pytest.mark.parametrize("to", FORMATS)
def test_a_missing_video_leaves_its_row_out(run: Run, tmp_path: Path, to: Any) -> None:
    """One is gone, one changed, one never committed: three sentences with clip and remedy, the other edits are
    exported and the count tells. Once the video is back, the same export has it."""
    gone = stored(run, "edits", run.rows[0]["edit_key"], "edit.mp4")
    data = gone.read_bytes()
    gone.unlink()
    stored(run, "edits", run.rows[3]["edit_key"], "edit.mp4").write_bytes(data[:-1])
    (Path(run.root) / "edits" / run.rows[5]["edit_key"][:2] / run.rows[5]["edit_key"] / "commit.json").unlink()
    counts = export(run.root, str(tmp_path / "export"), ExportSpec(to=to))
    assert (counts["edits"], counts["left_out"], counts["splits"]) == (5, 3, {"train": 5})
    first, *others = sorted(counts["sentences"])
    assert re.fullmatch(
        r"clip 'clip0.mp4': its edit \w{12}: the committed video is missing; the edit is left out; .*", first
    )
    assert any("clip1.mp4" in text and "bytes that were committed" in text for text in others)
    assert any("clip2.mp4" in text and "is not committed" in text for text in others)
    gone.write_bytes(data)
    again = export(run.root, str(tmp_path / "export"), ExportSpec(to=to))
    assert (again["edits"], again["left_out"]) == (6, 2)
    assert f"Left out, as their videos are gone | {again['left_out']} |" in (tmp_path / "export/README.md").read_text()


def test_a_missing_source_leaves_all_its_edits_out(run: Run, tmp_path: Path) -> None:
    """And where no edit is left of a shard there is no file of it."""
    stored(run, "sources", run.rows[0]["source_key"], "source.mp4").unlink()
    counts = export(run.root, str(tmp_path / "export"), ExportSpec())
    assert (counts["edits"], counts["left_out"], counts["shards"]) == (6, 2, 3)
    assert sorted(made(tmp_path / "export")) == [f"train-0000{number}.tar" for number in (1, 2, 3)]
    assert "its source" in counts["sentences"][0]


def test_a_video_that_is_too_large_is_not_read(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Videos are held in memory: one beyond the limit is left out."""
    monkeypatch.setattr("cogvideo_core.exports.export.LARGEST_BYTES", 100)
    counts = export(run.root, str(tmp_path / "export"), ExportSpec())
    assert (counts["edits"], counts["left_out"]) == (0, 8) and "more than 100" in counts["sentences"][0]


def test_an_empty_table_is_refused(tmp_path: Path) -> None:
    """With how many edits there are and what to do, and nothing is written; no table is another sentence."""
    run = Run(str(tmp_path / "root"), tmp_path / "made")
    root, place = run.collect(), tmp_path / "export"
    with pytest.raises(BadSpec, match="has 0 edits, of which none is to be exported; run the edits first"):
        export(root, str(place), ExportSpec())
    run.edit("a.mp4", "x", verdict="rejected", kept=False)
    with pytest.raises(BadSpec, match=r"has 1 edits.*--which passed or all"):
        export(run.collect(), str(place), ExportSpec())
    with pytest.raises(BadSpec, match="there is no table"):
        export(str(tmp_path / "nowhere"), str(place), ExportSpec())
    assert not place.exists()


# Where it goes


def test_a_place_with_other_files_is_refused(run: Run, tmp_path: Path) -> None:
    """Files that no export has made are never overwritten, even with --overwrite."""
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/train-00000.tar").write_bytes(b"mine")
    for overwrite in (False, True):
        with pytest.raises(
            BadSpec, match=r"holds files that no export has made, such as 'train-00000.tar'; give a new"
        ):
            export(run.root, str(tmp_path / "mine"), ExportSpec(overwrite=overwrite))
    assert tree(tmp_path / "mine") == {"train-00000.tar": b"mine"}
    with pytest.raises(BadSpec, match="is a file"):
        export(run.root, str(tmp_path / "mine/train-00000.tar"), ExportSpec())
    with pytest.raises(BadSpec, match="no export has made"):
        export(run.root, run.root, ExportSpec())


def test_another_export_is_replaced_only_when_told(run: Run, tmp_path: Path) -> None:
    """Another format, choice or root is refused; with overwrite its files go, and a stranger's stay."""
    place = tmp_path / "export"
    export(run.root, str(place), ExportSpec())
    other = exported_run.make(str(tmp_path / "other"), tmp_path / "made", clips=1)
    for root, spec in (
        (run.root, ExportSpec(to="parquet")),
        (run.root, ExportSpec(which="all")),
        (other.root, ExportSpec()),
    ):
        with pytest.raises(BadSpec, match=r"holds another export \(webdataset\).*--overwrite"):
            export(root, str(place), spec)
    (place / "notes.txt").write_text("mine")
    export(run.root, str(place), ExportSpec(to="finetrainers", split=HALVES, overwrite=True))
    names = set(tree(place))
    assert not [name for name in names if name.endswith(".tar")] and "notes.txt" in names
    export(run.root, str(place), ExportSpec(to="triplets", overwrite=True))
    alone = tmp_path / "alone"
    export(run.root, str(alone), ExportSpec(to="triplets"))
    assert set(tree(place)) == set(tree(alone)) | {"notes.txt"}


@pytest.mark.parametrize("dest", ["ssh://host/x", "a::b", "https://host/x", "hf://datasets/user/name", ""])
def test_a_place_that_may_not_be_used_is_refused(run: Run, dest: str) -> None:
    """One sentence, before anything is written."""
    with pytest.raises(EditError, match=r"not allowed|can't be written to|empty"):
        export(run.root, dest, ExportSpec())
    with pytest.raises(ForbiddenUri):
        export("ssh://host/x", "memory://nowhere", ExportSpec())


def test_each_name_is_known_as_ours(run: Run, tmp_path: Path) -> None:
    """What `overwrite` removes covers every name that an export gives, and few others."""
    for to in FORMATS:
        export(run.root, str(tmp_path / to), ExportSpec(to=to, split=HALVES))
        assert [name for name in tree(tmp_path / to) if not OURS.fullmatch(name)] == []
    for name in ("notes.txt", "data.json", "videos/holiday.mp4", "train/x.mp4", "data/x.parquet", "../README.md"):
        assert not OURS.fullmatch(name)


@pytest.mark.parametrize("kind", ["memory", pytest.param("s3", marks=pytest.mark.e2e)])
@pytest.mark.parametrize("to", FORMATS)
def test_an_object_store_gets_the_same_files(
    run: Run, tmp_path: Path, request: pytest.FixtureRequest, to: Any, kind: str
) -> None:
    """As a folder does; a second export keeps them, and a root in the store is read as well."""
    root = request.getfixturevalue("s3_root") if kind == "s3" else f"memory://{uuid.uuid4().hex}/root"
    there = exported_run.make(root, tmp_path / "made2")
    dest, local = f"{root[: -len('/root')]}/export", tmp_path / "local"
    export(run.root, str(local), ExportSpec(to=to))
    assert export(there.root, dest, ExportSpec(to=to))["shards"] == 4
    assert export(there.root, dest, ExportSpec(to=to))["shards_kept"] == 4
    fs, path = fsspec.core.url_to_fs(dest)
    found = {name.partition("/export/")[2]: fs.cat_file(name) for name in fs.find(path)}
    mine = tree(local)
    assert {n: d for n, d in found.items() if n != ".export/export.json"} == {
        n: d for n, d in mine.items() if n != ".export/export.json"
    }
    with pytest.raises(BadSpec, match="another export"):
        export(there.root, dest, ExportSpec(to=to, dedupe=True))
    fs.rm(path, recursive=True)


# What may be hostile


def test_a_hostile_table_leads_nowhere(run: Run, tmp_path: Path) -> None:
    """Videos come from committed units alone, whatever path a table names for them; a key or a file name that is none
    is refused or left out, and nothing is written outside."""
    secret = tmp_path / "secret.mp4"
    secret.write_bytes(b"secret")
    file = Path(run.root) / "tables/edits.parquet"
    table = pq.read_table(file)

    def put(**columns: Any) -> None:
        rows = [row | columns for row in table.to_pylist()]
        pq.write_table(table.from_pylist(rows, table.schema), file)

    put(edit_object=str(secret), source_object="../secret.mp4")
    assert export(run.root, str(tmp_path / "one"), ExportSpec(to="triplets"))["edits"] == 8
    assert not any(data == b"secret" for data in tree(tmp_path / "one").values())
    put(edit_key="../../secret")
    assert export(run.root, str(tmp_path / "two"), ExportSpec(to="triplets"))["left_out"] == 8
    put(file_name="videos/../../../secret.mp4")
    with pytest.raises(CorruptObject, match="as no run does; make the table anew"):
        export(run.root, str(tmp_path / "three"), ExportSpec(to="triplets"))
    assert secret.read_bytes() == b"secret"


def test_an_odd_instruction_is_no_instruction(tmp_path: Path) -> None:
    """Own columns that are no text, empty or broken give way to the target prompt; line breaks stay in JSON and become
    spaces in prompts.txt."""
    run = Run(str(tmp_path / "root"), tmp_path / "made")
    for number, own in enumerate(['{"instruction": 3}', '{"instruction": " "}', "{broken", "[1]", ""]):
        run.edit(f"clip{number}.mp4", "a\nred\u2028square", own=own)
    root = run.collect()
    assert prompts(root, tmp_path / "triplets") == ["a\nred\u2028square"] * 5
    export(root, str(tmp_path / "finetrainers"), ExportSpec(to="finetrainers"))
    assert (tmp_path / "finetrainers/train/prompts.txt").read_text("utf-8").splitlines() == ["a red square"] * 5


def test_the_steps_are_told(run: Run, tmp_path: Path) -> None:
    """A progress bar hears of as many steps as it was promised, whether edits are written, kept, dropped or missing."""
    run.edit("clip0.mp4", "a red square", seed=7, bytes_of=run.rows[0]["edit_key"])
    run.collect()
    os.unlink(stored(run, "edits", run.rows[4]["edit_key"], "edit.mp4"))
    heard: list[int] = []
    for times in (1, 2):
        export(run.root, str(tmp_path / "e"), ExportSpec(dedupe=True), lambda: heard.append(1), heard.append)
        assert heard == [9, *[1] * 9] * times


def test_an_interrupted_replacement_goes_on(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Stopped while an earlier export's files go, the folder is still ours, and the same call replaces it."""
    place = tmp_path / "place"
    export(run.root, str(place), ExportSpec(to="triplets"))

    def stopping(objects: Any, name: str) -> None:
        os.unlink(place / name)
        raise StorageError("stopped")

    with monkeypatch.context() as patch, pytest.raises(StorageError, match="stopped"):
        patch.setattr("cogvideo_core.storage.local.LocalObjects.remove", stopping)
        export(run.root, str(place), ExportSpec(overwrite=True))
    with pytest.raises(BadSpec, match="holds another export"):
        export(run.root, str(place), ExportSpec())
    export(run.root, str(place), ExportSpec(overwrite=True))
    assert not list(place.glob("triplets-*"))


def test_a_source_is_read_once_for_all_edits_of_a_clip(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many threads read: each video of the ledger once."""
    asked: list[str] = []

    def counting(objects: Any, video: Any) -> Any:
        asked.append(video.object)
        return rows_read(objects, video)

    rows_read = exporting.read_video
    monkeypatch.setattr(exporting, "read_video", counting)
    counts = export(run.root, str(tmp_path / "place"), ExportSpec())
    assert len(asked) == len(set(asked)) == counts["edits"] + len({row["source_key"] for row in run.rows})


def test_a_users_column_may_have_any_name(tmp_path: Path) -> None:
    """Also that of a key which rows use while they are collected."""
    run = Run(str(tmp_path / "run"), tmp_path / "made")
    run.edit("a.mp4", "a red square", own=json.dumps({"own columns": "mine"}))
    run.collect()
    (row,) = [json.loads(line) for line in (tmp_path / "run/dataset/metadata.jsonl").read_text().splitlines()]
    assert row["own_own columns"] == "mine"
