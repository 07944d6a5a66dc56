"""Video in time: windows, resampling to the model's rate, seeking, and the audio of a window."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cogvideo_core import errors
from cogvideo_core.media import tools, video

LIMITS = video.Limits(max_seconds=600, max_pixels=3840 * 2160, max_bytes=10**9, timeout_s=60)
H264 = ("-pix_fmt", "yuv420p", "-c:v", "libx264", "-g", "50", "-threads", "1")
FIRST = video.Window(0, 0.0, 9)


def ff(*arguments: object) -> None:
    command = [tools.ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


def raw(frames: np.ndarray, folder: Path, rate: object = 8) -> list[object]:
    """Input options that feed these frames to ffmpeg."""
    (folder / "raw").write_bytes(frames.tobytes())
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", rate, "-i", folder / "raw"]


def load(path: Path, window: video.Window = FIRST, size: tuple[int, int] = (48, 48), fit: str = "crop") -> np.ndarray:
    found = video.probe(path, path.name, LIMITS)
    return video.decode(path, path.name, found, window, video.View(*size, 8, fit), LIMITS)  # type: ignore[arg-type]


def numbered(count: int) -> np.ndarray:
    """Frames that carry their own number, as eight black or white columns."""
    bits = (np.arange(count)[:, None] >> np.arange(8)) & 1
    columns = np.repeat(bits * 255, 16, axis=1).astype(np.uint8)
    return np.broadcast_to(columns[:, None, :, None], (count, 64, 128, 3)).copy()


def numbers(frames: np.ndarray) -> list[int]:
    centres = frames[:, 32, 8::16, 1] > 128
    return [int(bits @ (1 << np.arange(8))) for bits in centres]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five seconds of numbered frames at 25 fps with a beep from 2.0 to 2.2 s, index at the front."""
    folder = tmp_path_factory.mktemp("clip")
    beep = "aevalsrc='if(between(t,2,2.2),0.8*sin(2*PI*1000*t),0)':s=48000:d=5"
    path = folder / "clip.mp4"
    tags = ("-metadata", "title=<script>")
    ff(*raw(numbered(125), folder, 25), "-f", "lavfi", "-i", beep, *H264, "-movflags", "+faststart", *tags, path)
    return path


@pytest.mark.parametrize("rate", ["25", "30000/1001", "8", "5"])
@pytest.mark.parametrize(("container", "codec"), [("mp4", "libx264"), ("mkv", "libx264"), ("avi", "mpeg4")])
def test_resampling_takes_the_nearest_frame(tmp_path: Path, rate: str, container: str, codec: str) -> None:
    """At any source rate, and after a seek, each output frame is the source frame nearest in time."""
    path, start = tmp_path / f"clip.{container}", 1.13
    ff(*raw(numbered(80), tmp_path, rate), "-pix_fmt", "yuv420p", "-c:v", codec, "-q:v", "2", "-g", "30", path)
    for begin in (0.0, start):
        got = numbers(load(path, video.Window(0, begin, 9), (64, 128)))
        distances = [abs(n - (begin + k / 8) * Fraction(rate)) for k, n in enumerate(got)]
        assert max(distances) <= 0.55  # half a frame, and what Matroska's milliseconds round away


def test_windows_cover_the_clip(clip: Path) -> None:
    """Consecutive windows show exactly what one long window shows; first and middle are where they say."""
    found = video.probe(clip, clip.name, LIMITS)
    every = video.windows(found, clip.name, 9, 8, "all")
    assert [w.index for w in every] == [0, 1, 2, 3] and [w.start_s for w in every] == [0, 1.125, 2.25, 3.375]
    long = load(clip, video.Window(0, 0.0, 36), (64, 128))
    assert np.array_equal(long, np.concatenate([load(clip, w, (64, 128)) for w in every]))
    assert video.windows(found, clip.name, 9, 8, "first") == every[:1]
    (middle,) = video.windows(found, clip.name, 9, 8, "middle")
    assert middle.start_s == pytest.approx(2.5 - 0.5625)


@given(
    frames=st.integers(1, 81),
    fps=st.integers(1, 60),
    source_fps=st.fractions(1, 120, max_denominator=1001),
    seconds=st.floats(0.01, 600),
)
@settings(max_examples=200, deadline=None)
def test_windows_stay_inside(frames: int, fps: int, source_fps: Fraction, seconds: float) -> None:
    """Every window lies inside the clip, but for half a source frame; too short clips are refused."""
    found = video.Probe(64, 64, Fraction(1), source_fps, 1, seconds, False, 0)
    end = seconds + float(1 / source_fps) / 2 + 1e-5
    for which in ("first", "middle", "all"):
        try:
            got = video.windows(found, "a.mp4", frames, fps, which)  # type: ignore[arg-type]
        except errors.ClipTooShort:
            assert frames / fps > seconds
        else:
            assert got and all(w.start_s >= 0 and w.start_s + frames / fps <= end for w in got)


def test_windows_lie_in_the_part_that_is_given(clip: Path) -> None:
    """Windows of a part show what lies there, by the frames' own numbers; the part may end with the clip."""
    found = video.probe(clip, clip.name, LIMITS)

    def starts(which: str, *part: float) -> list[float]:
        return [w.start_s for w in video.windows(found, clip.name, 9, 8, which, video.Part(*part))]  # type: ignore[arg-type]

    assert starts("all", 1.0, 4.0) == [1.0, 2.125] and starts("first", 1.0) == [1.0]
    assert starts("middle", 1.0, 4.0) == [1 + (3 - 1.125) / 2] and starts("all", 3.8) == [3.8]
    assert starts("all") == starts("all", 0.0, 5.09) == [0.0, 1.125, 2.25, 3.375]  # a little beyond is the end
    (window,) = video.windows(found, clip.name, 9, 8, "first", video.Part(2.0, 3.2))
    got = numbers(load(clip, window, (64, 128)))
    assert all(abs(number - (2 + k / 8) * 25) <= 0.55 for k, number in enumerate(got))
    for part, told in (
        ((5.0,), "start 5 s is beyond"),
        ((0.0, 5.1), "end 5.1 s is beyond"),
        ((1.0, 2.0), "widen start"),
    ):
        with pytest.raises(errors.ClipError, match=told):
            starts("first", *part)


def test_too_short(tmp_path: Path) -> None:
    """Nine frames at 8 fps are enough for nine, eight are not, and half a source frame may be missing."""
    for count in (8, 9):
        video.encode(np.zeros((count, 64, 64, 3), np.uint8), tmp_path / f"{count}.mp4", 8)
    found = video.probe(tmp_path / "8.mp4", "8", LIMITS)
    with pytest.raises(errors.ClipTooShort, match=r"dataset\.frames"):
        video.windows(found, "8.mp4", 9, 8, "first")
    assert video.windows(replace(found, seconds=1.07), "8.mp4", 9, 8, "all") == [FIRST]
    assert video.windows(video.probe(tmp_path / "9.mp4", "9", LIMITS), "9", 9, 8, "middle") == [FIRST]


def test_frozen_picture_in_the_middle(tmp_path: Path) -> None:
    """Of a clip with variable frame rate, a window inside a long still frame shows that frame."""
    path = tmp_path / "vfr.mp4"
    freeze = "setpts='if(lt(N,10),N/25,0.4+(N-10)*3)/TB'"
    ff(*raw(numbered(13), tmp_path, 25), "-vf", freeze, "-fps_mode", "vfr", *H264, path)
    assert set(numbers(load(path, video.Window(0, 1.5, 9), (64, 128)))) <= {10, 11}
    assert numbers(load(path, video.Window(0, 4.0, 9), (64, 128)))[0] == 11


def test_live_recordings_are_measured(clip: Path, tmp_path: Path) -> None:
    """A Matroska file that does not say how long it is, as browsers record it, is measured by its packets."""
    ff("-i", clip, "-an", "-c", "copy", "-live", 1, tmp_path / "live.mkv")
    found = video.probe(tmp_path / "live.mkv", "live", LIMITS)
    assert found.frames == 125 and found.seconds == pytest.approx(5, abs=0.01) and found.fps == 25


def test_video_that_starts_after_its_audio(clip: Path, tmp_path: Path) -> None:
    """Windows count from the video's first frame, wherever the container starts."""
    late = tmp_path / "late.mkv"
    ff("-itsoffset", 0.5, "-i", clip, "-i", clip, "-map", "0:v", "-map", "1:a", "-c", "copy", late)
    assert video.probe(late, "late", LIMITS).start_s == pytest.approx(0.5, abs=0.03)
    assert numbers(load(late, size=(64, 128))) == numbers(load(clip, size=(64, 128)))


def beep_and_length(path: Path) -> tuple[float, float]:
    """Where the first loud sample is, and how long the sound is, in seconds."""
    options = ["-f", "f32le", "-ac", "1", "-ar", "48000", "-af", "aresample=async=1:first_pts=0", "-"]
    command = [tools.ffmpeg_exe(), "-v", "error", "-i", str(path), *options]
    sound = np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.float32)
    return float(np.flatnonzero(np.abs(sound) > 0.2)[0] / 48000), len(sound) / 48000


@pytest.mark.parametrize(("container", "codec", "kept"), [("mp4", "aac", "aac"), ("mov", "pcm_s16le", "aac")])
def test_audio_of_the_window(clip: Path, tmp_path: Path, container: str, codec: str, kept: str) -> None:
    """The window's audio is in step with its frames, as long as they are, copied or re-encoded, without its tags."""
    source, out = tmp_path / f"clip.{container}", tmp_path / "out.mp4"
    ff("-i", clip, "-c:v", "copy", "-c:a", codec, source)
    found, window = video.probe(source, "a", LIMITS), video.Window(1, 1.5, 9)
    frames = np.zeros((9, 48, 48, 3), np.uint8)
    video.encode(frames, out, 8, audio_from=(source, found, window))
    written = out.read_bytes()
    beep, seconds = beep_and_length(out)
    assert abs(beep - 0.5) < 0.03 and abs(seconds - 1.125) < 0.05
    result = video.probe(out, "out", LIMITS)
    assert result.audio_codec == kept and result.frames == 9 and result.seconds == 1.125
    assert b"script" not in written and len(written) < 60_000
    video.encode(frames, out, 8, audio_from=(source, found, window))
    assert out.read_bytes() == written


def test_audio_that_cannot_be_used(clip: Path, tmp_path: Path) -> None:
    """No audio in the clip is no error; audio that vanished is one that names the clip and the remedy."""
    frames, found = np.zeros((9, 48, 48, 3), np.uint8), video.probe(clip, "a", LIMITS)
    video.encode(frames, tmp_path / "silent.mp4", 8, audio_from=(clip, replace(found, has_audio=False), FIRST))
    assert not video.probe(tmp_path / "silent.mp4", "s", LIMITS).has_audio
    with pytest.raises(errors.ClipError, match=r"gone\.mp4.*output\.audio"):
        video.encode(frames, tmp_path / "x.mp4", 8, audio_from=(tmp_path / "gone.mp4", found, FIRST))
    assert sorted(os.listdir(tmp_path)) == ["silent.mp4"]
