"""Folders of numbered pictures as clips."""

from __future__ import annotations

import io
import json
import os
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from cogvideo_core import errors
from cogvideo_core.inputs import clip_files, frame_folders, sources
from cogvideo_core.media import video
from cogvideo_core.settings.specs import DatasetSpec

LIMITS = video.Limits(max_seconds=600, max_pixels=3840 * 2160, max_bytes=10**9, timeout_s=60)
HEIGHT, WIDTH = 36, 64


def pixels(number: int) -> np.ndarray:
    """uint8 [36,64,3]: noise, of which every value matters."""
    return np.random.default_rng(number).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def frames(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(names):
        Image.fromarray(pixels(number)).save(folder / name)
    return folder


def read(source: Path | str, **more: Any) -> list[dict[str, Any]]:
    return [dict(record) for record in sources.read_clips(DatasetSpec(source=str(source), **more))]


def manifest(folder: Path, **row: Any) -> Path:
    path = folder / "m.jsonl"
    path.write_text(json.dumps({"clip": "bear", "target_prompts": ["x"]} | row) + "\n")
    return path


def wrapped(record: dict[str, Any], folder: Path, limits: video.Limits = LIMITS) -> tuple[Path, str]:
    return clip_files.fetched(record, folder, limits)


def decoded(path: Path, fps: int, count: int, start: float = 0.0) -> np.ndarray:
    found = video.probe(path, "bear", LIMITS)
    return video.decode(path, "bear", found, video.Window(0, start, count), video.View(HEIGHT, WIDTH, fps), LIMITS)


def test_frames_come_back_bit_for_bit(tmp_path: Path) -> None:
    """In the order of their numbers, whatever their digits and gaps; rate and length are those of the folder."""
    frames(tmp_path / "bear", "2.png", "10.PNG", "0011.png", "100.png", "00101.png", "102.png")
    (record,) = read(manifest(tmp_path, fps=8))
    path, content = wrapped(record, tmp_path / "x")
    found = video.probe(path, "bear", LIMITS)
    assert (found.fps, found.frames, found.seconds) == (8, 6, 0.75) and len(content) == 64
    assert (decoded(path, 8, 6) == np.stack([pixels(n) for n in range(6)])).all()


@pytest.mark.parametrize("fps", ["24", "30000/1001", "60", "12.5"])
def test_frames_are_resampled_as_a_video_of_their_rate(tmp_path: Path, fps: str) -> None:
    """Each output frame is the nearest in time; of two that are equally near, the later."""
    count = 40
    frames(tmp_path / "bear", *(f"{n:05d}.png" for n in range(count)))
    (record,) = read(manifest(tmp_path, fps=fps))
    got = decoded(wrapped(record, tmp_path / "x")[0], 8, 4)
    rate = Fraction(fps)
    for k, frame in enumerate(got):
        best = max(range(count), key=lambda n: (-abs(n / rate - Fraction(k, 8)), n))
        assert (frame == pixels(best)).all(), (k, best)


def test_jpeg_frames_are_upright(tmp_path: Path) -> None:
    """A camera's orientation tag is followed; gaps and a common prefix are fine."""
    (tmp_path / "bear").mkdir()
    picture = Image.new("RGB", (WIDTH, HEIGHT), "red")
    picture.paste("blue", (0, 0, WIDTH // 2, HEIGHT))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise: what is left is shown on top
    for number in (1, 2, 7):
        picture.save(tmp_path / "bear" / f"frame_{number}.jpg", exif=exif, quality=95)
    (record,) = read(manifest(tmp_path))
    path, _ = wrapped(record, tmp_path / "x")
    found = video.probe(path, "bear", LIMITS)
    assert (found.width, found.height, found.fps) == (HEIGHT, WIDTH, 24)
    shown = video.decode(path, "bear", found, video.Window(0, 0, 1), video.View(WIDTH, HEIGHT, 24), LIMITS)[0]
    assert shown[5, 18].argmax() == 2 and shown[-5, 18].argmax() == 0


def test_subfolders_of_a_source_are_clips(tmp_path: Path) -> None:
    """A folder that holds nothing but numbered pictures is one; others are entered. Hidden files don't count."""
    source = tmp_path / "source"
    frames(source / "480p" / "bear", "00000.png", "00001.png", ".DS_Store.png")
    frames(source / "480p" / "cow", "1.jpg", "2.jpg")
    frames(source / "mixed", "1.png", "2.png", "cover.png")
    frames(source / "lone", "1.png")
    frames(source / "two", "a1.png", "b1.png")
    (source / "z.mp4").touch()
    (source / "prompts.txt").write_text("blue\n")
    records = read(source)
    assert [r["clip"] for r in records] == ["480p/bear", "480p/cow", "z.mp4"]
    assert records[0]["name"] == "bear" and records[0]["uri"].endswith("480p/bear#fps=24")
    assert records[0]["size"] == sum(f.stat().st_size for f in (source / "480p" / "bear").glob("0*"))
    assert read(source, frames_fps=12.5)[1]["uri"].endswith("cow#fps=25%2F2")


def test_identity_follows_pictures_and_rate(tmp_path: Path) -> None:
    """source_id: of names, sizes, stamps and fps. Content: of pictures and fps alone, so that a copy of the folder,
    with other names, is the same work."""
    folder = frames(tmp_path / "bear", "1.png", "2.png")
    ids, contents = [], []
    for fps in (8, 8, 12):
        (record,) = read(manifest(tmp_path, fps=fps))
        ids.append(record["source_id"])
        contents.append(wrapped(record, tmp_path / "x")[1])
    frames(tmp_path / "cow", "005.png", "006.png")
    (record,) = read(manifest(tmp_path, clip="cow", fps=8.0))
    contents.append(wrapped(record, tmp_path / "x")[1])
    os.utime(folder / "1.png", ns=(1, 1))
    ids.append(read(manifest(tmp_path, fps=8))[0]["source_id"])
    assert ids[0] == ids[1] and len(set(ids)) == 3
    assert contents[0] == contents[1] == contents[3] != contents[2]


def test_fps_stays_an_own_column(tmp_path: Path) -> None:
    """Manifests of videos have had a column of that name: it travels with the edits, and is nobody's rate."""
    (tmp_path / "a.mp4").touch()
    (record,) = read(manifest(tmp_path, clip="a.mp4", fps="unknown"))
    assert json.loads(record["own"][0]) == {"fps": "unknown"} and "error" not in record


@pytest.mark.parametrize("fps", ["abc", 0, -3, 1001, "1/0", [24], "1e9999", True])
def test_rates_that_are_none(tmp_path: Path, fps: object) -> None:
    """The sentence names clip, field and remedy."""
    frames(tmp_path / "bear", "1.png", "2.png")
    (record,) = read(manifest(tmp_path, fps=fps))
    assert "clip 'bear': its fps" in record["message"] and "such as 24 or 30000/1001" in record["message"]


def folder_with(tmp_path: Path, make: Any) -> dict[str, Any]:
    folder = frames(tmp_path / "bear", "1.png", "2.png")
    make(folder)
    (record,) = read(manifest(tmp_path))
    return record


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda f: (f / "notes.txt").touch(), "'notes.txt' in it is no numbered JPEG or PNG file"),
        (lambda f: (f / "3.png").symlink_to("/etc/passwd"), "'3.png' in it is no numbered"),
        (lambda f: os.mkfifo(f / "3.png"), "'3.png' in it is no numbered"),
        (lambda f: (f / "4.png").mkdir(), "'4.png' in it is no numbered"),
        (lambda f: (f / "02.jpg").touch(), "'02.jpg' and '2.png' have one number"),
    ],
)
def test_folders_that_are_no_clip(tmp_path: Path, make: Any, words: str) -> None:
    """Other files, links, pipes, folders, one number twice: one sentence before anything is opened."""
    record = folder_with(tmp_path, make)
    assert record["error"] == "NotAVideo" and words in record["message"] and "clip 'bear'" in record["message"]


def bytes_of(image: Image.Image, kind: str = "PNG") -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (bytes_of(Image.new("RGB", (10, 10))), errors.NotAVideo, "differ in size (64x36, and picture 3 10x10)"),
        (b"", errors.NotAnImage, "frame '3.png': it can't be decoded"),
        (bytes_of(Image.fromarray(pixels(0)))[:-40], errors.NotAnImage, "frame '3.png': it can't be decoded"),
        (bytes_of(Image.new("I;16", (WIDTH, HEIGHT))), errors.NotAnImage, "it is of mode I;16"),
        (bytes_of(Image.new("RGB", (WIDTH, HEIGHT)), "GIF"), errors.NotAnImage, "frame '3.png': it can't be decoded"),
        (bytes_of(Image.new("1", (9000, 9000))), errors.ClipTooLarge, "frame '3.png': it has 9000x9000 pixels"),
    ],
)
def test_frames_that_cannot_be_used(tmp_path: Path, data: bytes, error: Any, words: str) -> None:
    """Another size, no picture, a cut one, 16 bits, another kind, a bomb: the sentence names clip and frame."""
    record = folder_with(tmp_path, lambda folder: (folder / "3.png").write_bytes(data))
    with pytest.raises(error) as caught:
        wrapped(record, tmp_path / "x")
    assert words in str(caught.value) and "clip 'bear'" in str(caught.value) and ";" in str(caught.value)


def test_limits(tmp_path: Path) -> None:
    """Bytes and seconds are refused before a picture is decoded, and a folder that grows too large on the way."""
    record = folder_with(tmp_path, lambda folder: None)
    for limits, words in (
        (video.Limits(600, 10**8, 5000, 60), "MB, more than max_megabytes"),
        (video.Limits(0.05, 10**8, 10**9, 60), "2 frames at 24 a second are more than max_seconds"),
    ):
        with pytest.raises(errors.ClipTooLarge, match=words):
            wrapped(record, tmp_path / "x", limits)


def test_frames_that_have_changed_are_not_read(tmp_path: Path) -> None:
    """Neither other frames nor another folder behind the path are taken for those that were listed."""
    record = folder_with(tmp_path, lambda folder: None)
    frames(tmp_path / "bear", "3.png")
    with pytest.raises(errors.StorageError, match="have changed since they were listed; run again"):
        wrapped(record, tmp_path / "x")
    (tmp_path / "bear").rename(tmp_path / "moved")
    (tmp_path / "bear").symlink_to(tmp_path / "moved")
    with pytest.raises(errors.ForbiddenUri):
        wrapped(record, tmp_path / "x")


def test_a_folder_outside_is_refused(tmp_path: Path) -> None:
    """As a file would be."""
    frames(tmp_path / "out", "1.png", "2.png")
    (tmp_path / "in").mkdir()
    (record,) = read(manifest(tmp_path / "in", clip="../out"))
    assert record["error"] == "ForbiddenUri"


def test_is_frames() -> None:
    """Two or more numbered pictures of one name, and nothing else."""
    assert frame_folders.is_frames(["0.jpg", "1.jpeg", "x.2.png"][:2])
    assert frame_folders.is_frames(["img-000.PNG", "img-0001.png"])
    assert not frame_folders.is_frames(["0.jpg", "a1.jpg"]) and not frame_folders.is_frames(["0.jpg"])
    assert not frame_folders.is_frames(["0.jpg", "1.txt"]) and not frame_folders.is_frames(["a.jpg", "b.jpg"])
