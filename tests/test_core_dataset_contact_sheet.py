"""The picture of a collected dataset."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cogvideo_core.dataset import contact_sheet
from cogvideo_core.errors import ClipError
from cogvideo_core.media import video

COLOURS = {"source": (250, 10, 10), "one": (10, 250, 10), "two": (10, 10, 250)}


def dataset(root: Path, clips: int, edits: tuple[str, ...] = ("one", "two")) -> None:
    """Videos of one colour each, 9 frames of 48 x 32."""
    (root / "dataset/videos").mkdir(parents=True)
    rows = []
    for clip in range(clips):
        for name in ("source", *edits):
            frames = np.full((9, 48, 32, 3), COLOURS[name], np.uint8)
            video.encode(frames, root / f"dataset/videos/{clip}-{name}.mp4", 8)
        about = {"source_file_name": f"videos/{clip}-source.mp4", "frames": 9, "height": 48, "width": 32, "fps": 8}
        rows += [about | {"file_name": f"videos/{clip}-{name}.mp4"} for name in edits]
    (root / "dataset/metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_row_a_clip_with_its_source_on_the_left(tmp_path: Path) -> None:
    """The tiles have the colours of the videos' middle frames, in the dataset's order."""
    dataset(tmp_path, 2)
    picture = np.asarray(Image.open(io.BytesIO(contact_sheet.contact_sheet(str(tmp_path)))), np.int32)
    height, width = contact_sheet.TILE_PX, contact_sheet.TILE_PX * 32 // 48
    assert picture.shape == (2 * height + contact_sheet.GAP_PX, 3 * width + 2 * contact_sheet.GAP_PX, 3)
    for row in range(2):
        for column, colour in enumerate(COLOURS.values()):
            y, x = row * (height + contact_sheet.GAP_PX) + 20, column * (width + contact_sheet.GAP_PX) + 20
            assert abs(picture[y, x] - colour).max() < 40


def test_no_dataset_no_picture(tmp_path: Path) -> None:
    """A root where nothing was collected yet gives nothing, and no error."""
    assert contact_sheet.contact_sheet(str(tmp_path)) == b""


def test_however_large_the_dataset_the_picture_is_small(tmp_path: Path) -> None:
    """A few clips and edits are shown; the rest is not even looked at: its videos need not exist."""
    dataset(tmp_path, 1)
    row = json.loads((tmp_path / "dataset/metadata.jsonl").read_text().splitlines()[0])
    many = [row | {"source_file_name": f"videos/{n // 9}.mp4", "file_name": f"videos/{n}.mp4"} for n in range(900)]
    (tmp_path / "dataset/metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in many))
    shown = contact_sheet.first_clips(str(tmp_path))
    assert [len(rows) for rows in shown] == [contact_sheet.EDITS] * contact_sheet.CLIPS


def test_a_collected_file_that_is_no_video_is_refused(tmp_path: Path) -> None:
    """With the error that such a clip gets, so that the caller can say so."""
    dataset(tmp_path, 1)
    (tmp_path / "dataset/videos/0-one.mp4").write_bytes(b"no video" * 100)
    with pytest.raises(ClipError, match="0-one"):
        contact_sheet.contact_sheet(str(tmp_path))
