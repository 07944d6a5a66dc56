"""What a run will cost: the sum of what is counted, times what was measured."""

from __future__ import annotations

import numpy as np
import pytest

from cogvideo_core.diffusion import auto_masks
from cogvideo_core.diffusion.editing import edit_evaluations
from cogvideo_core.diffusion.inversion import evaluations
from cogvideo_core.models.model import VideoModel, VideoShape
from cogvideo_core.planning import estimate
from cogvideo_core.planning.estimate import Measured
from cogvideo_core.planning.tables import Planned
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.recipes import Preset
from cogvideo_core.settings.specs import EngineSpec, InversionSpec, ModelSpec, RecipeSpec
from cogvideo_core.shapes import build
from cogvideo_core.stages.gate import gate_evaluations

INVERSION = InversionSpec(steps=10)
MEASURED = Measured(step_s=2.0, row_s=3.0, rows=9, edits=4, encode_s=0.5, decode_s=0.25)


@pytest.fixture(scope="module", params=["5b", "5b-i2v", "1.5-5b-i2v"])
def tiny(request: pytest.FixtureRequest) -> VideoModel:
    return VideoModel(build.build_pipeline(request.param), ModelSpec())


def planned(clips: int, edits: int) -> Planned:
    return Planned(clips=clips, edits=edits, refused=1, batches=clips, waves=1, plan="0" * 64)


@pytest.mark.parametrize(("edits", "calls"), [(4, [4]), (8, [4, 4]), (6, [4, 2]), (1, [1]), (0, [])])
def test_an_estimate_adds_up(tiny: VideoModel, edits: int, calls: list[int]) -> None:
    """Inversions with their gate by the time of a step, calls of edits by the time of a row, each clip once and each
    edit once through the VAE; bytes of all levels in 16 bits and of the latents in 32; workers share the time."""
    own, recipe = tiny.shape, RecipeSpec()
    shape = VideoShape(own.frames, own.height, own.width, own.fps)
    found = estimate.estimate(planned(7, 7 * edits), MEASURED, tiny, shape, INVERSION, recipe, workers=2)
    assert found.inversion_s == 7 * (evaluations(INVERSION) + gate_evaluations(INVERSION)) * 2.0
    assert found.edit_s == pytest.approx(7 * sum(edit_evaluations(recipe, 10, n, tiny.layers) for n in calls) * 3.0)
    assert found.vae_s == 7 * 0.5 + 7 * edits * 0.25
    latents = tiny.encode(np.zeros((own.frames, own.height, own.width, 3), np.uint8)).numel()
    assert found.stored_bytes == 7 * latents * (11 * 2 + 4)
    assert found.wall_hours == found.gpu_hours / 2 > 0


def test_the_mean_of_uneven_clips_is_between_its_neighbours(tiny: VideoModel) -> None:
    """2.5 edits a clip cost the mean of 2 and 3."""
    costs = [
        estimate.estimate(planned(2, edits), MEASURED, tiny, tiny.shape, INVERSION, RecipeSpec()).edit_s
        for edits in (4, 5, 6)
    ]
    assert costs[1] == pytest.approx((costs[0] + costs[2]) / 2)


@pytest.mark.parametrize(
    "recipe", [RecipeSpec(), RecipeSpec(reference_prompt="per_half"), RecipeSpec(guidance_scale=1)]
)
def test_measuring_makes_the_calls_of_a_run(tiny: VideoModel, recipe: RecipeSpec) -> None:
    """Every time is positive, the full call has the rows of the recipe, and the table names device and hours."""
    before = tiny.evaluations
    measured = estimate.measure(tiny, tiny.shape, recipe, EngineSpec(edits_per_batch=2), repeats=1)
    assert min(measured[:-1]) > 0 == measured.judge_s and measured.edits == 2
    assert tiny.evaluations - before == 2 * (measured.rows + 1)
    found = estimate.estimate(planned(1, 2), measured, tiny, tiny.shape, INVERSION, recipe)
    table = dict(estimate.rows_of(planned(1, 2), measured, found, "cpu"))
    assert table["device"] == "cpu" and "GPU-hours" in table and table["refused rows"] == "1"


def test_judging_is_planned() -> None:
    """The judges' seconds an edit are measured, and count for every edit; without judges they are 0."""
    shape = VideoShape(9, 48, 48, 8)
    assert estimate.measure_judge(JudgeSpec.none(), shape) == 0
    seconds = estimate.measure_judge(JudgeSpec(text="shapes"), shape, repeats=1)
    assert seconds > 0
    found = estimate.Estimate(0.0, 0.0, 0.0, 100 * seconds, 0, 1)
    assert found.gpu_hours == pytest.approx(100 * seconds / 3600)
    table = dict(estimate.rows_of(planned(1, 2), MEASURED._replace(judge_s=seconds), found, "cpu"))
    assert table["judging"].endswith(f"{seconds:.3f} s an edit")


def test_found_masks_are_counted(tiny: VideoModel) -> None:
    """A row for the source prompt and each target prompt at each level that is looked at, and a line of their own."""
    with_masks: Planned = planned(3, 6) | {"mask_rows": 9}  # type: ignore[typeddict-item]
    found = estimate.estimate(with_masks, MEASURED, tiny, tiny.shape, INVERSION, RecipeSpec())
    plain = estimate.estimate(planned(3, 6), MEASURED, tiny, tiny.shape, INVERSION, RecipeSpec())
    assert found.mask_s == 9 * len(auto_masks.levels(INVERSION.steps)) * MEASURED.step_s
    assert found.gpu_hours == pytest.approx(plain.gpu_hours + found.mask_s / 3600)
    assert dict(estimate.rows_of(with_masks, MEASURED, found, "cpu"))["finding masks"] == f"{found.mask_s:,.1f} s"
    assert "finding masks" not in dict(estimate.rows_of(planned(3, 6), MEASURED, plain, "cpu"))


@pytest.mark.parametrize("names", [["balanced", "fast"], ["bold"]])
def test_each_rival_costs_its_own(tiny: VideoModel, names: list[Preset]) -> None:
    """Edits of rival presets are counted by recipe, each in calls of its own."""
    rivals = RecipeSpec(recipes=names)
    found = estimate.estimate(planned(1, 4 * len(names)), MEASURED, tiny, tiny.shape, INVERSION, rivals)
    costs = [edit_evaluations(rivals.candidate(name), INVERSION.steps, 4, tiny.layers) for name in names]
    assert found.edit_s == pytest.approx(sum(costs) * MEASURED.row_s)
