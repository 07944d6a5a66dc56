"""What the clips of a run share, and the clock of each of their stages."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from cogvideo_core.diffusion.editing import Trajectory
from cogvideo_core.judging.policy import Calibration
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, OutputSpec, RecipeSpec
from cogvideo_core.stages.screen import Screening
from cogvideo_core.stages.units import shape_of
from cogvideo_core.stages.whole import rule_of
from cogvideo_core.storage.ledger import Commit, Ledger, Stage

Record = dict[str, Any]
Step = Callable[
    [str], None
]  # called with the stage's name: before each evaluation of an inversion, after each denoising step


@dataclass(frozen=True)
class Shared:
    """What the edits of one clip share while they are made."""

    source: Callable[[], np.ndarray]  # frames that edits are compared with: what the VAE alone makes of the clip
    calibration: Calibration | None  # of the judge
    trajectories: dict[str, Trajectory] = field(default_factory=dict)  # by key, for the next batch
    masks: dict[str, np.ndarray] = field(default_factory=dict)  # bool [F,H,W] by prompt; "" for all prompts


@dataclass(frozen=True)
class Work:
    """The settings, the model and the ledger that a run's clips share."""

    dataset: DatasetSpec
    inversion: InversionSpec
    recipe: RecipeSpec
    output: OutputSpec
    engine: EngineSpec
    model: VideoModel
    ledger: Ledger
    on_step: Step = lambda stage: None
    judge: JudgeSpec = field(default_factory=JudgeSpec.none)  # without `auto`
    mask: MaskSpec = field(default_factory=MaskSpec)
    screen: ScreenSpec = field(default_factory=ScreenSpec.none)

    def find(self, stage: Stage, key: str) -> Commit | None:
        return self.ledger.find(stage, key, self.output.verify)

    @property
    def screening(self) -> Screening:
        shape = shape_of(self.dataset, self.model)
        rule = rule_of(self.dataset, shape, self.model) if self.dataset.window == "whole" else None
        return Screening(self.screen, self.dataset, shape, self.ledger, self.output.verify, rule)


def worker() -> str:
    """This process, as tables name it."""
    return f"{socket.gethostname()}:{os.getpid()}"


@contextmanager
def timed(record: Record, stage: str) -> Iterator[Record]:
    """Appends a row to record["timings"]: stage, seconds, worker, and what the body puts in (reused, evaluations)."""
    row: Record = {"stage": stage, "reused": False, "evaluations": 0, "worker": worker()}
    started = time.perf_counter()
    yield row
    row["seconds"] = round(time.perf_counter() - started, 4)
    record.setdefault("timings", []).append(row)
