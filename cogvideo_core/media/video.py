"""Video files to frames and back, through ffmpeg: windows, decoding, encoding, posters.

Frames are uint8 [F,H,W,3], full-range RGB, at a stated rate. Files are read as hostile (`tools`) and written
bit-exactly: the same frames give the same bytes.
"""

from __future__ import annotations

import io
import os
import uuid
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple

import ffmpeg
import numpy as np
from PIL import Image

from cogvideo_core.errors import BadSpec, ClipError, ClipTooShort, NotAVideo, StorageError, TruncatedClip
from cogvideo_core.media.colour import EXACT, scaled
from cogvideo_core.media.described import Probe
from cogvideo_core.media.fields import deinterlaced, treated
from cogvideo_core.media.picture import input_options, shown
from cogvideo_core.media.probe import probe
from cogvideo_core.media.timeline import Picks, picks
from cogvideo_core.media.tools import Limits, check_file, ffmpeg_exe, file_url, reason, run, run_fed, source_options

__all__ = ["Limits", "Probe", "View", "Window", "decode", "encode", "poster", "probe", "treated", "windows"]

Fit = Literal["crop", "pad", "stretch"]
Which = Literal["first", "middle", "all", "whole"]
AUDIO_FOR_MP4 = ("aac", "mp3", "ac3", "eac3", "opus")  # flac's packets of 0.1 s would be cut too roughly
ENCODE_TIMEOUT_S = 900.0
POSTER_PX = 320
GROUP = 40
SLACK_S = 0.1  # that a part's end may lie beyond the video's: containers round, and sound may be longer


@dataclass(frozen=True)
class Window:
    """Part of a clip: `frames` frames at the model's rate, from start_s seconds after the video's first frame."""

    index: int
    start_s: float
    frames: int


class Part(NamedTuple):
    """The part of a clip that windows are placed in, in seconds after the video's first frame; end_s 0: to its end."""

    start_s: float = 0.0
    end_s: float = 0.0

    def within(self, probe: Probe, clip: str) -> Part:
        """The part with the end that it has in this clip. Raises ClipError where the clip ends before."""
        for name, time, end in (("start", self.start_s, probe.seconds), ("end", self.end_s, probe.seconds + SLACK_S)):
            if time and time >= end:
                problem = f"its {name} {time:g} s is beyond the clip's end at {probe.seconds:.3f} s"
                raise ClipError(clip, problem, f"correct {name}, or remove the row")
        return Part(self.start_s, min(self.end_s or probe.seconds, probe.seconds))


def windows(probe: Probe, clip: str, frames: int, fps: int, which: Which, part: Part | None = None) -> list[Window]:
    """The windows of `frames` frames at `fps` in a part of the clip, or in all of it; "all" gives consecutive ones
    without overlap or remainder, "whole" the first.

    Raises ClipTooShort, and ClipError for a part outside of the clip. Half a source frame may be missing, because
    containers round.
    """
    begin, end = (part or Part()).within(probe, clip)
    need = Fraction(frames, fps)
    have = Fraction(end) - Fraction(begin) + 1 / (2 * probe.fps)
    if have < need:
        needed = f"the {float(need):.3f} s that {frames} frames at {fps} fps need"
        if part and any(part):
            problem = f"from start {begin:g} s to end {end:g} s there are fewer than {needed}"
            raise ClipTooShort(clip, problem, "widen start and end or lower dataset.frames")
        raise ClipTooShort(clip, f"{end:.3f} s are fewer than {needed}", "use a longer clip or lower dataset.frames")
    if which == "all":
        return [Window(i, round(begin + float(i * need), 6), frames) for i in range(int(have / need))]
    start = max(0.0, (end - begin - float(need)) / 2) if which == "middle" else 0.0
    return [Window(0, round(begin + start, 6), frames)]


class View(NamedTuple):
    """How a window is shown: pixels, frames a second, what is done where the clip has another shape, and how it is
    scaled."""

    height: int
    width: int
    fps: int
    fit: Fit = "crop"
    scaler: str = EXACT


def decode(path: Path, clip: str, probe: Probe, window: Window, view: View, limits: Limits) -> np.ndarray:
    """The window's frames as the model sees them: uint8 [window.frames,height,width,3], full-range RGB.

    Each is the source frame nearest in time. Clean aperture, rotation and non-square pixels are honoured; YCbCr becomes
    RGB by the clip's own matrix and range (untagged: BT.709 from 720 lines up, else BT.601; limited). `probe.picture`
    says whether it is deinterlaced, HDR becomes SDR, and alpha goes over black; otherwise primaries and transfer stay.
    Raises TruncatedClip, NotAVideo, ClipTimeout and what check_file raises.
    """
    return decode_counted(path, clip, probe, window, view, limits)[0]


def decode_counted(
    path: Path, clip: str, probe: Probe, window: Window, view: View, limits: Limits
) -> tuple[np.ndarray, Picks]:
    """What `decode` gives, and which of the file's frames it has taken."""
    check_file(path, clip, limits)
    taken = picks(path, clip, probe, window.start_s, window.frames, view.fps, limits)
    graph = _decode_graph(path, probe, taken, view, limits)
    ran = run(ffmpeg.compile(graph, cmd=_ffmpeg()), clip, limits.timeout_s)
    got = len(ran.output) // (view.height * view.width * 3)
    if not got and ran.status:
        raise NotAVideo(clip, f"it can't be decoded ({reason(ran.stderr, path)})", "re-encode it as H.264")
    if got != len(taken.times):
        problem = f"only {got} of {len(taken.times)} frames could be read again from {window.start_s:g} s on"
        raise TruncatedClip(clip, problem, "copy or download it again, or remove it")
    frames = np.frombuffer(ran.output, np.uint8).reshape(got, view.height, view.width, 3)
    return frames[taken.places], taken


def encode(
    frames: np.ndarray, path: Path, fps: int, crf: int = 12, audio_from: tuple[Path, Probe, Window] | None = None
) -> None:
    """Write frames (uint8 [F,H,W,3], full-range RGB, H and W even) as an H.264 mp4 that browsers play.

    yuv420p, BT.709, limited range: the tags are written and the pixels are converted by that matrix. Bit-exact and on
    one thread; crf 0 counts as 1, because browsers refuse lossless H.264. `audio_from` adds that window's audio,
    copied when the muxer takes it, else as AAC.
    The file appears whole or not at all. Raises BadSpec, ClipError (its audio can't be used), StorageError.
    """
    _check_frames(frames)
    audio = audio_from if audio_from is not None and audio_from[1].has_audio else None
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        for copy in (True, False):  # the muxer says what mp4 can't hold, such as MP3 below 16 kHz
            graph = _encode_graph(frames.shape, part, fps, crf, audio, copy)
            pixels = (frame.tobytes() for frame in frames)
            ran = run_fed(ffmpeg.compile(graph, cmd=_ffmpeg()), pixels, path.name, ENCODE_TIMEOUT_S)
            if not ran.status or audio is None:
                break
        if ran.status:
            raise _encode_error(path, audio, reason(ran.stderr, part))
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def poster(frames: np.ndarray, path: Path | None = None) -> bytes:
    """The middle frame as a PNG of at most 320 pixels a side; written to `path` too, when there is one."""
    image = Image.fromarray(frames[len(frames) // 2])
    image.thumbnail((POSTER_PX, POSTER_PX))
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    if path is not None:
        path.write_bytes(buffer.getvalue())
    return buffer.getvalue()


def _ffmpeg() -> list[str]:
    return [ffmpeg_exe(), "-nostdin", "-hide_banner", "-v", "error", "-y"]


def _decode_graph(path: Path, probe: Probe, taken: Picks, view: View, limits: Limits) -> Any:
    """Selects the chosen frames by their times. ffmpeg rebuilds its filters where a stream changes its size, pixel
    format or range, so no filter after the selection may keep state."""
    # one thread: several have been seen to show a frame twice where a stream changes its size
    options = source_options(limits.max_pixels) | {"threads": 1} | input_options(probe) | taken.options
    source = ffmpeg.input(file_url(path), copyts=None, **options)
    video = deinterlaced(source[str(probe.stream)], probe.picture).filter("settb", "AVTB")
    video = video.filter("trim", end=f"{(taken.times[-1] + 1) / 1e6:.6f}").filter("select", _any_of(taken.times))
    video = _resize(shown(video, probe), probe, view)
    return ffmpeg.output(video, "pipe:1", format="rawvideo", pix_fmt="rgb24", fps_mode="passthrough")


def _from_origin(probe: Probe, window: Window) -> float:
    """Seconds from the container's start to the window's: what ffmpeg's `-ss` counts."""
    return max(0.0, probe.start_s - probe.origin_s + window.start_s)


def _any_of(times: list[int]) -> str:
    """A condition of ffmpeg's select, in groups: its expressions may not be nested a hundred deep, as a long sum is."""
    terms = [f"eq(pts,{time})" for time in times]
    groups = ("+".join(terms[start : start + GROUP]) for start in range(0, len(terms), GROUP))
    return "+".join(f"({group})" for group in groups)


def _resize(video: Any, probe: Probe, view: View) -> Any:
    """Cut, scale and convert to RGB in one pass of the scaler; bars of `pad` are black.

    Frames whose size differs from the probe's (streams may change their size, or rotate by themselves) are handled by
    expressions of their own size.
    """
    height, width, _, fit, flags = view
    if fit == "stretch":
        return scaled(video, probe, width, height, flags=flags)
    if fit == "crop":
        sides = (f"min(iw,ih*{width}/{height}/sar)", f"min(ih,iw*sar*{height}/{width})")
        own = [f"min({whole},max(2,2*round({side}/2)))" for whole, side in zip(("iw", "ih"), sides, strict=True)]
        video = video.filter("crop", *_of(probe, crop_size(probe, height, width), own))
        return scaled(video, probe, width, height, flags=flags)
    own = [f"max(1,min({width},round({height}*iw*sar/ih)))", f"max(1,min({height},round({width}*ih/iw/sar)))"]
    wide, high = _of(probe, pad_size(probe, height, width), own)
    video = scaled(video, probe, wide, high, flags)
    return video.filter("pad", width, height, "(ow-iw)/2", "(oh-ih)/2", "black")


def _of(probe: Probe, known: tuple[int, int], own: list[str]) -> list[str]:
    """Expressions: `known` for frames of the probe's size, `own` for all others."""
    width, height, _ = probe.shown
    return [f"if(eq(iw,{width})*eq(ih,{height}),{one},{other})" for one, other in zip(known, own, strict=True)]


def crop_size(probe: Probe, height: int, width: int) -> tuple[int, int]:
    """(width, height) of the largest centred part, in stored pixels after rotation, of the shape width : height."""
    shown_w, shown_h, aspect = probe.shown
    wanted = Fraction(width, height) / aspect
    crop_w, crop_h = min(Fraction(shown_w), shown_h * wanted), min(Fraction(shown_h), shown_w / wanted)
    return _even(crop_w, shown_w), _even(crop_h, shown_h)


def pad_size(probe: Probe, height: int, width: int) -> tuple[int, int]:
    """(width, height) in model pixels of the whole picture inside a frame of width x height."""
    shown_w, shown_h, aspect = probe.shown
    shape = shown_w * aspect / shown_h
    return max(1, min(width, round(height * shape))), max(1, min(height, round(width / shape)))


def _even(value: Fraction, whole: int) -> int:
    """The nearest even number from 2 up, so that chroma stays in place; all of `whole` when nothing is cut."""
    return whole if value == whole else min(whole, max(2, 2 * round(value / 2)))


def _check_frames(frames: np.ndarray) -> None:
    if frames.dtype != np.uint8 or frames.ndim != 4 or frames.shape[-1] != 3 or not len(frames):
        raise BadSpec(f"frames must be uint8 [F,H,W,3] with F >= 1, not {frames.dtype} {list(frames.shape)}")
    height, width = frames.shape[1:3]
    if height % 2 or width % 2:
        problem = f"height and width must be even for H.264 (yuv420p), not {height}x{width}"
        raise BadSpec(f"{problem}; set dataset.height and dataset.width to even numbers")


def _encode_graph(
    shape: tuple[int, ...],
    part: Path,
    fps: int,
    crf: int,
    audio: tuple[Path, Probe, Window] | None,
    copy: bool,
) -> Any:
    count, height, width, _ = shape
    source = ffmpeg.input("pipe:0", format="rawvideo", pix_fmt="rgb24", s=f"{width}x{height}", framerate=fps)
    video = source.filter("scale", flags=EXACT, in_range="full", out_color_matrix="bt709", out_range="limited")
    video = video.filter("format", "yuv420p")
    tags = {"range": "limited", "colorspace": "bt709", "color_primaries": "bt709", "color_trc": "bt709"}
    streams, options = [video.filter("setparams", **tags)], _video_options(crf)
    if audio is not None:
        seconds = count / fps
        streams.append(_audio_stream(audio, seconds))
        options |= _audio_options(audio[1], seconds, copy)
    return ffmpeg.output(*streams, file_url(part), **options)


def _video_options(crf: int) -> dict[str, object]:
    bitexact = {"fflags": "+bitexact", "flags:v": "+bitexact", "threads": 1, "x264-params": "cpu-independent=1"}
    return bitexact | {
        "format": "mp4",
        "c:v": "libx264",
        "crf": max(1, crf),
        "movflags": "+faststart",
        "map_metadata": -1,
    }


def _audio_stream(audio: tuple[Path, Probe, Window], seconds: float) -> Any:
    path, probe, window = audio
    options = source_options(probe.stored_pixels) | {"t": f"{seconds:.6f}"}
    if begin := _from_origin(probe, window):
        options["ss"] = f"{begin:.6f}"
    return ffmpeg.input(file_url(path), **options)[str(probe.audio_stream)]


def _audio_options(probe: Probe, seconds: float, copy: bool) -> dict[str, object]:
    codec = "copy" if copy and probe.audio_codec in AUDIO_FOR_MP4 else "aac"
    return {"c:a": codec, "flags:a": "+bitexact", "t": f"{seconds:.6f}", "map_chapters": -1, "copypriorss:a": 0}


def _encode_error(path: Path, audio: tuple[Path, Probe, Window] | None, why: str) -> Exception:
    if audio is None:
        return StorageError(f"video {path.name!r}: ffmpeg could not write it ({why}); check the disk and ffmpeg")
    return ClipError(audio[0].name, f"its audio can't be written as mp4 ({why})", "set output.audio to none")
