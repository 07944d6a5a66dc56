"""Folders of numbered pictures as clips: `00000.jpg`, `00001.jpg` ..., as DAVIS and many other datasets have them.

A folder is wrapped into one lossless video of its rate when it is fetched, and is a video like any other from there on.
Its content is that of its pictures and its rate, whatever they are called and however the video is written.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain, pairwise
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from cogvideo_core.errors import ClipError, ClipTooLarge, MissingClip, NotAVideo, StorageError, about_field
from cogvideo_core.inputs.columns import Inside
from cogvideo_core.inputs.inside import Address, address
from cogvideo_core.media.still import read_image
from cogvideo_core.media.tools import Limits, ffmpeg_exe, file_url, reason, run_fed
from cogvideo_core.settings.specs import fingerprint

RATE = re.compile(r"\s*[0-9]{1,20}(\.[0-9]{0,20}|/[0-9]{1,20})?\s*")  # no exponents: they may be huge
NUMBERED = re.compile(r"(.*?)(\d{1,18})\.(jpe?g|png)", re.IGNORECASE | re.DOTALL)
MAX_FRAMES = 100_000
MAX_FPS = 1000
CODEC = ["-c:v", "ffv1", "-pix_fmt", "bgr0", "-g", "1", "-threads", "1"]  # without loss
CONTAINER = ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-f", "mov"]  # keeps times exactly, as mkv does not


class Frame(NamedTuple):
    """One picture of a folder, as the disk describes it."""

    number: int
    name: str
    size: int
    stamp: int


def is_frames(names: list[str]) -> bool:
    """Whether a folder of these names is a clip: two or more numbered pictures of one name, and nothing else."""
    found = [NUMBERED.fullmatch(name) for name in names]
    return len(names) > 1 and len({match[1] if match else "/" for match in found}) == 1 and None not in found


def located(clip: str, folder: str, fps: str, usual_fps: float) -> Inside:
    """The address, bytes and stamp of a folder of frames; `fps` as its manifest has it, "" for `usual_fps`.

    Raises NotAVideo, ClipTooLarge, ClipError.
    """
    rate, frames = rate_of(clip, fps or str(usual_fps)), frames_in(clip, folder)
    stamp = fingerprint([frame[1:] for frame in frames])[:32]
    return Inside(address("frames", folder, fps=rate), sum(frame.size for frame in frames), stamp)


def rate_of(clip: str, text: str) -> Fraction:
    """Frames a second, of a number or a ratio. Raises ClipError."""
    try:
        rate = Fraction(text).limit_denominator(10_000) if RATE.fullmatch(text) else Fraction(0)
    except ZeroDivisionError:
        rate = Fraction(0)
    if not 0 < rate <= MAX_FPS:
        problem = f"its fps {text!r} is no number above 0 and up to {MAX_FPS}"
        raise ClipError(clip, problem, "write its frames a second, such as 24 or 30000/1001")
    return rate


def frames_in(clip: str, folder: str) -> list[Frame]:
    """The frames in the order of their numbers; there may be gaps. Hidden files don't count.

    Raises NotAVideo for a folder with anything else in it, ClipTooLarge, MissingClip.
    """
    try:
        with os.scandir(folder) as entries:
            frames = [_frame(clip, entry) for entry in entries if not entry.name.startswith(".")]
    except FileNotFoundError as error:
        raise MissingClip(clip, "the folder is gone", "correct the path or remove the row") from error
    except OSError as error:
        raise StorageError(f"clip {clip!r}: can't be read ({error.strerror}); check its permissions") from error
    if not frames:
        raise NotAVideo(clip, "it is an empty folder", "name a video, or a folder of numbered JPEG or PNG files")
    if len(frames) > MAX_FRAMES:
        raise ClipTooLarge(clip, f"it has more than {MAX_FRAMES} frames", "split the folder")
    frames.sort()
    for before, after in pairwise(frames):
        if before.number == after.number:
            problem = f"its frames {before.name!r} and {after.name!r} have one number"
            raise NotAVideo(clip, problem, "keep one of them, or give each sequence a folder")
    return frames


def _frame(clip: str, entry: os.DirEntry[str]) -> Frame:
    found = NUMBERED.fullmatch(entry.name)
    if not found or not entry.is_file(follow_symlinks=False):
        problem = f"it is a folder, and {entry.name[:80]!r} in it is no numbered JPEG or PNG file"
        raise NotAVideo(clip, problem, "name a video, or keep only frames in the folder")
    about = entry.stat(follow_symlinks=False)
    return Frame(int(found[2]), entry.name, about.st_size, about.st_mtime_ns)


def wrapped(clip: str, where: Address, stamp: str, path: Path, limits: Limits) -> str:
    """Writes a folder's frames to `path` as a lossless video (mov), and returns the sha256 of its content.

    Raises ClipTooLarge, NotAVideo (its frames differ in size), NotAnImage, StorageError (it has changed since).
    """
    frames = frames_in(clip, where.holder)
    if fingerprint([frame[1:] for frame in frames])[:32] != stamp:
        raise StorageError(f"clip {clip!r}: its frames have changed since they were listed; run again")
    rate = Fraction(where.fields["fps"])
    _check_limits(clip, frames, rate, limits)
    digest = hashlib.sha256(f"frames at {rate}".encode())
    pictures = _pictures(clip, where.holder, frames, digest, limits)
    first = next(pictures)
    command = [ffmpeg_exe(), "-hide_banner", "-v", "error", "-y", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{first.width}x{first.height}", "-framerate", str(rate), "-i", "pipe:0"]
    command += [*CODEC, *CONTAINER, file_url(path)]
    data = _bytes(clip, chain([first], pictures), first.size, path, limits)
    ran = run_fed(command, data, clip, limits.timeout_s)
    if ran.status:
        raise StorageError(
            f"clip {clip!r}: ffmpeg could not wrap its frames ({reason(ran.stderr, path)}); check the disk"
        )
    return digest.hexdigest()


def _check_limits(clip: str, frames: list[Frame], rate: Fraction, limits: Limits) -> None:
    size, seconds = sum(frame.size for frame in frames), float(len(frames) / rate)
    if size > limits.max_bytes:
        problem = f"its frames have {size / 1e6:,.1f} MB, more than max_megabytes = {limits.max_bytes / 1e6:g}"
        raise ClipTooLarge(clip, problem, "leave some out, or raise dataset.max_megabytes")
    if seconds > limits.max_seconds:
        problem = f"{len(frames)} frames at {rate} a second are more than max_seconds = {limits.max_seconds:g}"
        raise ClipTooLarge(clip, problem, "leave some out, or raise dataset.max_seconds")


def _pictures(
    clip: str, folder: str, frames: list[Frame], digest: hashlib._Hash, limits: Limits
) -> Iterator[Image.Image]:
    for frame in frames:
        with about_field(clip, "frame"):
            data = _read(clip, Path(folder) / frame.name, limits)
            digest.update(hashlib.sha256(data).digest())
            yield read_image(data, frame.name, limits.max_pixels)


def _read(clip: str, path: Path, limits: Limits) -> bytes:
    """A file's bytes; nothing that has become a link or a pipe is opened."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise OSError("no regular file")
            return file.read(limits.max_bytes)
    except OSError as error:
        problem = f"clip {clip!r}: its frame {path.name!r} can't be read ({error.strerror or error})"
        raise StorageError(f"{problem}; check its permissions, or run again") from error


def _bytes(
    clip: str, pictures: Iterator[Image.Image], size: tuple[int, int], path: Path, limits: Limits
) -> Iterator[bytes]:
    for number, picture in enumerate(pictures, 1):
        if picture.size != size:
            problem = f"its frames differ in size ({size[0]}x{size[1]}, and picture {number} {_size(picture)})"
            raise NotAVideo(clip, problem, "give all frames one size")
        if path.exists() and path.stat().st_size > limits.max_bytes:
            problem = f"its frames, without loss, are more than max_megabytes = {limits.max_bytes / 1e6:g}"
            raise ClipTooLarge(clip, problem, "leave some out, or raise dataset.max_megabytes")
        yield picture.tobytes()


def _size(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height}"
