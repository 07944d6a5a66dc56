"""What the screen costs beside encoding, and how often it is right on shapes clips.

    python tests/benchmarks/screen.py                # the table of docs/screening.md
    python tests/benchmarks/screen.py --clips 40     # more clips

Cost: processor seconds, ffmpeg's included, for one clip of 10 s, 1280x720 at 30 frames a second; a window is 49
frames at 8 a second. Right: shapes clips alone and joined in pairs, slowed down to 30 frames a second, as files. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import ffmpeg
import numpy as np

from cogvideo_core.media import figures, shots, video
from cogvideo_core.media.tools import ffmpeg_exe
from cogvideo_core.models.configuration import VideoShape
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.shapes import world
from cogvideo_core.stages import screen

LIMITS = video.Limits.of(DatasetSpec())
SHAPE = VideoShape(49, 480, 720, 8)
CLIP: dict[str, Any] = {"clip": "a.mp4", "window": 0, "image_uri": ""}


def slowly(frames: np.ndarray, times: int) -> np.ndarray:
    """`times` times as many frames, each blended with the next."""
    shares = np.linspace(0, len(frames) - 1, times * (len(frames) - 1) + 1)
    parts = [(1 - s % 1) * frames[int(s)] + (s % 1) * frames[min(int(s) + 1, len(frames) - 1)] for s in shares]
    return np.stack(parts).astype(np.uint8)


def clip(seed: int, times: int = 4) -> np.ndarray:
    return slowly(world.render(world.scene_from_seed(seed)), times)


def spent(work: Callable[[], object]) -> float:
    """Processor seconds of one go."""
    started = busy_s()
    work()
    return round(busy_s() - started, 2)


def busy_s() -> float:
    """Of this process and those it has waited for: what others do on the machine does not count."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def costs(folder: Path) -> dict[str, float]:
    path = folder / "large.mp4"
    video.encode(clip(1, 37), folder / "small.mp4", 30)
    grainy = ffmpeg.input(str(folder / "small.mp4")).filter("scale", 1280, 720).filter("noise", alls=8, allf="t")
    made = ffmpeg.output(grainy, str(path), vcodec="libx264", crf=20, preset="veryfast")
    ffmpeg.run(made, cmd=ffmpeg_exe(), quiet=True)
    found = video.probe(path, "a.mp4", LIMITS)
    view = video.View(SHAPE.height, SHAPE.width, SHAPE.fps)

    def encoded() -> None:
        window = video.windows(video.probe(path, "a.mp4", LIMITS), "a.mp4", SHAPE.frames, SHAPE.fps, "first")[0]
        decoded = video.decode(path, "a.mp4", found, window, view, LIMITS)
        video.encode(decoded, folder / "source.mp4", SHAPE.fps)

    def looked(window: Any) -> Callable[[], object]:
        screening = screen.Screening(ScreenSpec(), DatasetSpec(window=window), SHAPE)
        return lambda: screen.screened(screening, CLIP, path, "0" * 64, found)

    return {
        "decode_and_write_s": spent(encoded),
        "look_first_s": spent(looked("first")),
        "look_all_s": spent(looked("all")),
        "clip_s": round(found.seconds, 2),
    }


def cuts_of(path: Path, frames: np.ndarray) -> list[int]:
    video.encode(frames, path, 30, crf=23)
    found = video.probe(path, path.name, LIMITS)
    pairs = shots.with_cuts(shots.small_frames(path, path.name, found, LIMITS, 600), shots.rate_of(found))
    return [number for number, (_, cut) in enumerate(pairs) if cut]


def rights(folder: Path, clips: int) -> dict[str, int]:
    found = false = 0
    for seed in range(clips):
        one, other = clip(seed), clip(seed + 10_000)
        told = cuts_of(folder / "joined.mp4", np.concatenate([one, other]))
        found += len(one) in told
        false += len(set(told) - {len(one)}) + len(cuts_of(folder / "one.mp4", one))
    return {"joins": clips, "joins_found": found, "false_cuts": false}


def distances(clips: int) -> dict[str, float]:
    def hashed(frames: np.ndarray) -> np.ndarray:
        small = [
            cv2.cvtColor(cv2.resize(frame, (96, 54), interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2GRAY)
            for frame in frames
        ]
        return figures.packed(figures.hashes(np.stack(small)))

    every = [world.render(world.scene_from_seed(seed)) for seed in range(clips)]
    known = np.stack([hashed(frames) for frames in every])
    others = [figures.distances(known[:number], known[number]).min() for number in range(1, clips)]
    copies = [np.stack([cv2.resize(frame, (96, 80)) for frame in frames]) for frames in every]
    near = [figures.distances(known[n : n + 1], hashed(copy))[0] for n, copy in enumerate(copies)]
    return {"farthest_copy_bits": round(float(max(near)), 2), "nearest_other_bits": round(float(min(others)), 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=12)
    clips = parser.parse_args().clips
    with tempfile.TemporaryDirectory() as folder:
        found: dict[str, float] = {}
        for part in (lambda: costs(Path(folder)), lambda: rights(Path(folder), clips), lambda: distances(clips)):
            new: dict[str, float] = dict(part())
            for name, value in new.items():
                print(f"{name:22} {value}", flush=True)
            found |= new
    print(json.dumps(found))


if __name__ == "__main__":
    main()
