"""One video in every form it may come in goes through planning and encoding as one and the same work."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from cogvideo_core.inputs import sources
from cogvideo_core.media import video
from cogvideo_core.models import model
from cogvideo_core.planning import plan
from cogvideo_core.settings.specs import (
    DatasetSpec,
    EngineSpec,
    InversionSpec,
    ModelSpec,
    OutputSpec,
    RecipeSpec,
)
from cogvideo_core.shapes import build, world
from cogvideo_core.stages.encode import encode_clip, read_latents
from cogvideo_core.stages.work import Work
from cogvideo_core.storage.ledger import Ledger

VIDEO = pa.struct({"bytes": pa.binary(), "path": pa.string()})


@pytest.fixture(scope="module")
def tiny() -> model.VideoModel:
    return model.VideoModel(build.build_pipeline("5b"), ModelSpec())


@pytest.fixture(scope="module")
def forms(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Nine frames as mp4: a file, a member of a tar, a cell of Parquet and of Arrow; and as pictures."""
    root = tmp_path_factory.mktemp("forms")
    frames = world.render(world.scene_from_seed(1))[:9]
    video.encode(frames, root / "a.mp4", 8)
    data = (root / "a.mp4").read_bytes()
    (root / "file.jsonl").write_text(json.dumps({"clip": "a.mp4", "target_prompts": ["x"]}))
    with tarfile.open(root / "clips.tar", "w") as tar:
        for name, text in (("0.json", b'{"target_prompts": ["x"]}'), ("0.mp4", data)):
            info = tarfile.TarInfo(name)
            info.size = len(text)
            tar.addfile(info, io.BytesIO(text))
    table = pa.table({"video": pa.array([{"path": "a.mp4", "bytes": data}], VIDEO), "target_prompts": ["x"]})
    pq.write_table(table, root / "cells.parquet")
    with pa.ipc.new_stream(root / "cells.arrow", table.schema) as writer:
        writer.write_table(table)
    (root / "frames").mkdir()
    for number, frame in enumerate(frames):
        Image.fromarray(frame).save(root / "frames" / f"{number}.png")
    for fps in (8, 4):
        row = {"clip": "frames", "fps": fps, "target_prompts": ["x"]}
        (root / f"frames{fps}.jsonl").write_text(json.dumps(row))
    return root


def encoded(source: Path, root: Path, tiny: model.VideoModel) -> dict[str, Any]:
    dataset = DatasetSpec(source=str(source), frames=9)
    output = OutputSpec(root=str(root))
    work = Work(dataset, InversionSpec(), RecipeSpec(), output, EngineSpec(), tiny, Ledger(output.root))
    (clip,) = sources.read_clips(dataset)
    record = encode_clip(work, dict(clip))
    again = encode_clip(work, dict(clip))
    assert again["timings"][-1]["reused"] and again["latents_key"] == record["latents_key"]
    return record | {"latents": read_latents(work, record["latents_key"])["latents"].numpy()}


def test_every_form_of_a_file_is_the_same_work(forms: Path, tiny: model.VideoModel, tmp_path: Path) -> None:
    """File, tar, Parquet and Arrow have one content, so the second to the fourth find what the first has made."""
    names = ("file.jsonl", "clips.tar", "cells.parquet", "cells.arrow")
    records = [encoded(forms / name, tmp_path, tiny) for name in names]
    assert len({record["latents_key"] for record in records}) == len({record["source_key"] for record in records}) == 1
    assert len({record["source_id"] for record in records}) == 4
    assert [record["timings"][0]["reused"] for record in records] == [False] * 4  # each file is opened once
    assert len(list((tmp_path / "latents").rglob("commit.json"))) == 1


def test_frames_go_through_as_a_video_of_their_rate(forms: Path, tiny: model.VideoModel, tmp_path: Path) -> None:
    """At the model's rate they are taken one by one, at another resampled; the rate is part of the key."""
    at_8, at_4 = (encoded(forms / f"frames{fps}.jsonl", tmp_path, tiny) for fps in (8, 4))
    right = tiny.encode(np.stack([np.asarray(Image.open(forms / "frames" / f"{n}.png")) for n in range(9)]))
    assert (at_8["latents"] == right.numpy()).all()
    assert at_8["latents_key"] != at_4["latents_key"] and at_8["source_id"] != at_4["source_id"]
    held = tiny.encode(np.stack([np.asarray(Image.open(forms / "frames" / f"{(n + 1) // 2}.png")) for n in range(9)]))
    assert (at_4["latents"] == held.numpy()).all()  # of two that are equally near, the later


def test_planning_opens_every_form(forms: Path, tiny: model.VideoModel) -> None:
    """With a probe the plan knows sizes, rate and content, and windows are counted."""
    for name in ("clips.tar", "cells.parquet", "cells.arrow", "frames8.jsonl"):
        spec = DatasetSpec(source=str(forms / name), frames=9, window="all")
        (record,) = plan.planned_clips(spec, tiny, probe=True)
        assert (record["source_frames"], record["source_height"], record["source_width"]) == (9, 48, 48), name
        assert (record["source_fps"], record["seconds"]) == (8.0, 1.125)
