"""How the GPU's part of the engine's benchmark puts whole jobs together from the time of one call of each kind."""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest
import torch

from cogvideo_core.diffusion import attention
from cogvideo_core.diffusion.editing import edit_evaluations
from cogvideo_core.diffusion.inversion import evaluations
from cogvideo_core.settings.presets import PRESET_INVERSIONS, PRESETS
from cogvideo_core.stages.gate import gate_evaluations

BENCH = Path(__file__).parent / "benchmarks" / "engine_gpu.py"
LAYERS = 42


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("engine_gpu", BENCH)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules["engine_gpu"] = module  # its dataclasses look there
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("name", ["balanced", "fast"])
@pytest.mark.parametrize("edits", [1, 4, 8])
def test_a_job_counts_every_evaluation_once(bench: ModuleType, name: str, edits: int) -> None:
    """Where a row takes a second, a whole job takes as many as it has evaluations."""
    inversion, recipe = PRESET_INVERSIONS[name], PRESETS[name]
    times = bench.Times(1.0, 2 * edits + 1.0, edits + 1.0)
    wanted = edit_evaluations(recipe, inversion.steps, edits, LAYERS)
    wanted += evaluations(inversion) + gate_evaluations(inversion)
    assert times.job(name, edits, LAYERS) == pytest.approx(wanted / edits)


def test_parts_that_fail_or_come_too_late_leave_the_others(bench: ModuleType) -> None:
    """What was measured before an error stays; the error is told in one line; after the minutes nothing begins."""

    def broken() -> object:
        yield {"s": 1.0}
        raise RuntimeError("no kernel\nfor this")

    one = bench.Bench("cpu")
    assert one.part("first", broken) == [{"s": 1.0}]
    assert one.failed == {"first": "RuntimeError: no kernel for this"}
    one.ends = time.monotonic() - 1
    assert one.part("second", broken) == [] and one.left_out == ["second"]


def test_the_scripts_way_of_attending_gives_the_same(bench: ModuleType) -> None:
    """With the reference's keys copied behind each row's own, a layer gives what our two parts give, within 1e-5."""
    q, k, v = (torch.randn(3, 2, 9, 16, generator=torch.Generator().manual_seed(n)) for n in range(3))
    seen = attention.Reference(1, range(1), 0.5).at(0)
    ours = attention.attend(q, k, v, seen)
    with bench.concatenating():
        copied = attention.attend(q, k, v, seen)
    assert not torch.equal(copied, ours) and (copied - ours).abs().max() < 1e-5
