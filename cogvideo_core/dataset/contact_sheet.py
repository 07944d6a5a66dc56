"""A picture of a collected dataset: one row per clip, source first, then edits, each as its middle frame."""

from __future__ import annotations

import io
import json
import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from cogvideo_core.dataset.tables import earlier
from cogvideo_core.media import video
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.storage.objects import storing
from cogvideo_core.storage.uris import open_store

Record = dict[str, Any]
CLIPS, EDITS, TILE_PX, GAP_PX = 6, 4, 144, 4
ROWS = 400  # metadata rows read at most: a clip may have many edits
MAX_FILE_BYTES = 200 * 10**6


def contact_sheet(root: str) -> bytes:
    """The first clips of the dataset under `root` as a JPEG, source first; b"" where there is none yet."""
    shown = first_clips(root)
    if not shown:
        return b""
    tiles = [[_tile(root, row, name) for row, name in _videos(rows)] for rows in shown]
    height, width = tiles[0][0].shape[:2]
    step_x, step_y = width + GAP_PX, height + GAP_PX
    picture = Image.new("RGB", (max(map(len, tiles)) * step_x - GAP_PX, len(tiles) * step_y - GAP_PX), "white")
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            picture.paste(Image.fromarray(tile).resize((width, height)), (x * step_x, y * step_y))
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


def first_clips(root: str) -> list[list[Record]]:
    """The rows of the first few clips in the dataset's order, at most EDITS of each, with file names below the root."""
    rows = [row | {name: f"dataset/{row[name]}" for name in ("source_file_name", "file_name")} for row in _kept(root)]
    if not rows:  # all were rejected: they are shown from where they are stored
        made = [row for row in islice(earlier(root, "edits"), ROWS) if row["edit_object"]]
        lost = [row for row in made if "://" not in row["edit_object"]]
        rows = [row | {"source_file_name": row["source_object"], "file_name": row["edit_object"]} for row in lost]
    by_clip: dict[str, list[Record]] = {}
    for row in rows:
        by_clip.setdefault(row["source_file_name"], []).append(row)
    return [found[:EDITS] for found in islice(by_clip.values(), CLIPS)]


def _kept(root: str) -> list[Record]:
    """The first rows of the dataset: of its metadata, or of the tables where it has many folders."""
    fs, path = open_store(f"{root}/dataset/metadata.jsonl")
    try:
        with storing("dataset/metadata.jsonl", (FileNotFoundError,)), fs.open(path, "rb") as lines:
            return [json.loads(line) for line in islice(lines, ROWS)]
    except FileNotFoundError:
        return list(islice((row for row in earlier(root, "edits") if row["kept"]), ROWS))


def _videos(rows: list[Record]) -> list[tuple[Record, str]]:
    return [(rows[0], rows[0]["source_file_name"]), *((row, row["file_name"]) for row in rows)]


def _tile(root: str, row: Record, name: str) -> np.ndarray:
    """The middle frame of one collected video, TILE_PX on its longer side: uint8 [h,w,3]."""
    limits, scale = video.Limits.of(DatasetSpec()), TILE_PX / max(row["height"], row["width"])
    height, width = (max(2, round(row[side] * scale)) for side in ("height", "width"))
    fs, path = open_store(f"{root}/{name}")
    with tempfile.TemporaryDirectory() as folder, storing(name):
        local = Path(folder) / "video.mp4"
        with fs.open(path, "rb") as file:
            local.write_bytes(file.read(MAX_FILE_BYTES))
        found = video.probe(local, name, limits)
        middle = video.Window(0, row["frames"] // 2 / row["fps"], 1)
        return video.decode(local, name, found, middle, video.View(height, width, row["fps"], "stretch"), limits)[0]
