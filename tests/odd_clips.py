"""Odd clips in time: containers, codecs, rates, offsets, stream choice, damage and audio."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from odd_cases import REFUSED, RIGHT, Case, one_sentence
from PIL import Image

from cogvideo_core.errors import ClipError
from cogvideo_core.media import video
from cogvideo_core.media.tools import ffmpeg_exe, ffprobe_exe
from cogvideo_core.media.window import check_damage

LIMITS = video.Limits(max_seconds=600, max_pixels=3840 * 2160, max_bytes=10**9, timeout_s=60)
HEIGHT, WIDTH, FPS, FRAMES = 64, 128, 10, 150
MOST_DAMAGE = 0.05
Times = Sequence[Fraction]

CODECS: dict[str, tuple[str, ...]] = {
    "h264": ("-c:v", "libx264", "-bf", "0", "-g", "20", "-preset", "ultrafast"),
    "h264b": ("-c:v", "libx264", "-bf", "2", "-g", "20", "-preset", "fast"),
    "h264o": ("-c:v", "libx264", "-bf", "2", "-g", "20", "-preset", "fast", "-x264-params", "open-gop=1"),
    "hevc": ("-c:v", "libx265", "-g", "20", "-preset", "ultrafast", "-x265-params", "log-level=none"),
    "vp8": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "2M", "-g", "20"),
    "vp8alt": ("-c:v", "libvpx", "-auto-alt-ref", "1", "-lag-in-frames", "8", "-b:v", "2M", "-g", "20"),
    "vp9": ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8", "-b:v", "2M", "-g", "20"),
    "av1": ("-c:v", "libsvtav1", "-preset", "12", "-g", "20", "-crf", "20", "-svtav1-params", "lp=1"),
    "mpeg4": ("-c:v", "mpeg4", "-q:v", "2", "-g", "20"),
    "mpeg4b": ("-c:v", "mpeg4", "-q:v", "2", "-g", "20", "-bf", "2"),
    "mjpeg": ("-c:v", "mjpeg", "-q:v", "2", "-strict", "-1"),
    "ffv1": ("-c:v", "ffv1"),
    "prores": ("-c:v", "prores_ks"),
    "mpeg2": ("-c:v", "mpeg2video", "-q:v", "2", "-g", "20", "-bf", "2"),
    "gif": ("-c:v", "gif"),
}
CONTAINERS: dict[str, tuple[str, ...]] = {
    "h264": ("mp4", "mov", "mkv", "avi"),
    "h264b": ("mp4", "mov", "mkv", "avi", "ts"),
    "h264o": ("mp4", "mkv", "ts"),
    "hevc": ("mp4", "mkv", "mov", "ts"),
    "vp8": ("webm", "mkv"),
    "vp8alt": ("webm",),
    "vp9": ("webm", "mkv", "mp4"),
    "av1": ("mp4", "webm", "mkv"),
    "mpeg4": ("avi", "mp4", "mkv"),
    "mpeg4b": ("avi", "mp4"),
    "mjpeg": ("avi", "mov", "mkv"),
    "ffv1": ("mkv", "avi"),
    "prores": ("mov",),
}
RATES = ("24", "30000/1001", "60", "8")
UNEVEN = [Fraction(n, 30) if n < 30 else 1 + Fraction(n - 30, 5) for n in range(90)]
PAUSED = [Fraction(n, 25) if n < 10 else 3 + Fraction(n - 10, 25) for n in range(90)]


def ff(*arguments: object, data: bytes | None = None) -> None:
    command = [ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    if data is not None:
        command.remove("-nostdin")
    subprocess.run(command, input=data, check=True, stdout=subprocess.DEVNULL, env=os.environ | {"SVT_LOG": "1"})


def numbered(count: int = FRAMES) -> bytes:
    """RGB frames of 128x64 that carry their own number, as eight black or white columns."""
    bits = (np.arange(count)[:, None] >> np.arange(8)) & 1
    columns = np.repeat(bits * 255, 16, axis=1).astype(np.uint8)
    return np.broadcast_to(columns[:, None, :, None], (count, HEIGHT, WIDTH, 3)).tobytes()


def numbers(frames: np.ndarray) -> list[int]:
    centres = frames[:, frames.shape[1] // 2, 8::16, 1] > 128
    return [int(bits @ (1 << np.arange(8))) for bits in centres]


def raw(rate: object) -> list[object]:
    return ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{WIDTH}x{HEIGHT}", "-r", rate, "-i", "-"]


def pixels(codec: str) -> list[object]:
    kind = {"prores": "yuv422p10le", "gif": "rgb8"}.get(codec, "yuv420p")
    return ["-pix_fmt", kind, *CODECS[codec], "-threads", 1]


def made(path: Path, codec: str, rate: str, *more: object) -> Times:
    """Writes numbered frames at a rate; when each is shown."""
    ff(*raw(rate), *pixels(codec), *more, path, data=numbered())
    return [n / Fraction(rate) for n in range(FRAMES)]


def made_at(path: Path, codec: str, times: Times) -> Times:
    """Writes numbered frames that are shown at these times."""
    steps = "+".join(f"eq(N,{n})*{int(time * 1000)}" for n, time in enumerate(times))
    options = ["-vf", f"settb=1/1000,setpts='{steps}'", "-fps_mode", "passthrough", "-enc_time_base", "1/1000"]
    ff(*raw(25), *options, *pixels(codec), path, data=numbered(len(times)))
    return times


def taken(path: Path, start: float = 0.0, count: int = 12, fit: str = "stretch") -> tuple[np.ndarray, Any]:
    found = video.probe(path, path.name, LIMITS)
    window = video.Window(0, start, count)
    return video.decode_counted(path, path.name, found, window, video.View(HEIGHT, WIDTH, FPS, fit), LIMITS)  # type: ignore[arg-type]


def compared(path: Path, times: Times, starts: Sequence[float] = (0.0, 0.63), rounding_s: float = 0.0012) -> str:
    """Each output frame must be the one nearest to its time, as far as the container tells times, and none damaged."""
    for start in starts:
        frames, picked = taken(path, start)
        for k, number in enumerate(numbers(frames)):
            wanted = Fraction(start).limit_denominator(1000) + Fraction(k, FPS)
            best = min(abs(time - wanted) for time in times)
            if number >= len(times) or abs(times[number] - wanted) > best + 2 * Fraction(rounding_s):
                return f"frame {number} at {float(wanted):.3f} s of the window from {start} s"
        if picked.damaged:
            return f"{picked.damaged} frames are called damaged"
    return RIGHT


def matrix() -> dict[str, Callable[[Path], str]]:
    """Containers x codecs, each at two of the rates in turn."""
    found: dict[str, Callable[[Path], str]] = {}
    pairs = [(codec, container) for codec, containers in CONTAINERS.items() for container in containers]
    for index, (codec, container) in enumerate(pairs):
        for rate in (RATES[index % 4], RATES[(index + 1) % 4]):

            def judge(folder: Path, codec: str = codec, container: str = container, rate: str = rate) -> str:
                path = folder / f"clip.{container}"
                return compared(path, made(path, codec, rate))

            found[f"time-{codec}-{container}-{rate.replace('/', '_')}"] = judge
    return found


def uneven() -> dict[str, Callable[[Path], str]]:
    """Variable rates: a change of the rate, a long pause, a still recording with a burst at its end."""
    burst = [Fraction(0), *(28 + Fraction(n, 30) for n in range(59))]
    kinds = {
        "uneven": (UNEVEN, (0.0, 0.63, 5.0)),
        "paused": (PAUSED, (0.0, 1.3, 2.5)),
        "burst": (burst, (0.0, 27.0, 28.2)),
    }
    found: dict[str, Callable[[Path], str]] = {}
    for codec, container in (("h264", "mp4"), ("h264b", "mkv"), ("vp9", "webm")):
        for kind, (times, starts) in kinds.items():

            def judge(
                folder: Path, codec: str = codec, container: str = container, times: Times = times, starts: Any = starts
            ) -> str:
                path = folder / f"clip.{container}"
                return compared(path, made_at(path, codec, times), starts)

            found[f"vfr-{kind}-{codec}-{container}"] = judge
    return found


def offset(container: str, codec: str, *more: object) -> Callable[[Path], str]:
    """The file's clock does not begin with 0: the window's begins with the first frame all the same."""

    def judge(folder: Path) -> str:
        path = folder / f"clip.{container}"
        return compared(path, made(path, codec, "24", *more))

    return judge


def late(container: str, codec: str, rate: str, rounding_s: float = 0.0012) -> Callable[[Path], str]:
    """Windows from the start, from the middle and far into the file, where a seek may land too late."""

    def judge(folder: Path) -> str:
        path = folder / f"clip.{container}"
        times = made(path, codec, rate)
        return compared(path, times, (0.0, 0.63, float(times[-1]) - 1.5), rounding_s)

    return judge


def clear_gif(folder: Path) -> str:
    """Transparent pixels of a GIF are black, and what a frame leaves in place stays."""
    first = np.zeros((64, 128, 4), np.uint8)
    first[:, :64] = (250, 10, 10, 255)
    second = np.zeros((64, 128, 4), np.uint8)
    second[:, 96:] = (10, 10, 250, 255)
    pictures = [Image.fromarray(picture) for picture in (first, second)]
    pictures[0].save(
        folder / "clip.gif", save_all=True, append_images=pictures[1:] * 9, duration=200, disposal=1, optimize=False
    )
    frames = taken(folder / "clip.gif", count=12)[0].astype(int)
    shown = [frames[0, 32, 20], frames[0, 32, 110], frames[8, 32, 20], frames[8, 32, 110], frames[8, 32, 80]]
    wanted = np.array([(250, 10, 10), (0, 0, 0), (250, 10, 10), (10, 10, 250), (0, 0, 0)])
    return RIGHT if np.abs(np.stack(shown) - wanted).max() < 8 else f"{np.stack(shown).tolist()}"


def refused(write: Callable[[Path], object], words: str, name: str) -> Callable[[Path], str]:
    """A file that is refused with these words before a frame is decoded."""

    def judge(folder: Path) -> str:
        write(folder / name)
        try:
            taken(folder / name)
        except ClipError as error:
            return one_sentence(str(error)) or (REFUSED if words in str(error) else str(error))
        return "accepted"

    return judge


def gif_bomb(path: Path) -> None:
    """A small file that announces a picture of 16,000 x 16,000."""
    size = (16_000).to_bytes(2, "little") * 2
    picture = b"\x2c" + bytes(4) + size + b"\0\x02\x02\x4c\x01\0"
    path.write_bytes(b"GIF89a" + size + b"\x80\0\0" + bytes(6) + picture * 2 + b"\x3b")


def edit_list(folder: Path) -> str:
    """Cut without encoding: frames before the cut are in the file and not shown."""
    times = made(folder / "whole.mp4", "h264", "25")
    ff("-ss", "1.01", "-i", folder / "whole.mp4", "-c", "copy", folder / "clip.mp4")
    frames, _ = taken(folder / "clip.mp4")
    first = next(n for n, time in enumerate(times) if time >= Fraction(101, 100))
    wanted = [first + round(k * 2.5 + 1e-6) for k in range(12)]
    got = numbers(frames)
    return RIGHT if all(abs(a - b) <= 1 for a, b in zip(got, wanted, strict=True)) and got[0] == first else f"{got}"


def changing(container: str, codec: str, *sizes: tuple[int, int]) -> Callable[[Path], str]:
    """Parts of different sizes, joined without encoding: brightness counts the frames."""

    def judge(folder: Path) -> str:
        parts = []
        for index, (width, height) in enumerate(sizes):
            level = f"geq=lum='20+6*(N+{10 * index})':cb=128:cr=128"
            source = ["-f", "lavfi", "-i", f"color=black:s={width}x{height}:r=10:d=1,{level}"]
            parts.append(folder / f"{index}.{container}")
            ff(*source, *pixels(codec), parts[-1])
        (folder / "list").write_text("".join(f"file '{part.name}'\n" for part in parts))
        ff("-f", "concat", "-i", folder / "list", "-c", "copy", folder / f"clip.{container}")
        for fit in ("crop", "pad", "stretch"):
            frames, _ = taken(folder / f"clip.{container}", count=10 * len(sizes) - 1, fit=fit)
            grey = frames[:, HEIGHT // 2, WIDTH // 2].astype(float).mean(-1)
            levels = 16 + grey * 219 / 255
            wanted = 20 + 6 * np.arange(len(levels))
            if np.abs(levels - wanted).max() > 2.5:
                return f"{fit}: {levels.round().astype(int).tolist()}"
        return RIGHT

    return judge


def tracks(*options: object, right: str) -> Callable[[Path], str]:
    """A red and a green video track, and two sounds; `right` names the colour or the codec that is to be taken."""

    def judge(folder: Path) -> str:
        path = folder / "clip.mkv"
        sources = [a for c in ("red", "green") for a in ("-f", "lavfi", "-i", f"color={c}:s=64x48:r=10:d=2")]
        sources += [a for f in (300, 600) for a in ("-f", "lavfi", "-i", f"sine=f={f}:d=2")]
        maps = [a for n in range(4) for a in ("-map", n)]
        ff(*sources, *maps, "-c:v", "mpeg4", "-c:a:0", "libopus", "-c:a:1", "aac", *options, path)
        frames, _ = taken(path, count=4)
        red, green, _ = frames.mean((0, 1, 2))
        colour = "red" if red > green else "green"
        codec = video.probe(path, path.name, LIMITS).audio_codec
        return RIGHT if right in (colour, codec) else f"{colour} {codec}"

    return judge


def cover(folder: Path) -> str:
    """A cover picture is flagged as the default track, and the video is not."""
    ff("-f", "lavfi", "-i", "color=red:s=64x48:d=1", "-frames:v", 1, folder / "cover.png")
    ff("-f", "lavfi", "-i", "color=green:s=64x48:r=10:d=2", "-c:v", "libx264", folder / "v.mp4")
    flags = ["-disposition:v:0", "0", "-disposition:v:1", "attached_pic+default"]
    inputs = ["-i", folder / "v.mp4", "-i", folder / "cover.png", "-map", 0, "-map", 1]
    ff(*inputs, "-c", "copy", *flags, folder / "clip.mp4")
    red, green, _ = taken(folder / "clip.mp4", count=4)[0].mean((0, 1, 2))
    return RIGHT if green > red else "the cover"


def hole(container: str, codec: str, begin: float, share: float) -> Callable[[Path], str]:
    """Zeros over a part of the file's media: refused as damaged, and never shown as if it were whole."""

    def judge(folder: Path) -> str:
        path = folder / f"clip.{container}"
        # moving noise, so that packets are large and of about one size
        noise = ["-f", "lavfi", "-i", "testsrc2=s=128x96:r=24:d=3", "-vf", "noise=alls=40:allf=t"]
        ff(*noise, "-pix_fmt", "yuv420p", *CODECS[codec], "-threads", 1, path)
        data = bytearray(path.read_bytes())
        first, last = media(path)
        start, length = first + int(begin * (last - first)), int(share * (last - first))
        data[start : start + length] = bytes(length)
        path.write_bytes(data)
        try:
            _, picked = taken(path, count=29)
            check_damage(path.name, picked, MOST_DAMAGE)
        except ClipError as error:
            return one_sentence(str(error)) or REFUSED
        return f"accepted with {picked.damaged} of {picked.frames} frames damaged"

    return judge


def media(path: Path) -> tuple[int, int]:
    """The bytes from the first packet of the video to its last."""
    command = [
        ffprobe_exe(),
        "-v",
        "error",
        "-select_streams",
        "v",
        "-show_entries",
        "packet=pos,size",
        "-of",
        "csv=p=0",
    ]
    told = subprocess.run([*command, str(path)], capture_output=True, text=True, check=True).stdout.split()
    places = [(int(line.split(",")[1]), int(line.split(",")[0])) for line in told]
    return min(at for at, _ in places), max(at + size for at, size in places)


def little_damage(folder: Path) -> str:
    """One picture of many is spoiled: the clip is used, and the column says one."""
    path = folder / "clip.avi"
    ff("-f", "lavfi", "-i", "testsrc2=s=128x96:r=10:d=6", "-pix_fmt", "yuvj420p", "-c:v", "mjpeg", path)
    data = bytearray(path.read_bytes())
    first, last = media(path)
    at = data.index(b"\xff\xd8", (first + last) // 2)
    data[at : at + 600] = bytes(600)
    path.write_bytes(data)
    _, picked = taken(path, count=59)
    check_damage(path.name, picked, MOST_DAMAGE)
    return RIGHT if picked.damaged == 1 else f"{picked.damaged} damaged"


def still(folder: Path) -> str:
    """A picture that does not move is not a damaged one."""
    ff(
        "-f",
        "lavfi",
        "-i",
        "color=gray:s=128x64:r=24:d=3",
        "-pix_fmt",
        "yuv420p",
        *CODECS["h264b"],
        folder / "clip.mp4",
    )
    picked = taken(folder / "clip.mp4", count=29)[1]
    return RIGHT if not picked.damaged else f"{picked.damaged} damaged"


def cut(container: str, codec: str) -> Callable[[Path], str]:
    """The second half of the file is missing."""

    def judge(folder: Path) -> str:
        path = folder / f"clip.{container}"
        made(path, codec, "10", *(("-movflags", "+faststart") if container in ("mp4", "mov") else ()))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        try:
            taken(path, count=80)
        except ClipError as error:
            return one_sentence(str(error)) or REFUSED
        return "accepted"

    return judge


def sound(container: str, codec: str, *more: object, kept: str) -> Callable[[Path], str]:
    """A window with this audio becomes an mp4 with that one, whose beep is where it was."""

    def judge(folder: Path) -> str:
        path, out = folder / f"clip.{container}", folder / "out.mp4"
        beep = "aevalsrc='if(between(t,1,1.2),0.8*sin(2*PI*440*t),0)':s=48000:d=3"
        pictures = ["-f", "lavfi", "-i", "color=gray:s=64x48:r=10:d=3"]
        ff(*pictures, "-f", "lavfi", "-i", beep, "-c:v", "mpeg4", "-c:a", codec, *more, path)
        found, window = video.probe(path, path.name, LIMITS), video.Window(0, 0.5, 16)
        frames = video.decode(path, path.name, found, window, video.View(48, 64, FPS, "stretch"), LIMITS)
        video.encode(frames, out, FPS, 20, (path, found, window))
        held = video.probe(out, out.name, LIMITS)
        if held.audio_codec != kept:
            return f"audio became {held.audio_codec}"
        heard, wanted = (
            beep_at(out),
            beep_at(path) - 0.5,
        )  # as a player hears the file itself, its encoder's delay included
        return RIGHT if abs(heard - wanted) < 1 / FPS else f"the beep is at {heard:.3f} s instead of {wanted:.3f}"

    return judge


def beep_at(path: Path) -> float:
    """Seconds from the start of a file's sound to its beep."""
    command = [ffmpeg_exe(), "-v", "error", "-i", str(path), "-f", "f32le", "-ac", "1", "-ar", "8000", "-"]
    samples = np.frombuffer(subprocess.run(command, capture_output=True, check=True).stdout, np.float32)
    return int(np.argmax(np.abs(samples) > 0.2)) / 8000


def offset_sound(container: str, delay: float) -> Callable[[Path], str]:
    """The video begins `delay` seconds after the sound: flash and beep stay together."""

    def judge(folder: Path) -> str:
        path, out = folder / f"clip.{container}", folder / "out.mp4"
        flash = "color=black:s=64x48:r=20:d=3,geq=lum='if(between(T,1,1.2),235,16)':cb=128:cr=128"
        beep = f"aevalsrc='if(between(t,{1 + delay},{1.2 + delay}),0.8*sin(2*PI*440*t),0)':s=48000:d=4"
        ff(
            "-itsoffset",
            delay,
            "-f",
            "lavfi",
            "-i",
            flash,
            "-f",
            "lavfi",
            "-i",
            beep,
            "-c:v",
            "libx264",
            "-c:a",
            "aac",
            path,
        )
        found, window = video.probe(path, path.name, LIMITS), video.Window(0, 0.3, 20)
        frames = video.decode(path, path.name, found, window, video.View(48, 64, FPS, "stretch"), LIMITS)
        video.encode(frames, out, FPS, 20, (path, found, window))
        seen = int(np.argmax(frames.mean((1, 2, 3)) > 128)) / FPS
        heard = beep_at(out)
        return RIGHT if seen > 0 and abs(seen - heard) <= 1 / FPS else f"seen at {seen:.3f} s, heard at {heard:.3f} s"

    return judge


def cases() -> list[Case]:
    changes: dict[str, Callable[[Path], str]] = {
        "offset-mkv": offset("mkv", "h264b", "-output_ts_offset", "1.5"),
        "offset-webm": offset("webm", "vp9", "-output_ts_offset", "2.25"),
        "offset-mp4": offset("mp4", "h264b", "-output_ts_offset", "1.5"),
        "offset-mov": offset("mov", "mjpeg", "-output_ts_offset", "0.7"),
        "offset-none-mp4": offset("mp4", "h264b", "-use_editlist", "0"),
        "fragmented-mp4": offset("mp4", "h264b", "-movflags", "+frag_keyframe+empty_moov"),
        "live-mkv": offset("mkv", "h264", "-live", "1"),
        "edit-list": edit_list,
        "size-vp8": changing("webm", "vp8", (128, 96), (64, 48), (64, 48)),
        "size-vp9": changing("webm", "vp9", (64, 48), (128, 96)),
        "size-mkv": changing("mkv", "mpeg4", (96, 128), (64, 48), (128, 96)),
        "size-mjpeg": changing("avi", "mjpeg", (64, 48), (128, 96)),
        "tracks-second-video": tracks("-disposition:v:1", "default", "-disposition:v:0", "0", right="green"),
        "tracks-first-video": tracks("-disposition:v", "0", right="red"),
        "tracks-second-audio": tracks("-disposition:a:1", "default", "-disposition:a:0", "0", right="aac"),
        "tracks-first-audio": tracks("-disposition:a", "0", right="opus"),
        "tracks-cover": cover,
        "still": still,
        "damage-little": little_damage,
        **{f"late-{codec}-ts": late("ts", codec, "24") for codec in ("h264b", "h264o", "hevc", "mpeg2")},
        "offset-ts": offset("ts", "h264b", "-output_ts_offset", "40000"),
        "m2ts": late("m2ts", "h264b", "30000/1001"),
        **{f"gif-{rate}": late("gif", "gif", rate, 0.012) for rate in ("10", "25", "8")},
        "gif-transparent": clear_gif,
        "gif-bomb": refused(gif_bomb, "max_pixels", "clip.gif"),
        "gif-one": refused(lambda path: Image.new("RGB", (64, 48)).save(path), "a single frame", "clip.gif"),
        "program-stream": refused(lambda path: made(path, "mpeg2", "25"), "MPEG program stream", "clip.mpg"),
        "program-stream-renamed": refused(
            lambda path: made(path, "mpeg2", "25", "-f", "vob"), "MPEG program stream", "clip.mp4"
        ),
    }
    changes |= {
        f"cut-{codec}-{container}": cut(container, codec)
        for codec, container in (
            *(("h264b", "mp4"), ("vp9", "webm"), ("mpeg4", "avi"), ("prores", "mov")),
            *(("h264b", "ts"), ("gif", "gif")),
        )
    }
    for container, codec in (
        ("mp4", "h264b"),
        ("mkv", "h264"),
        ("mp4", "hevc"),
        ("webm", "vp9"),
        ("webm", "vp8"),
        ("avi", "mpeg4"),
        ("mov", "mjpeg"),
        ("mp4", "av1"),
        ("ts", "h264b"),
    ):
        changes[f"hole-middle-{codec}-{container}"] = hole(container, codec, 0.35, 0.3)
    for begin, name in ((0.0, "start"), (0.72, "end")):
        for container, codec in (("mp4", "h264b"), ("webm", "vp9"), ("mov", "mjpeg")):
            changes[f"hole-{name}-{codec}-{container}"] = hole(container, codec, begin, 0.25)
    sounds = {
        "aac-mp4": sound("mp4", "aac", kept="aac"),
        "mp3-avi": sound("avi", "libmp3lame", kept="mp3"),
        "mp3-8khz-avi": sound("avi", "libmp3lame", "-ar", "8000", kept="aac"),
        "mp3-11khz-mkv": sound("mkv", "libmp3lame", "-ar", "11025", kept="aac"),
        "opus-webm": sound("mkv", "libopus", kept="opus"),
        "vorbis-mkv": sound("mkv", "libvorbis", kept="aac"),
        "flac-mkv": sound("mkv", "flac", kept="aac"),
        "pcm-avi": sound("avi", "pcm_s16le", kept="aac"),
        "pcm-mov": sound("mov", "pcm_s24le", kept="aac"),
        "ac3-mkv": sound("mkv", "ac3", kept="ac3"),
        "later-mp4": offset_sound("mp4", 0.4),
        "later-mkv": offset_sound("mkv", 0.5),
        "later-mov": offset_sound("mov", 0.25),
    }
    found = matrix() | uneven() | changes | {f"audio-{name}": judge for name, judge in sounds.items()}
    return [
        Case("clips", name, "the frame nearest in time, the track that is meant, damage counted", j)
        for name, j in found.items()
    ]
