"""Video files that are refused: hostile, broken, too large; one typed error each, naming the clip and the remedy."""

from __future__ import annotations

import os
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from cogvideo_core import errors
from cogvideo_core.media import boxes, probe, tools, video
from cogvideo_core.settings.specs import DatasetSpec

LIMITS = video.Limits(max_seconds=600, max_pixels=3840 * 2160, max_bytes=10**9, timeout_s=60)
FIRST = video.Window(0, 0.0, 9)


def ff(*arguments: object) -> None:
    command = [tools.ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Five good seconds of picture and sound, index at the front."""
    path = tmp_path_factory.mktemp("clip") / "clip.mp4"
    picture, sound = ("-f", "lavfi", "-i", "testsrc=s=128x64:r=25:d=5"), ("-f", "lavfi", "-i", "sine=d=5")
    ff(*picture, *sound, "-pix_fmt", "yuv420p", "-c:v", "libx264", "-movflags", "+faststart", path)
    return path


def refuse(path: Path, error: type[errors.ClipError], limits: video.Limits = LIMITS) -> str:
    """The sentence that probing this file gives, after checking its class and manner."""
    with pytest.raises(error) as caught:
        video.probe(path, "the clip.mp4", limits)
    sentence = str(caught.value)
    assert type(caught.value) is error and "'the clip.mp4'" in sentence and caught.value.remedy
    assert sentence.isprintable() and str(path.parent) not in sentence and len(sentence) < 400
    return sentence


def test_files_that_are_no_videos(clip: Path, tmp_path: Path) -> None:
    """Text, an HLS playlist and an ffconcat list that point at a good neighbour, a folder, a pipe: NotAVideo."""
    (tmp_path / "good.mp4").write_bytes(clip.read_bytes())
    texts = {
        "text": "just words \x1b[31m\n" * 20,
        "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:5,\ngood.mp4\n#EXT-X-ENDLIST\n",
        "concat": "ffconcat version 1.0\nfile good.mp4\n",
        "xml": "<MPD><Period><BaseURL>good.mp4</BaseURL></Period></MPD>",
    }
    for name, text in texts.items():
        for ending in ("mp4", "ts", "gif"):
            (tmp_path / f"{name}.{ending}").write_text(text)
            said = refuse(tmp_path / f"{name}.{ending}", errors.NotAVideo)
            assert "use an mp4, mov, mkv, webm, avi, gif or ts file" in said
    refuse(tmp_path, errors.NotAVideo)
    os.mkfifo(tmp_path / "pipe.mp4")
    refuse(tmp_path / "pipe.mp4", errors.NotAVideo)


def test_playlists_are_not_followed_when_decoding(clip: Path, tmp_path: Path) -> None:
    """A file that became a list after it was probed is refused by the decoder as well."""
    found = video.probe(clip, "a", LIMITS)
    (tmp_path / "good.mp4").write_bytes(clip.read_bytes())
    (tmp_path / "list.mp4").write_text("ffconcat version 1.0\nfile good.mp4\n")
    with pytest.raises(errors.NotAVideo, match="whitelist"):
        video.decode(tmp_path / "list.mp4", "list", found, FIRST, video.View(48, 48, 8), LIMITS)


def test_missing_empty_and_audio_only(clip: Path, tmp_path: Path) -> None:
    """No file, no bytes, no video (cover art is none): one class each."""
    refuse(tmp_path / "gone.mp4", errors.MissingClip)
    refuse(tmp_path / "a\0b.mp4", errors.MissingClip)
    (tmp_path / "empty.mp4").touch()
    refuse(tmp_path / "empty.mp4", errors.EmptyClip)
    ff("-i", clip, "-vn", "-c:a", "copy", tmp_path / "sound.mp4")
    refuse(tmp_path / "sound.mp4", errors.NoVideoStream)
    (tmp_path / "cover.png").write_bytes(video.poster(np.zeros((1, 64, 64, 3), np.uint8)))
    cover = ("-map", 0, "-map", 1, "-c", "copy", "-disposition:v:0", "attached_pic")
    ff("-i", tmp_path / "sound.mp4", "-i", tmp_path / "cover.png", *cover, tmp_path / "cover.mp4")
    refuse(tmp_path / "cover.mp4", errors.NoVideoStream)


def test_truncated_files(clip: Path, tmp_path: Path) -> None:
    """mp4 with its index in front or at the end, mkv and avi, cut anywhere: TruncatedClip, never less."""
    files = [clip] + [tmp_path / name for name in ("late.mp4", "clip.mkv", "clip.avi")]
    for path in files[1:]:
        ff("-i", clip, "-c", "copy", path)
    for path in files:
        whole = path.read_bytes()
        assert not boxes.truncation(path)
        cut = tmp_path / f"cut{path.suffix}"
        for share in (0.02, 0.3, 0.5, 0.9, 0.999):
            cut.write_bytes(whole[: int(len(whole) * share)])
            refuse(cut, errors.TruncatedClip)


def test_fewer_frames_than_promised(clip: Path) -> None:
    """A window past the end of what is really there is TruncatedClip and says how many frames came."""
    found = replace(video.probe(clip, "a", LIMITS), seconds=60.0)
    with pytest.raises(errors.TruncatedClip, match=r"only [34] of 9 frames .* 4.6 s"):
        video.decode(clip, "a", found, video.Window(0, 4.6, 9), video.View(48, 48, 8), LIMITS)


def test_too_large(clip: Path, tmp_path: Path) -> None:
    """Bytes, pixels and seconds over the limits: ClipTooLarge, and the remedy names the field."""
    assert "dataset.max_megabytes" in refuse(clip, errors.ClipTooLarge, replace(LIMITS, max_bytes=1000))
    assert "dataset.max_pixels" in refuse(clip, errors.ClipTooLarge, replace(LIMITS, max_pixels=64 * 64))
    assert "dataset.max_seconds" in refuse(clip, errors.ClipTooLarge, replace(LIMITS, max_seconds=4))
    huge = tmp_path / "huge.mp4"
    ff("-f", "lavfi", "-i", "color=red:s=8192x8192:r=8:d=0.125", "-c:v", "libx264", "-preset", "ultrafast", huge)
    assert "dataset.max_pixels" in refuse(huge, errors.ClipTooLarge)


def test_timeout_kills_the_tool(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A tool that hangs is killed and waited for; the error names the field."""
    pid, slow = tmp_path / "pid", tmp_path / "slow"
    slow.write_text(f"#!/bin/sh\necho $$ > {pid}\nexec sleep 50\n")
    slow.chmod(0o755)
    found = video.probe(clip, "a", LIMITS)
    monkeypatch.setenv("COGVIDEO_FFPROBE", str(slow))
    monkeypatch.setenv("COGVIDEO_FFMPEG", str(slow))
    hurry, began = replace(LIMITS, timeout_s=0.5), time.monotonic()
    assert "dataset.timeout_s" in refuse(clip, errors.ClipTimeout, hurry)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    with pytest.raises(errors.ClipTimeout):
        video.decode(clip, "a", found, FIRST, video.View(48, 48, 8), hurry)
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid.read_text()), 0)
    assert time.monotonic() - began < 20


def test_binaries_come_from_the_environment(clip: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """COGVIDEO_FFMPEG and COGVIDEO_FFPROBE win; one that can't start is named."""
    assert Path(tools.ffprobe_exe()).is_file() and Path(tools.ffmpeg_exe()).is_file()
    monkeypatch.setenv("COGVIDEO_FFPROBE", "/nonexistent/ffprobe")
    with pytest.raises(errors.BadSpec, match=r"/nonexistent/ffprobe.*COGVIDEO_FFPROBE"):
        video.probe(clip, "a", LIMITS)


def test_limits_of_the_dataset() -> None:
    """Limits are the dataset's fields, in bytes and seconds."""
    limits = video.Limits.of(DatasetSpec(max_seconds=9, max_pixels=4096, max_megabytes=2, timeout_s=3))
    assert limits == video.Limits(9, 4096, 2_000_000, 3)


def test_hostile_words_are_cleaned() -> None:
    """What a tool says becomes one short printable line without paths, addresses, colours or direction marks."""
    said = "\n[mov,mp4 @ 0x55d0] \x1b[31mbad\u202e thing\x00\t in file:/secret/a.mp4: <b>" + "x" * 1000 + "\nlater\n"
    line = tools.reason("file:/secret/a.mp4: " + said, Path("/secret/a.mp4"))
    assert line.startswith("[31mbad thing in <b>xxx")
    assert line.isprintable() and len(line) <= 160 and "secret" not in line and "0x55d0" not in line
    assert tools.reason("", Path("a")) == "no reason given"


@given(head=st.sampled_from([b"", b"\0\0\0\x10ftyp", b"RIFF", b"\x1a\x45\xdf\xa3"]), rest=st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_can_be_looked_at(tmp_path_factory: pytest.TempPathFactory, head: bytes, rest: bytes) -> None:
    """The outermost boxes of any bytes are read without an error."""
    path = tmp_path_factory.getbasetemp() / "any.mp4"
    path.write_bytes(head + rest)
    assert boxes.truncation(path).isprintable()


@given(st.text("0123456789.:/-+einfaN", max_size=20))
@example("1e308:1e308:1e308")
@example("9" * 400)
def test_numbers_from_the_prober(text: str) -> None:
    """Anything a prober prints becomes a finite number; a ratio is never negative."""
    assert probe.ratio(text) >= 0 and np.isfinite(probe.number(text)) and np.isfinite(probe.clock(text))
