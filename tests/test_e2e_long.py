"""A clip of 41 frames with a cut and sound, edited as one through the real flow; and a process that is killed at it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import ffmpeg
import numpy as np
import pytest

from cogvideo_core.media import video
from cogvideo_core.media.tools import ffmpeg_exe
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.shapes import world
from cogvideo_core.storage.ledger import Ledger

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]
FRAMES, CUT, BEEP_S, RATE = 41, 20, 3.5, 16_000
Record = dict[str, Any]


def bounced(seed: int, frames: int) -> np.ndarray:
    there = world.render(world.scene_from_seed(seed))
    return np.concatenate([there, there[-2::-1], there[1:], there[-2::-1]])[:frames]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """long.mp4: two scenes, silent until BEEP_S."""
    path = tmp_path_factory.mktemp("long")
    frames = np.concatenate([bounced(5, CUT), bounced(6, FRAMES - CUT)])
    video.encode(frames, path / "silent.mp4", world.FPS, crf=1)
    sound = ffmpeg.input(f"aevalsrc='if(gte(t,{BEEP_S}),sin(2*PI*440*t),0)':s={RATE}:d={FRAMES / 8}", f="lavfi")
    picture = ffmpeg.input(str(path / "silent.mp4")).video
    out = ffmpeg.output(picture, sound, str(path / "long.mp4"), **{"c:v": "copy", "c:a": "aac"})
    subprocess.run(ffmpeg.compile(out, cmd=[ffmpeg_exe(), "-v", "error"]), check=True)
    (path / "silent.mp4").unlink()
    caption = world.scene_from_seed(5).combination
    row = {"clip": "long.mp4", "source_prompt": caption.caption(), "target_prompts": [caption.caption()]}
    (path / "m.jsonl").write_text(json.dumps(row) + "\n")
    return path


def groups(folder: Path, root: Path, model: str = "shapes", **inversion: Any) -> Record:
    return {
        "dataset": {"source": str(folder / "m.jsonl"), "window": "whole"},
        "model": {"path": model},
        "inversion": {"steps": 6, **inversion},
        "recipe": {"preset": "faithful"},  # so that scenes can be told apart in the edit
        "output": {"root": str(root)},
        "judge": {"preset": "off"},  # at six steps an edit may be a poor one, which is not what is tested
    }


def first_sound(path: Path) -> float:
    """Seconds until something is heard."""
    out = ffmpeg.output(ffmpeg.input(str(path)).audio, "pipe:1", format="s16le", ar=RATE, ac=1)
    ran = subprocess.run(ffmpeg.compile(out, cmd=[ffmpeg_exe(), "-v", "error"]), check=True, capture_output=True)
    return float(np.argmax(np.abs(np.frombuffer(ran.stdout, np.int16).astype(int)) > 5_000)) / RATE


def test_a_long_clip_with_a_cut_and_sound(prefect_harness: None, folder: Path, tmp_path: Path) -> None:
    """One row of two scenes; edit and source are as long as the clip, at the model's rate, with the sound in its place;
    each scene of the edit looks like its own scene of the source; a second run makes nothing."""
    from flows.edit_dataset import edit_dataset

    counts: Any = edit_dataset(**groups(folder, tmp_path / "run"))
    assert (counts["clips"], counts["failed"], counts["dataset_edits"], counts["edits_made"]) == (1, 0, 1, 1)
    (row,) = [json.loads(line) for line in (tmp_path / "run/dataset/metadata.jsonl").read_text().splitlines()]
    assert (row["frames"], row["fps"], row["scenes"], row["trimmed_frames"]) == (FRAMES, world.FPS, 2, 0)
    assert row["windows"] > 2 and row["screen_cuts"] == 1 and row["score_preserved"] > 0
    limits, shown = video.Limits.of(DatasetSpec()), []
    for name in ("file_name", "source_file_name"):
        path = tmp_path / "run/dataset" / row[name]
        found = video.probe(path, "x", limits)
        assert (found.frames, found.fps, found.has_audio) == (FRAMES, world.FPS, True)
        assert first_sound(path) == pytest.approx(BEEP_S, abs=0.08)
        view = video.View(row["height"], row["width"], row["fps"])
        shown.append(video.decode(path, "x", found, video.Window(0, 0.0, FRAMES), view, limits).astype(int))
    edit, source = shown
    for begin, stop, other in ((0, CUT, CUT), (CUT, FRAMES, 0)):
        here = np.abs(edit[begin:stop] - source[begin:stop]).mean()
        assert here < np.abs(edit[begin:stop] - source[other : other + 1]).mean()
    again: Any = edit_dataset(**groups(folder, tmp_path / "run"))
    assert (again["edits_made"], again["edits_reused"], again["evaluations"]) == (0, 1, 0)


KILLED = """
import json, os, signal, sys
from cogvideo_core.models import model
from cogvideo_core.planning import plan
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.stages import edit, progress, trajectory
from cogvideo_core.stages.encode import encode_clip
from cogvideo_core.stages.work import Work
from cogvideo_core.storage.ledger import Ledger

manifest, folder, root, calls = *sys.argv[1:4], int(sys.argv[4])
inversion = InversionSpec(method="fixed_point", steps=6, gate="off")
about = DatasetSpec(source=manifest, window="whole"), inversion, RecipeSpec(), OutputSpec(root=root), EngineSpec()
work = Work(*about, model.load(ModelSpec(path=folder)), Ledger(root), screen=ScreenSpec())
(record,) = plan.planned_clips(work.dataset, work.model, screen=work.screen, ledger=work.ledger)
record = trajectory.invert_clip(work, encode_clip(work, record))
before, keep, progress.KEEP_EVERY_S = work.model.evaluations, progress.Answers._keep, 0.0

def counted(self, v):
    global calls
    keep(self, v)
    calls -= 1
    if not calls:
        os.kill(os.getpid(), signal.SIGKILL)

progress.Answers._keep = counted
(row,) = edit.edit_clip(work, record)["edits"]
print(json.dumps([work.model.evaluations - before, row["edit_key"]]))
"""


def edited(folder: Path, model: Path, root: Path, calls: int = -1) -> tuple[int, bytes] | None:
    """The edit's evaluations and its file, made in a process of its own; None where that is killed, after so many calls
    of the transformer."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(folder / "m.jsonl"), str(model), str(root), str(calls)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=400, check=False)
    if done.returncode == -signal.SIGKILL:
        return None
    assert done.returncode == 0, done.stderr[-2000:]
    spent, key = json.loads(done.stdout.splitlines()[-1])
    ledger = Ledger(str(root))
    commit = ledger.read("edits", key)
    return int(spent), ledger.objects.read(ledger.object_name(commit, "edit.mp4"))


def test_a_killed_edit_goes_on_where_it_was(folder: Path, tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    """SIGKILL in the first scene and in the second: what was computed is not computed again, the edit is the same byte
    for byte, and nothing of the unfinished one is left."""
    calm = edited(folder, tiny_pipeline_folder, tmp_path / "calm")
    assert calm is not None and edited(folder, tiny_pipeline_folder, tmp_path / "hurt", 4) is None
    ledger = Ledger(str(tmp_path / "hurt"))
    assert len(list(ledger.units("progress"))) == 4 and not list(ledger.units("edits"))
    assert edited(folder, tiny_pipeline_folder, tmp_path / "hurt", 14) is None
    assert len(list(ledger.units("progress"))) == 18
    last = edited(folder, tiny_pipeline_folder, tmp_path / "hurt")
    assert last is not None and last[1] == calm[1]
    assert calm[0] - 18 * 3 <= last[0] < calm[0] - 18 and not list(ledger.units("progress"))
