"""Sources of several files: patterns, folders of shards, saved data sets, and the hub."""

from __future__ import annotations

import io
import json
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.dirfs import DirFileSystem

from cogvideo_core.errors import BadManifest
from cogvideo_core.inputs import clip_files, sources
from cogvideo_core.inputs.shards import matched, shards_in
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.storage import uris

VIDEO = pa.struct({"bytes": pa.binary(), "path": pa.string()})


def read(source: Path | str, **more: Any) -> list[dict[str, Any]]:
    return [dict(record) for record in sources.read_clips(DatasetSpec(source=str(source), **more))]


def fetched(record: dict[str, Any], folder: Path) -> bytes:
    return clip_files.fetch(record, folder, 10**6).read_bytes()


def shard(path: Path, *names: str) -> Path:
    """A Parquet file of videos in cells, each the bytes of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    cells = pa.array([{"path": name, "bytes": name.encode()} for name in names], VIDEO)
    pq.write_table(pa.table({"video": cells, "target_prompts": [["x"]] * len(names)}), path)
    return path


def tar(path: Path, *names: str) -> Path:
    with tarfile.open(path, "w") as file:
        for name in names:
            info = tarfile.TarInfo(name)
            info.size = len(name)
            file.addfile(info, io.BytesIO(name.encode()))
    return path


def test_patterns_name_several_files(tmp_path: Path) -> None:
    """Counted, with as many digits, and by wildcards; in order; each file's rows are relative to its own folder."""
    for number in range(9, 12):
        tar(tmp_path / f"s-{number:06d}.tar", f"{number}.mp4")
    (tmp_path / "p.list").write_text("blue\n")
    for pattern in ("s-{000009..000011}.tar", "s-*.tar", "s-0000{09..11}.tar", "**/s-??????.tar"):
        records = read(f"{tmp_path}/{pattern}", prompts=f"{tmp_path}/p.list")
        assert [fetched(r, tmp_path / "x") for r in records] == [b"9.mp4", b"10.mp4", b"11.mp4"], pattern
    for name in "ab":
        (tmp_path / name).mkdir()
        (tmp_path / name / "clip.mp4").write_text(name)
        (tmp_path / name / "m.jsonl").write_text('{"clip": "clip.mp4", "target_prompts": ["x"]}\n')
    assert [Path(r["uri"]).parent.name for r in read(f"{tmp_path}/*/m.jsonl")] == ["a", "b"]


def test_a_name_that_looks_like_a_pattern_is_a_name(tmp_path: Path) -> None:
    """A file or folder that is there is taken as it is."""
    shard(tmp_path / "m[1]{0..3}*.parquet", "a.mp4")
    assert len(read(tmp_path / "m[1]{0..3}*.parquet")) == 1
    assert matched("https://host/m.csv?sig=*[]") == []
    assert matched("https://host/m-{1..2}.csv?sig=*[]") == [
        "https://host/m-1.csv?sig=*[]",
        "https://host/m-2.csv?sig=*[]",
    ]


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("s-{3..1}.tar", "stands for 0 files"),
        ("s-{0..9999999999}.tar", "stands for 10000000000 files; count upwards, to 100000"),
        ("no-*.tar", "does not exist; check the path or pattern"),
        ("*.mp4", "which is no manifest; match files with rows"),
        ("s-{0..1}.tar", "does not exist"),
    ],
)
def test_patterns_that_match_nothing_useful(tmp_path: Path, pattern: str, words: str) -> None:
    """One sentence with the remedy."""
    (tmp_path / "a.mp4").touch()
    with pytest.raises(BadManifest) as caught:
        read(f"{tmp_path}/{pattern}")
    assert words in str(caught.value) and pattern.partition("{")[0].partition("*")[0] in str(caught.value)


def test_folders_of_shards(tmp_path: Path) -> None:
    """Parquet in `data/`, as on the hub, and tars in the folder; a prompts file adds target prompts. Videos beside
    them, or a prompts file in the folder that names clips, win as before."""
    hub = tmp_path / "hub"
    shard(hub / "data" / "train-00001-of-00002.parquet", "b.mp4")
    shard(hub / "data" / "train-00000-of-00002.parquet", "a.mp4")
    assert [fetched(r, tmp_path / "x") for r in read(hub)] == [b"a.mp4", b"b.mp4"]
    assert [r["clip"] for r in read(f"{hub}/data/train-*1-of*.parquet")] == ["b.mp4"]
    (hub / "prompts.txt").write_text("blue\n")
    assert [r["target_prompts"] for r in read(hub)] == [["x", "blue"]] * 2
    tars = tmp_path / "tars"
    tars.mkdir()
    tar(tars / "s.tar", "c.mp4")
    assert [r["clip"] for r in read(tars, prompts=f"{hub}/prompts.txt")] == ["s.tar/c.mp4"]
    (tars / "d.mp4").touch()
    assert [r["clip"] for r in read(tars, prompts=f"{hub}/prompts.txt")] == ["d.mp4"]
    assert shards_in(str(tmp_path)) == [] and shards_in(str(tmp_path / "gone")) == []
    (hub / "manifest.jsonl").write_text("x")
    with pytest.raises(BadManifest, match="keep one of them"):
        read(hub)


def test_what_datasets_saves_to_disk(tmp_path: Path) -> None:
    """Written by the library itself: one split and several, videos in cells."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"video": datasets.Video(decode=False), "caption": datasets.Value("string")})
    cells = [{"path": f"{n}.mp4", "bytes": bytes([n]) * 9} for n in range(5)]
    rows = {"video": cells, "caption": [f"clip {n}" for n in range(5)]}
    one = datasets.Dataset.from_dict(rows, features=features)
    one.save_to_disk(tmp_path / "one", num_shards=2)
    datasets.DatasetDict({"train": one.select([0, 3]), "test": one.select([4])}).save_to_disk(tmp_path / "both")
    one.to_parquet(tmp_path / "p" / "data" / "train-00000-of-00001.parquet")
    (tmp_path / "p.list").write_text("blue\n")
    for name, numbers in (("one", range(5)), ("both", (0, 3, 4)), ("p", range(5))):
        records = read(tmp_path / name, prompts=f"{tmp_path}/p.list")
        assert [r["source_prompt"] for r in records] == [f"clip {n}" for n in numbers], name
        assert [fetched(r, tmp_path / "x") for r in records] == [bytes([n]) * 9 for n in numbers], name


@pytest.mark.parametrize("name", ["../secret.arrow", "/etc/secret.arrow", "x.txt", 5, ""])
def test_a_saved_data_set_names_its_own_files_alone(tmp_path: Path, name: object) -> None:
    """A state.json from anyone may not lead elsewhere; nor may a link."""
    folder = tmp_path / "saved"
    folder.mkdir()
    (folder / "dataset_info.json").write_text("{}")
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name}]}))
    with pytest.raises(BadManifest, match=r"names no Arrow files beside it; save it again"):
        read(folder, prompts=prompts(tmp_path))
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "a.arrow"}]}))
    (folder / "a.arrow").symlink_to("/etc/passwd")
    with pytest.raises(BadManifest, match="outside the source folder"):
        read(folder, prompts=prompts(tmp_path))


def prompts(folder: Path) -> str:
    (folder / "p.list").write_text("blue\n")
    return str(folder / "p.list")


@pytest.mark.parametrize("text", ["", "[]", '{"_data_files": 3}', "[" * 99_999])
def test_a_state_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    """One sentence that names the file."""
    (tmp_path / "dataset_info.json").write_text("{}")
    (tmp_path / "state.json").write_text(text)
    (tmp_path / "sub").mkdir()
    with pytest.raises(BadManifest, match=r"state\.json' has no list '_data_files'"):
        read(tmp_path, prompts=prompts(tmp_path / "sub"))


class Hub(DirFileSystem):
    """Stands in for the hub's file system: paths as it has them, from a local folder. Nothing is fetched."""

    protocol = "hf"

    def info(self, path: str, **more: Any) -> Any:
        found = super().info(path, **more)
        return {"name": path, "size": found["size"], "type": found["type"], "blob_id": f"blob-{found['size']}"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """`hf://` leads to this folder."""
    store = Hub(str(tmp_path / "hub"), fsspec.filesystem("file"))
    monkeypatch.setattr(uris, "url_to_fs", lambda uri: (store, uri.removeprefix("hf://")))
    yield tmp_path / "hub" / "datasets" / "owner" / "name"


def test_a_data_set_of_the_hub(tmp_path: Path, hub: Path) -> None:
    """By id, by a pattern, by a file, and as a folder of videos; with a stand-in for the hub, for tests are offline."""
    shard(hub / "data" / "train-0.parquet", "a.mp4")
    shard(hub / "data" / "test-0.parquet", "b.mp4")
    for source, names in {
        "hf://datasets/owner/name": ["b.mp4", "a.mp4"],
        "hf://datasets/owner/name/data/train-*.parquet": ["a.mp4"],
        "hf://datasets/owner/name/data/test-0.parquet": ["b.mp4"],
    }.items():
        records = read(source, prompts=prompts(tmp_path))
        assert [r["clip"] for r in records] == names
        assert [fetched(r, tmp_path / "x") for r in records] == [name.encode() for name in names]
        assert all(r["uri"].startswith("cell+hf://datasets/owner/name/data/") for r in records)
        assert all(r["stamp"].startswith("blob-") for r in records)
    tar(hub / "s.tar", "c.mp4")
    (hub / "videos").mkdir()
    (hub / "videos" / "d.mp4").write_bytes(b"d")
    (hub / "videos" / "metadata.csv").write_text("file_name,caption\nd.mp4,a dog\n")
    (record,) = read("hf://datasets/owner/name/videos/metadata.csv", prompts=prompts(tmp_path))
    assert (record["source_prompt"], fetched(record, tmp_path / "x")) == ("a dog", b"d")
    assert [r["clip"] for r in read("hf://datasets/owner/name/s.tar", prompts=prompts(tmp_path))] == ["s.tar/c.mp4"]


def test_a_hub_that_does_not_answer(tmp_path: Path) -> None:
    """Offline, the library's own file system gives one sentence."""
    with pytest.raises(BadManifest, match=r"hf://datasets/owner/gone.*check address and access"):
        read("hf://datasets/owner/gone", prompts=prompts(tmp_path))
