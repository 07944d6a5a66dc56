"""Each format is read back by the library that its users read it with, and holds the very bytes that were committed."""

from __future__ import annotations

import gc
import hashlib
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import exported_run
import numpy as np
import pyarrow.parquet as pq
import pytest
import webdataset
from datasets import Features, List, Value, Video, load_dataset

from cogvideo_core.exports.export import export
from cogvideo_core.exports.spec import ExportSpec
from cogvideo_core.media import video
from cogvideo_core.settings.specs import DatasetSpec

Sums = dict[str, tuple[str, str]]
SPLIT = "train=0.5,validation=0.5"
PROMPTS = {"a red square", "a blue square", "make it blue"}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> exported_run.Run:
    """Four clips with two edits each, as mp4 that decodes; the first clip's second edit has an instruction."""
    folder = tmp_path_factory.mktemp("run")
    return exported_run.make(str(folder / "root"), folder / "made", real=True)


@pytest.fixture(scope="module")
def exported(run: exported_run.Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """An export of the run in each format, in two splits."""
    folder = tmp_path_factory.mktemp("exports")
    for name in ("webdataset", "parquet", "finetrainers", "triplets"):
        export(run.root, str(folder / name), ExportSpec(to=name, split=SPLIT))
    return {path.name: path for path in folder.iterdir()}


def sha256(data: bytes | Path) -> str:
    return hashlib.sha256(data if isinstance(data, bytes) else data.read_bytes()).hexdigest()


def samples(*urls: Path) -> list[dict[str, Any]]:
    """What the library `webdataset` reads from these shards."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)  # it leaves its files open
        found = list(webdataset.WebDataset([str(url) for url in urls], shardshuffle=False))
        gc.collect()
    return found


def columns(run: exported_run.Run) -> dict[str, Any]:
    return {row["edit_key"]: row for row in run.rows}


def test_webdataset_reads_the_shards(run: exported_run.Run, exported: dict[str, Path]) -> None:
    """The library gives edit, source and columns of each edit once; the JSON's sums are those of the bytes."""
    urls = sorted(exported["webdataset"].glob("*.tar"))
    assert {url.name for url in urls} == {"train-00000.tar", "validation-00000.tar"}
    found: Sums = {}
    for sample in samples(*urls):
        row = json.loads(sample["json"])
        found[row["edit_key"]] = sha256(sample["edit.mp4"]), sha256(sample["source.mp4"])
        assert (row["edit_sha256"], row["source_sha256"]) == found[row["edit_key"]]
        assert row["licence"] == "cc0" and row["score_ssim"] == 0.5 and row["instruction"] in PROMPTS
        assert not {"own", "edit_object", "source_object", "file_name"} & row.keys()
    assert found == run.sums()


def test_webdataset_is_read_by_datasets_too(exported: dict[str, Path], tmp_path: Path) -> None:
    """Both videos are columns of videos; the JSON is a column of its fields."""
    loaded = load_dataset(str(exported["webdataset"]), split="train", cache_dir=str(tmp_path))
    assert loaded.features["edit.mp4"] == Video() == loaded.features["source.mp4"]
    assert set(loaded.cast_column("edit.mp4", Video(decode=False))["json"][0]) >= {"instruction", "edit_key"}


def test_parquet_is_read_by_datasets(run: exported_run.Run, exported: dict[str, Path], tmp_path: Path) -> None:
    """By the card, each split has its edits, with two columns of videos whose bytes are those committed; other columns
    have the types of the run's table."""
    loaded = load_dataset(str(exported["parquet"]), cache_dir=str(tmp_path))
    assert set(loaded) == {"train", "validation"}
    found: Sums = {}
    for part in loaded.values():
        assert part.features["video"] == Video() == part.features["source"]
        assert part.features["seed"] == Value("int64") and part.features["licence"] == Value("string")
        raw = part.cast_column("video", Video(decode=False)).cast_column("source", Video(decode=False))
        for row in raw:
            found[row["edit_key"]] = sha256(row["video"]["bytes"]), sha256(row["source"]["bytes"])
    assert found == run.sums()


def test_parquet_frames_decode(exported: dict[str, Path], tmp_path: Path) -> None:
    """The bytes of a cell are a whole video: nine frames that this project's own decoder takes."""
    row = pq.read_table(exported["parquet"] / "data/train-00000.parquet").to_pylist()[0]
    path = tmp_path / row["video"]["path"]
    path.write_bytes(row["video"]["bytes"])
    limits = video.Limits.of(DatasetSpec())
    found = video.probe(path, path.name, limits)
    view = video.View(exported_run.SIDE, exported_run.SIDE, exported_run.FPS, "crop")
    frames = video.decode(path, path.name, found, video.Window(0, 0.0, exported_run.FRAMES), view, limits)
    assert frames.shape == (exported_run.FRAMES, exported_run.SIDE, exported_run.SIDE, 3) and np.ptp(frames) > 50


def test_the_video_columns_are_those_that_datasets_writes(exported: dict[str, Path]) -> None:
    """Type and metadata of the schema are what `datasets` itself gives to columns of videos."""
    schema = pq.read_schema(exported["parquet"] / "data/train-00000.parquet")
    own = Features({"video": Video(), "source": Video()}).arrow_schema
    assert [schema.field(name) for name in ("video", "source")] == list(own)
    assert json.loads(schema.metadata[b"huggingface"]) == json.loads(own.metadata[b"huggingface"])
    assert Features.from_arrow_schema(schema)["rank"] == Value("int32") and List  # the rest comes from the types


def two_file_format(folder: Path) -> Iterator[tuple[str, Path]]:
    """A dataset of finetrainers' "two file format": captions and paths, a line each, in the same order."""
    captions = (folder / "prompts.txt").read_text("utf-8").splitlines()
    videos = (folder / "videos.txt").read_text("utf-8").splitlines()
    assert len(captions) == len(videos)
    yield from zip(captions, (folder / path for path in videos), strict=True)


def test_finetrainers_layout(run: exported_run.Run, exported: dict[str, Path], tmp_path: Path) -> None:
    """prompts.txt and videos.txt name each edit with its target prompt. As finetrainers' control training loads the
    folder, each row has a video, a control_video, a caption, and nothing that can't be collated."""
    prompts, found = columns(run), Sums()
    for split in ("train", "validation"):
        folder = exported["finetrainers"] / split
        listed = {sha256(path): caption for caption, path in two_file_format(folder)}
        loaded = load_dataset("videofolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / split))
        assert loaded.features == Features({"video": Video(), "control_video": Video(), "caption": Value("string")})
        for name in ("video", "control_video"):
            loaded = loaded.cast_column(name, Video(decode=False))
        assert len(loaded) == len(listed) > 0
        for row in loaded:
            pair = sha256(Path(row["video"]["path"])), sha256(Path(row["control_video"]["path"]))
            (key,) = (key for key, sums in run.sums().items() if sums == pair)
            found[key] = pair
            assert listed[pair[0]] == prompts[key]["target_prompt"]
            assert row["caption"] == (json.loads(prompts[key]["own"]).get("instruction") or listed[pair[0]])
    assert found == run.sums()


def test_finetrainers_configurations(exported: dict[str, Path]) -> None:
    """training.json names the folder and its sizes; the validation file's sources are there, with sizes, captions."""
    folder = exported["finetrainers"]
    (config,) = json.loads((folder / "training.json").read_text())["datasets"]
    assert (folder / config["data_root"] / "metadata.jsonl").is_file()
    assert config["video_resolution_buckets"] == [[exported_run.FRAMES, exported_run.SIDE, exported_run.SIDE]]
    rows = json.loads((folder / "validation-validation.json").read_text())["data"]
    assert len(rows) == len((folder / "validation/videos.txt").read_text().splitlines()) > 0
    for row in rows:
        assert (folder / row["control_video_path"]).is_file() and row["caption"] in PROMPTS
        assert (row["num_frames"], row["height"], row["width"], row["frame_rate"]) == (9, 16, 16, 8)


def test_triplets(run: exported_run.Run, exported: dict[str, Path]) -> None:
    """Each line is source, instruction, target; the user's own instruction stands where there is one, else the target
    prompt. A source that two edits share is there once."""
    folder, found = exported["triplets"], set()
    for path in sorted(folder.glob("triplets-*.jsonl")):
        for line in path.read_text("utf-8").splitlines():
            triplet = json.loads(line)
            assert list(triplet) == ["source", "instruction", "target"]
            found.add((sha256(folder / triplet["target"]), sha256(folder / triplet["source"]), triplet["instruction"]))
    told = columns(run)
    wanted = {
        (*sums, json.loads(told[key]["own"]).get("instruction") or told[key]["target_prompt"])
        for key, sums in run.sums().items()
    }
    assert found == wanted and sum(instruction == "make it blue" for *_, instruction in found) == 1
    assert len(list((folder / "videos").iterdir())) == 4 + 8


def test_all_formats_agree_on_the_splits(exported: dict[str, Path], tmp_path: Path) -> None:
    """The same edits are in `train`, whatever the format."""
    targets = {
        sha256(exported["triplets"] / json.loads(line)["target"])
        for line in (exported["triplets"] / "triplets-train.jsonl").read_text().splitlines()
    }
    tar = samples(exported["webdataset"] / "train-00000.tar")
    table = pq.read_table(exported["parquet"] / "data/train-00000.parquet", columns=["edit_sha256"])
    assert targets == {sha256(sample["edit.mp4"]) for sample in tar}
    assert targets == set(table["edit_sha256"].to_pylist())
    assert targets == {sha256(path) for _, path in two_file_format(exported["finetrainers"] / "train")}


def test_sums_and_card_come_along(exported: dict[str, Path]) -> None:
    """sha256sums.txt, in the form of sha256sum, names every file but itself and the record, each with its sum; the card
    tells the counts of the splits and is read as a card by `datasets` above."""
    for folder in exported.values():
        told = dict(line.split("  ")[::-1] for line in (folder / "sha256sums.txt").read_text().splitlines())
        files = {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
        assert set(told) == {name for name in files if not name.startswith(".export/")} - {"sha256sums.txt"}
        assert all(sha256(folder / name) == sum_ for name, sum_ in told.items())
        card = (folder / "README.md").read_text("utf-8")
        assert "| train | 4 edits of 2 clips |" in card and "| validation | 4 edits of 2 clips |" in card
