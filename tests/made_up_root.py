"""A root of as many committed edits as you like, in the ledger's real layout, made in a fraction of a millisecond each.

The videos are names of two small files (hard links, where the disk can), which no player opens; the hashes in their
commits are right. Nothing is flushed to disk: a root that is lost in a crash is made again.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from cogvideo_core.storage.commit import make_commit
from cogvideo_core.storage.keys import unit_folder

Row = dict[str, Any]
EDITS_A_CLIP = 4
PROMPTS = ("a blue circle moves over sand", "a red square", "a green triangle at night", "a painting of a circle")
SCORES = ("preserved", "delta_e", "luminance_gain", "saturation_gain", "sharpness", "ssim", "flicker")


def key_of(*parts: object) -> str:
    return hashlib.sha256(repr(parts).encode()).hexdigest()


def rows_of(edits: int, start: int = 0) -> Iterator[Row]:
    """The rows that edits number `start` to `edits` carry: four a clip, each clip with a column of its user's own."""
    for number in range(start, edits):
        clip, place = divmod(number, EDITS_A_CLIP)
        texts = dict.fromkeys(("first_frame_uri", "negative_prompt"), "")
        texts |= {"model": "THUDM/CogVideoX-5b", "recipe": "balanced", "state": "done"}
        texts |= {"clip": f"clips/{clip // 1000:04d}/{clip:07d}.mp4", "name": f"{clip:07d}"}
        texts |= {"source_prompt": f"a circle moves over a floor, take {clip}", "target_prompt": PROMPTS[place]}
        texts |= {"inversion_prompt": texts["source_prompt"], "own": f'{{"id": {clip}, "licence": "CC-BY"}}'}
        keys = {name: key_of(name, clip) for name in ("source_id", "source_key", "latents_key", "trajectory_key")}
        keys |= {name: key_of(name) for name in ("recipe_fingerprint", "model_fingerprint")}
        keys |= {"edit_key": key_of("edit", clip, place)}
        numbers = {"window": 0, "seed": 0, "strength": 1.0, "frames": 49, "height": 480, "width": 720, "fps": 8}
        scores = {name: (number * 7919 % 1000 + at) / 1000 for at, name in enumerate(SCORES)}
        yield texts | keys | numbers | {"damaged_frames": 0, "scores": scores}


def make_root(root: Path, edits: int, start: int = 0) -> None:
    """Commits edits number `start` to `edits`, and the sources of their clips."""
    videos = {name: _video(root, name) for name in ("edit.mp4", "source.mp4")}
    for row in rows_of(edits, start):
        if not os.path.exists(root / unit_folder("sources", row["source_key"])):
            _commit(root, "sources", row["source_key"], {"source.mp4": videos["source.mp4"]}, {})
        _commit(root, "edits", row["edit_key"], {"edit.mp4": videos["edit.mp4"]}, {"row": row, "batch": []})


def _video(root: Path, name: str) -> Path:
    path = root / "made-up" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(name.encode() * 20)
    return path


def _commit(root: Path, stage: Any, key: str, files: Mapping[str, Path], record: Row) -> None:
    folder, attempt = root / unit_folder(stage, key), key[:32]
    os.makedirs(folder / attempt, exist_ok=True)
    stored = {}
    for name, path in files.items():
        data = path.read_bytes()
        stored[name] = len(data), hashlib.sha256(data).hexdigest()
        with suppress(FileExistsError):
            _link(path, folder / attempt / name)
    (folder / "commit.json").write_bytes(make_commit(stage, key, attempt, stored, {"made": "up"}, record).to_bytes())


def _link(path: Path, name: Path) -> None:
    try:
        os.link(path, name)
    except FileExistsError:
        raise
    except OSError:  # a file system has a most number of links to a file
        shutil.copyfile(path, name)
