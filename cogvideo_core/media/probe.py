"""What a video file says about itself, checked against the limits before a single frame is decoded."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

from cogvideo_core.errors import ClipTooLarge, NotAVideo, NoVideoStream, TruncatedClip
from cogvideo_core.media.boxes import truncation
from cogvideo_core.media.described import RGB, Json, Probe
from cogvideo_core.media.frames import first_frame
from cogvideo_core.media.picture import ENTRIES as PICTURE_ENTRIES
from cogvideo_core.media.picture import picture_of
from cogvideo_core.media.tools import Limits, check_file, ffprobe_exe, file_url, reason, run, source_options

ENTRIES = (
    "format=duration,start_time,format_name:stream=index,codec_type,codec_name,width,height,pix_fmt,sample_aspect_ratio,"
    "avg_frame_rate,r_frame_rate,duration,start_time,nb_frames,color_space,color_range,"
    f"{PICTURE_ENTRIES[0]}:stream_disposition=attached_pic,timed_thumbnails,default:stream_tags=DURATION:"
    f"{PICTURE_ENTRIES[1]}"
)
MATRICES = {
    "bt709": "bt709",
    "smpte170m": "bt601",
    "bt470bg": "bt601",
    "fcc": "fcc",
    "smpte240m": "smpte240m",
    "bt2020nc": "bt2020",
}
MAX_FPS = 1000
MAX_SECONDS = 1e9  # what a file may claim before it is refused
USE_A_VIDEO = "use an mp4, mov, mkv, webm, avi, gif or ts file, or remove the clip"


def probe(path: Path, clip: str, limits: Limits) -> Probe:
    """Read the file's headers; `clip` is its name in error sentences.

    Raises MissingClip, EmptyClip, NotAVideo, NoVideoStream, TruncatedClip, ClipTooLarge, ClipTimeout.
    """
    check_file(path, clip, limits)
    if problem := truncation(path):
        raise TruncatedClip(clip, problem, "copy or download it again, or remove it")
    _refuse_program_stream(path, clip)
    report = _report(path, clip, limits)
    streams = report.get("streams", [])
    audio = _chosen([s for s in streams if s.get("codec_type") == "audio" and "codec_name" in s]) or {}
    found = _parse(_video_stream(streams, clip), report.get("format", {}), audio, path, clip, limits)
    _check_size(found.stored_pixels, f"{found.width}x{found.height}", clip, limits)
    _check_seconds(found.seconds, clip, limits)
    return _with_clock(found, path, clip, limits, str(report.get("format", {}).get("format_name", "")))


def _refuse_program_stream(path: Path, clip: str) -> None:
    with path.open("rb") as file:
        if file.read(4) == b"\x00\x00\x01\xba":
            problem = "it is an MPEG program stream (mpg, vob), where many frames have no time and the end is unknown"
            raise NotAVideo(clip, problem, "re-encode it as H.264")


def _with_clock(found: Probe, path: Path, clip: str, limits: Limits, container: str) -> Probe:
    """Adds the first frame's true time. In avi the first packet is the first frame, however late a decoder with
    B-frames gives it."""
    first = first_frame(path, clip, found.stream, limits)
    if first is None:
        return replace(found, clock_us=round(found.start_s * 1e6))
    return replace(found, clock_us=first, start_s=found.start_s if container == "avi" else first / 1e6)


def _ffprobe(path: Path, limits: Limits, entries: str, *more: str) -> list[str]:
    options = [text for key, value in source_options(limits.max_pixels).items() for text in (f"-{key}", str(value))]
    return [ffprobe_exe(), "-v", "error", *options, "-show_entries", entries, *more, "-i", file_url(path)]


def _report(path: Path, clip: str, limits: Limits) -> Json:
    ran = run(_ffprobe(path, limits, ENTRIES, "-of", "json"), clip, limits.timeout_s)
    if "exceeds specified max pixel count" in ran.stderr:  # ffprobe then gives no size at all
        _check_size(limits.max_pixels + 1, "a frame", clip, limits)
    try:
        report: Json = json.loads(ran.output)
    except ValueError:
        report = {}
    if ran.status or not report.get("streams"):
        raise NotAVideo(clip, f"it can't be read as a video ({reason(ran.stderr, path)})", USE_A_VIDEO)
    return report


def _video_stream(streams: list[Json], clip: str) -> Json:
    """The default video track, else the first; cover art and thumbnails are no video. Raises NoVideoStream."""
    found = _chosen([s for s in streams if s.get("codec_type") == "video" and not _is_cover(s)])
    if found is None:
        raise NoVideoStream(clip, "it has no video stream", "use a file with video or remove the clip")
    return found


def _is_cover(stream: Json) -> bool:
    """Whether a stream is cover art: flagged so, or a track of one picture, as in mp4 files."""
    flags = stream.get("disposition", {})
    one = stream.get("codec_name") in ("png", "mjpeg", "bmp", "webp") and str(stream.get("nb_frames")) == "1"
    return bool(flags.get("attached_pic") or flags.get("timed_thumbnails") or one)


def _chosen(streams: list[Json]) -> Json | None:
    """The first that is flagged as default, else the first."""
    flagged = [stream for stream in streams if stream.get("disposition", {}).get("default")]
    return next(iter(flagged or streams), None)


def _parse(stream: Json, container: Json, audio: Json, path: Path, clip: str, limits: Limits) -> Probe:
    width, height = int(stream.get("width", 0)), int(stream.get("height", 0))
    if width < 1 or height < 1 or "codec_name" not in stream:
        raise NotAVideo(clip, "its video stream has no size or no known codec", "re-encode it as H.264")
    fps = ratio(stream.get("avg_frame_rate")) or ratio(stream.get("r_frame_rate"))
    seconds = number(stream.get("duration")) or clock(stream.get("tags", {}).get("DURATION"))
    seconds = min(max(0.0, seconds or number(container.get("duration"))), MAX_SECONDS)
    frames = int(number(stream.get("nb_frames"))) or round(seconds * fps)
    if not seconds or not fps or fps > MAX_FPS:
        frames, seconds = _measure(path, clip, int(stream["index"]), limits)
        fps = Fraction(frames / seconds).limit_denominator(1001)
    picture, rotation = picture_of(stream, clip)
    return Probe(
        width=width - picture.left - picture.right,
        height=height - picture.top - picture.bottom,
        sample_aspect=ratio(stream.get("sample_aspect_ratio")) or Fraction(1),
        fps=fps,
        frames=max(1, frames),
        seconds=seconds,
        has_audio=bool(audio),
        rotation=rotation,
        stream=int(stream["index"]),
        start_s=number(stream.get("start_time")),
        origin_s=number(container.get("start_time")),
        audio_stream=int(audio.get("index", 0)),
        audio_codec=audio.get("codec_name", ""),
        matrix=_matrix(stream, height),
        full_range=_full_range(stream),
        picture=picture,
    )


def _measure(path: Path, clip: str, stream: int, limits: Limits) -> tuple[int, float]:
    """(frames, seconds) from the packets' own times, for files that do not say how long they are (recorded live)."""
    command = _ffprobe(path, limits, "packet=pts_time", "-select_streams", str(stream), "-of", "csv=p=0")
    lines = run(command, clip, limits.timeout_s).output.decode("ascii", "replace").split()
    times = [float(t) for t in (line.rstrip(",") for line in lines) if t.replace(".", "", 1).replace("-", "").isdigit()]
    if len(times) == 1:
        raise NotAVideo(clip, "it holds a single frame", "use a clip that moves")
    if len(times) < 2 or max(times) <= min(times):
        raise NotAVideo(clip, "its length and frame rate are unknown", "remux it: ffmpeg -i IN -c copy OUT.mp4")
    span = max(times) - min(times)
    return len(times), span * len(times) / (len(times) - 1)


def _matrix(stream: Json, height: int) -> str:
    untagged = "bt709" if height >= 720 else "bt601"
    return MATRICES.get(stream.get("color_space", ""), untagged)


def _full_range(stream: Json) -> bool:
    pixels = str(stream.get("pix_fmt", ""))
    implied = pixels.startswith(("yuvj", *RGB))
    return stream.get("color_range") == "pc" or implied


def _check_size(pixels: int, what: str, clip: str, limits: Limits) -> None:
    if pixels > limits.max_pixels:
        problem = f"{what} has more pixels than max_pixels = {limits.max_pixels}"
        raise ClipTooLarge(clip, problem, "scale the clip down or raise dataset.max_pixels")


def _check_seconds(seconds: float, clip: str, limits: Limits) -> None:
    if seconds > limits.max_seconds:
        problem = f"{seconds:.1f} s are more than max_seconds = {limits.max_seconds:g}"
        raise ClipTooLarge(clip, problem, "cut the clip or raise dataset.max_seconds")


def number(text: object) -> float:
    """A finite float, or 0.0 for anything else ("N/A", None)."""
    try:
        value = float(str(text))
    except ValueError:
        return 0.0
    return value if math.isfinite(value) else 0.0


def ratio(text: object) -> Fraction:
    """A fraction such as "30000/1001" or "16:11"; 0 for anything else."""
    match = re.fullmatch(r"([0-9]{1,12})[/:]([0-9]{1,12})", str(text))
    return Fraction(int(match[1]), int(match[2])) if match and int(match[2]) else Fraction(0)


def clock(text: object) -> float:
    """A time such as "00:00:02.5" in seconds; 0.0 for anything else."""
    parts = str(text).split(":")
    return number(sum(number(part) * 60**i for i, part in enumerate(reversed(parts)))) if len(parts) == 3 else 0.0
