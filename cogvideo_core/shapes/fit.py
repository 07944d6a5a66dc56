"""A resumable training loop: weights, their average, optimiser, a checkpoint file and a log."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn


def one_cycle(step: int, total: int, peak: float, warmup: float = 0.05) -> float:
    """Learning rate: linear up over the first `warmup` part, cosine down to a hundredth."""
    part = step / total
    if part < warmup:
        return peak * (part / warmup + 0.01)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (part - warmup) / (1 - warmup))))


def multiplies_bfloat16(device: str = "cpu") -> bool:
    """Whether the device multiplies bfloat16 natively. A processor that does not is 50 times slower in it than in
    float32 (one core of an AVX2 machine: 1 against 50 GFLOP/s); one that does is 7 times faster."""
    if device.startswith("cuda"):
        return torch.cuda.is_bf16_supported(including_emulation=False)
    found: bool = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return found


def autocast(device: str) -> torch.autocast:
    """bfloat16 where it is fast, else float32 throughout."""
    return torch.autocast(device.split(":")[0], torch.bfloat16, enabled=multiplies_bfloat16(device))


class Run:
    """One resumable training loop: model, average, optimiser, a checkpoint file and a log."""

    def __init__(self, out: Path, name: str, model: nn.Module, steps: int, peak: float, ema: float) -> None:
        self.file, self.log_file, self.name, self.model = out / f"{name}.pt", out / "log.jsonl", name, model
        self.steps, self.peak, self.step = steps, peak, 0
        self.device = next(model.parameters()).device.type
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
        )
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema))
        self.started = time.monotonic()
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]

    @property
    def averaged(self) -> Any:
        """The model with the averaged weights."""
        return self.average.module

    def save(self) -> None:
        temporary = self.file.with_suffix(".part")
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }
        torch.save(state, temporary)
        os.replace(temporary, self.file)

    def log(self, **values: float) -> None:
        row = {"stage": self.name, "step": self.step, "seconds": round(time.monotonic() - self.started, 1)} | values
        with self.log_file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def train(self, loss_of: Callable[[int], Tensor], check: Callable[[], dict[str, float]], every: int) -> None:
        """`loss_of(step)` is the loss of that step's batch, drawn from the step number alone."""
        recent = []
        while self.step < self.steps:
            for group in self.optimiser.param_groups:
                group["lr"] = one_cycle(self.step, self.steps, self.peak)
            with autocast(self.device):
                loss = loss_of(self.step)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
            self.average.update_parameters(self.model)
            self.step += 1
            recent.append(float(loss.detach()))
            if self.step % 100 == 0 or self.step == self.steps:
                self.log(loss=round(float(np.mean(recent)), 5), **(check() if self.step % every == 0 else {}))
                recent.clear()
                self.save()
