"""A whole run on the core alone: toy model, toy videos, the real ledger, plan, batches and collection.

Tests import `run`; as a program it serves runs, so that one start of Python pays for many processes that are killed:
each line of standard input is {"root": ..., "kill_after_s": seconds or null}, and gets an answer as a line of JSON.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from cogvideo_core.dataset import tables
from cogvideo_core.diffusion.editing import edit_evaluations
from cogvideo_core.diffusion.inversion import seeded_noise
from cogvideo_core.diffusion.schedule import Schedule
from cogvideo_core.media import video
from cogvideo_core.models.memory import Room
from cogvideo_core.models.model import VideoShape
from cogvideo_core.planning import tables as tables_planning
from cogvideo_core.settings.specs import (
    DatasetSpec,
    EngineSpec,
    InversionSpec,
    ModelSpec,
    OutputSpec,
    RecipeSpec,
    fingerprint,
)
from cogvideo_core.stages import edit, trajectory
from cogvideo_core.stages import encode as encode_stages
from cogvideo_core.stages.failures import attempt
from cogvideo_core.stages.prompts import embed_missing
from cogvideo_core.stages.work import Work
from cogvideo_core.storage.ledger import Ledger

Record = dict[str, Any]
STEPS, EDITS_PER_BATCH = 6, 2
PROMPTS = ("a blue circle", "a red square", "a green triangle")
INVERSION = STEPS * 2  # evaluations
RECIPE = RecipeSpec(start_at=0.0, reference_end=0.5, guidance_end=1.0)
LONGEST_BATCH = max(INVERSION, edit_evaluations(RECIPE, STEPS, EDITS_PER_BATCH, 2))


class ToyModel:
    """What the core asks of a model, as smooth functions of small tensors; counts rows, also into a file."""

    spec = ModelSpec(path="toy")
    fingerprints: dict[str, str] = {}  # noqa: RUF012 - as VideoModel has it
    fingerprint, layers, text_tokens, device = "toy", 2, 2, torch.device("cpu")
    shape, front_padding, image_to_video = VideoShape(9, 16, 16, 8), 0, False

    def __init__(self, counted: Path | None = None) -> None:
        self.evaluations, self.counted, self.room = 0, counted, Room()

    def schedule(self, steps: int, spacing: str = "trailing") -> Schedule:
        return Schedule((-1, *(range(9, 10 * steps, 10))), tuple(1.5 * level / steps for level in range(steps + 1)))

    def embed(self, prompts: list[str]) -> Tensor:
        seeds = [int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") for prompt in prompts]
        return torch.stack([seeded_noise((2, 4), seed) for seed in seeds])

    def encode(self, frames: np.ndarray) -> Tensor:
        return torch.from_numpy(frames[:3, :8, :8, :2].astype(np.float32)).permute(0, 3, 1, 2) / 128 - 1

    def crossing(self, x: Tensor) -> Tensor:
        return x

    def decode(self, latents: Tensor) -> np.ndarray:
        flat = (latents.flatten() * 60 + 128).clamp(0, 255).to(torch.uint8).numpy()
        return np.resize(np.append(flat, 0), (9, 16, 16, 3))  # no two frames are equal

    def velocity(self, x: Tensor, t: int, text: Tensor, reference: Any = None) -> Tensor:
        self.evaluations += len(x)
        if self.counted is not None:
            with self.counted.open("ab", buffering=0) as sink:
                sink.write(b"." * len(x))
        mood = text.mean((1, 2))[:, None, None, None, None]
        seen = x[: reference.rows].mean() if reference is not None else 0.0
        return torch.tanh(x) * 0.3 + 0.2 * mood + 0.1 * seen + 0.0001 * t

    def one_row(self, text: Tensor, image: Tensor | None = None) -> Callable[[Tensor, int], Tensor]:
        return lambda x, t: self.velocity(x[None], t, text)[0]


def toy_decode(path: Path, *_: Any) -> np.ndarray:
    seed = int.from_bytes(hashlib.sha256(path.read_bytes()).digest()[:4], "big")
    return np.random.default_rng(seed).integers(0, 256, (9, 16, 16, 3), np.uint8)


def toy_encode(frames: np.ndarray, path: Path, *_: Any) -> None:
    path.write_bytes(b"toy" + frames.tobytes())


def install(patch: Callable[[Any, str, Any], None] = setattr) -> None:
    """Videos without ffmpeg, and batches of a fixed size."""
    found = SimpleNamespace(has_audio=False, as_json=lambda: {})
    patch(video, "probe", lambda *_: found)
    patch(video, "treated", lambda path, clip, found, *_: found)
    patch(video, "windows", lambda *_: [video.Window(0, 0.0, 9)])
    patch(video, "decode", toy_decode)
    patch(video, "decode_counted", lambda *given: (video.decode(*given), SimpleNamespace(damaged=0, frames=9)))
    patch(video, "encode", toy_encode)
    patch(edit, "batch_size", lambda work, record, recipe: EDITS_PER_BATCH)


def records(folder: Path, count: int) -> list[Record]:
    """Clips that lie in `folder`, as the plan has them."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for index in range(count):
        name = f"clip{index}"
        (folder / f"{name}.mp4").write_bytes(name.encode() * 50)
        about: Record = dict.fromkeys(tables_planning.CLIP_TEXTS, "") | {
            "clip": f"{name}.mp4",
            "name": name,
            "stamp": "1",
        }
        about |= {"uri": str(folder / f"{name}.mp4")}
        about |= {"size": 50 * len(name), "window": 0, "source_prompt": "a circle", "target_prompts": list(PROMPTS)}
        made.append(about | {"source_id": fingerprint(about | {"uri": ""})})
    return made


def settings(root: str, verify: str = "size", **inversion: Any) -> tuple[Any, ...]:
    return (
        DatasetSpec(source="toy"),
        InversionSpec(**({"method": "fixed_point", "steps": STEPS, "iterations": 1, "gate": "off"} | inversion)),
        RECIPE,
        OutputSpec(root=root, verify=verify),  # type: ignore[arg-type]
        EngineSpec(edits_per_batch=EDITS_PER_BATCH),
    )


def run(
    root: str, clips_folder: Path, count: int = 2, model: ToyModel | None = None, retries: int = 0, **more: Any
) -> list[Record]:
    """Plans, encodes, inverts, edits and collects; failures are rows, as in a real run."""
    groups = settings(root, **more)
    work = Work(*groups, model or ToyModel(), Ledger(root))  # type: ignore[arg-type]
    tables_planning.write_plan(root, records(clips_folder, count), work.recipe, work.engine)
    planned, done = [record for batch in tables_planning.read_batches(root) for record in batch], []
    wanted = ["", "a circle", *PROMPTS]
    attempt(
        lambda r: r | {"new": embed_missing(work.model, work.ledger, wanted, work.output.verify)},
        {},
        "encode",
        retries,
        0.0,
    )
    for record in planned:
        encoded = attempt(lambda r: encode_stages.encode_clip(work, r), record, "encode", retries, 0.0)
        inverted = attempt(lambda r: trajectory.invert_clip(work, r), encoded, "invert", retries, 0.0)
        done.append(attempt(lambda r: edit.edit_clip(work, r), inverted, "edit", retries, 0.0))
    about = {"recipe": work.recipe.as_json(), "output": {"keep_trajectories": work.output.keep_trajectories}}
    tables.collect_run(work.output, work.ledger, done, about)
    return done


def result(root: str) -> Record:
    """What must be the same after any interruption: keys, bytes of edits and states, tables but that of timings, and
    what people load."""
    ledger = Ledger(root)
    objects = ledger.objects
    found: Record = {"edits": {c.key: objects.read(ledger.object_name(c, "edit.mp4")) for c in ledger.units("edits")}}
    found["states"] = {c.key: [step["sha256"] for step in c.record["steps"]] for c in ledger.units("trajectories")}
    for row in (rows := tables.read_table(root, "edits")):
        del row["edit_object"], row["source_object"]  # they name the attempt
    found |= {"rows": rows, "errors": tables.read_table(root, "errors")}
    return found | {name: objects.read(name) for name in [*(name for name, _ in objects.walk("dataset")), "index.html"]}


def serve() -> None:
    install()
    for line in sys.stdin:
        task = json.loads(line)
        started, child = time.perf_counter(), os.fork()
        if child == 0:
            root = Path(task["root"])
            run(str(root / "run"), root / "clips", model=ToyModel(root / "evaluations"))
            os._exit(0)
        if task["kill_after_s"] is not None:
            timer = threading.Timer(task["kill_after_s"], os.kill, (child, signal.SIGKILL))
            timer.start()
            _, status = os.waitpid(child, 0)
            timer.cancel()
            timer.join()
        else:
            _, status = os.waitpid(child, 0)
        answer = {"killed": os.WIFSIGNALED(status), "ok": status == 0, "seconds": time.perf_counter() - started}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    serve()
