"""The study of inversion: its inverters against closed forms, row 0 against ours, the whole on a tiny model."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from cogvideo_core.diffusion import ddim, inversion
from cogvideo_core.diffusion.schedule import schedule_from_config
from cogvideo_core.errors import BadSpec
from cogvideo_core.models import model
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.shapes import build
from cogvideo_core.study import bench as benches
from cogvideo_core.study import candidates, causes, chart, page, run, seed_attempt
from cogvideo_core.study import inversion as study

ROOT = Path(__file__).parents[1]
CONFIG = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "prediction_type": "v_prediction",
    "rescale_betas_zero_snr": True,
    "clip_sample": False,
}
MEAN, STD = 0.4, 0.3


class Gaussian:
    """The velocity of N(MEAN, STD²) data at every timestep of the training grid; counts its calls."""

    def __init__(self) -> None:
        whole = schedule_from_config(CONFIG, 1000)
        self.theta, self.calls = dict(zip(whole.timesteps, whole.thetas, strict=True)), 0

    def __call__(self, x: Tensor, t: int) -> Tensor:
        self.calls += 1
        c, s = math.cos(self.theta[t]), math.sin(self.theta[t])
        return c * s * (1 - STD**2) / (c**2 * STD**2 + s**2) * (x - c * MEAN) - s * MEAN


def clean(dtype: torch.dtype = torch.float64) -> Tensor:
    return MEAN + STD * torch.randn(2, 3, 4, 5, 5, generator=torch.Generator().manual_seed(1), dtype=dtype)


def flow(x_0: Tensor, theta: float) -> Tensor:
    c, s = math.cos(theta), math.sin(theta)
    return c * MEAN + math.sqrt(c**2 * STD**2 + s**2) / STD * (x_0 - MEAN)


def states(inverter: Callable[..., Any], steps: int = 50, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return list(inverter(Gaussian(), clean(dtype), schedule_from_config(CONFIG, steps)))


def error(inverter: Callable[..., Any], steps: int) -> float:
    """Largest error of x_T against the true flow."""
    theta = schedule_from_config(CONFIG, steps).thetas[-1]
    return float((states(inverter, steps)[-1] - flow(clean(), theta)).abs().max())


CONVERGING = {
    "explicit": candidates.explicit,
    "scheduled": partial(candidates.scheduled, iterations=[15, 3, 1]),
    "solved_first": candidates.solved_first,
    "bdia": candidates.bdia,
}


@pytest.mark.parametrize("name", CONVERGING)
def test_inverters_come_to_the_true_flow(name: str) -> None:
    """Eight times the steps leave a quarter of the error of those that solve the implicit step, and three fifths of
    the others', whose errors cancel in part."""
    coarse, fine = (error(CONVERGING[name], steps) for steps in (25, 200))
    assert fine < coarse * (0.25 if name in ("scheduled", "solved_first") else 0.6) and fine < 0.4


@pytest.mark.parametrize(
    ("inverter", "calls"),
    [
        (candidates.explicit, 20),
        (partial(candidates.scheduled, iterations=[5, 2, 1]), 20 + 5 + 2 + 18),
        (candidates.solved_first, 20 + 15),
        (partial(candidates.forward_noised, levels=2), 18),
        (candidates.k_rnr, 0),
        (candidates.bdia, 20),
    ],
)
def test_each_yields_a_state_a_level_at_its_cost(inverter: Callable[..., Any], calls: int) -> None:
    """N + 1 states, the clean latents first, after as many evaluations as its docstring says."""
    velocity = Gaussian()
    found = list(inverter(velocity, clean(), schedule_from_config(CONFIG, 20)))
    assert len(found) == 21 and torch.equal(found[0], clean()) and velocity.calls == calls


def test_equal_schedules_of_iterations_are_fixed_point_inversion() -> None:
    """The same number on every level gives the very same states."""
    theirs = states(partial(inversion.fixed_point_inversion, iterations=3))
    ours = states(partial(candidates.scheduled, iterations=[3]))
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_bdia_comes_back_exactly(dtype: torch.dtype, most: float) -> None:
    """From its last two states the clean latents return to 1e-12 in float64 and 1e-4 in float32."""
    found, schedule = states(candidates.bdia, dtype=dtype), schedule_from_config(CONFIG, 50)
    back = candidates.bdia_sampled(Gaussian(), found[-1], found[-2], schedule)
    assert float((back - clean(dtype)).abs().max()) < most


def test_stored_residuals_come_back_exactly() -> None:
    """DDIM inversion misses; with the residuals of every level it does not, for the room of 50 more states."""
    found, schedule = states(inversion.ddim_inversion, dtype=torch.float32), schedule_from_config(CONFIG, 50)
    missed = candidates.residuals(Gaussian(), found, schedule)
    back = candidates.sampled_with(Gaussian(), found[-1], missed, schedule)
    *_, plain = ddim.sample(Gaussian(), found[-1], schedule)
    assert float((back - found[0]).abs().max()) < 1e-5 < 0.01 < float((plain - found[0]).abs().max())
    assert candidates.bytes_of(*missed) == 50 * 4 * found[0][0].numel()


def test_noise_put_in_has_the_marginals_of_its_level() -> None:
    """Forward-noised levels are cos θ · x_0 + sin θ · ε; K-RNR repeats that at the level below the terminal one."""
    schedule, noise = schedule_from_config(CONFIG, 10), inversion.seeded_noise(clean().shape, 0).double()
    found = states(partial(candidates.forward_noised, levels=3), 10)
    assert torch.allclose(found[3], ddim.noised(clean(), noise, schedule.thetas[3]))
    once = ddim.noised(clean(), noise, schedule.thetas[-2])
    (*_, last) = states(partial(candidates.k_rnr, repeats=2), 10)
    assert torch.allclose(last, ddim.noised(clean(), once, schedule.thetas[-2]), atol=1e-6)


@pytest.fixture(scope="module")
def tiny() -> model.VideoModel:
    return model.VideoModel(build.build_pipeline("5b"), ModelSpec(device="cpu"))


def test_row_0_is_our_ddim_inversion(tiny: model.VideoModel) -> None:
    """diffusers with its scheduler swapped finds the x_T of our `ddim`, and samples back to the same, to 1e-5; guidance
    between two equal prompts changes nothing; the pipeline has its own scheduler again."""
    bench = benches.held_out(tiny, 2, steps=10)
    own = tiny.pipe.scheduler
    x_t, back = seed_attempt.attempt(tiny, bench.x_0, bench.null, 1.0, 10)
    ours = study.inverted(bench, study.by_settings(method="ddim", steps=10), "null")
    ours_back = study.sampled(bench, ours.states[-1], bench.rows("null"))[0]
    assert torch.allclose(x_t, ours.states[-1], atol=1e-5) and torch.allclose(back, ours_back, atol=1e-5)
    guided, _ = seed_attempt.attempt(tiny, bench.x_0, bench.null, 6.0, 10)
    assert torch.allclose(guided, x_t, atol=1e-4) and tiny.pipe.scheduler is own


def test_the_scheduler_mismatch_is_that_of_2b() -> None:
    """A 2B-like configuration without its shift has three times the signal-to-noise ratio at every timestep but the
    last: what `other_schedule` makes of a schedule without one."""
    right, dropped = (schedule_from_config(CONFIG | {"snr_shift_scale": shift}, 10) for shift in (3.0, 1.0))
    ratios = [
        math.tan(a) ** 2 / math.tan(b) ** 2 for a, b in zip(right.thetas[1:-2], dropped.thetas[1:-2], strict=True)
    ]
    assert right.timesteps == dropped.timesteps and all(2.5 < ratio < 3.6 for ratio in ratios), ratios


def test_the_study_on_a_tiny_model(tiny: model.VideoModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All promised rows with all promised fields, evaluations as counted, exact rows exact, and a page with figures."""
    bench = benches.held_out(tiny, 2, steps=6)
    names = ("ddim", "ddim_null", "fixed_point_5", "multistep_15", "multistep_30_3", "none")
    monkeypatch.setattr(study, "INVERTERS", {name: study.INVERTERS[name] for name in names})
    kept, told = study.Kept(bench), list[study.Row]()
    rows = study.study(bench, kept, keep=told.append)
    by_name = {row["inverter"]: row for row in rows}
    starts = {"k_rnr_inverted_2", "k_rnr_inverted_3", "k_rnr_inverted_6", "ddim_rescaled", "multistep_15_rescaled"}
    assert {"diffusers_guidance_6", *names, *starts, "ddim_trdi", "ddim_by_error", "bdia"} <= set(by_name)
    assert [row["inverter"] for row in told] == list(by_name)
    promised = {"evaluations", "recon_db", "recon_low", "recon_high", "x_T_std", "exact", "stored_bytes"}
    assert all(promised <= set(row) and row["recon_low"] <= row["recon_db"] <= row["recon_high"] for row in rows)
    costs = {"ddim": 6, "fixed_point_5": 36, "multistep_15": 21, "none": 0, "diffusers_guidance_6": 12, "bdia": 6}
    costs |= {"k_rnr_inverted_3": 6, "ddim_rescaled": 6, "ddim_trdi": 6, "multistep_15_by_error": 21}
    assert {name: by_name[name]["evaluations"] for name in costs} == costs
    assert by_name["multistep_15"]["recon_db"] > by_name["ddim"]["recon_db"] + 5
    assert by_name["ddim_rescaled"]["x_T_std"] == pytest.approx(1, abs=0.01) and by_name["k_rnr_solved_3"]["level"] == 5
    assert len(by_name["ddim_by_error"]["timesteps"]) == 6
    exact = [row for row in rows if row["exact"]]
    assert len(exact) == 2 and all(row["recon_db"] > 60 and row["stored_bytes"] > 0 for row in exact)
    found = causes.causes(bench, kept)
    assert found[0]["recon_db"] == by_name["multistep_15"]["recon_db"] and len(found) == 11
    quiet = causes.causes(bench, kept, pytest.fail, {row["cause"]: row for row in found})
    assert quiet == found
    copy = tmp_path / "inversion.md"
    copy.write_text((ROOT / "docs/inversion.md").read_text("utf-8"), "utf-8")
    about = {"rows": rows, "causes": found, "model": "tiny", "clips": 2, "steps": 6, "first_turn": 40.0}
    about |= {"combined": [], "published": [], "findings": []}
    page.write(copy, json.loads(json.dumps(about)))
    assert "Model `tiny`, 2 held-out clips" in copy.read_text("utf-8")
    for name in ("inversion_pareto.png", "inversion_levels.png"):
        with Image.open(tmp_path / "figures" / name) as picture:
            assert picture.size == (chart.WIDTH, chart.HEIGHT)


def test_rows_of_inverters_that_left_stay_with_their_commit(tmp_path: Path) -> None:
    """They come from the earlier file, if that was of the same model, clips and steps; others are not kept."""
    about = {"fingerprint": "f", "clips": 2, "steps": 6}
    rows = [{"inverter": name, "recon_db": 1.0} for name in ("lost", "ddim")]
    file = tmp_path / "out.json"
    file.write_text(json.dumps(about | {"rows": rows}), "utf-8")
    assert run.kept_rows(file, about, {"lost": "abc1234"}) == [rows[0] | {"commit": "abc1234"}]
    assert run.kept_rows(file, about | {"fingerprint": "g"}, {"lost": "abc1234"}) == []
    assert run.kept_rows(tmp_path / "none.json", about, {"lost": "abc1234"}) == []


def test_an_interval_covers_the_mean_it_was_drawn_around() -> None:
    """95 % of the mean of 400 standard normal numbers is about 0.2 wide; of equal numbers nothing."""
    low, high = benches.interval(np.random.default_rng(1).standard_normal(400))
    assert 0.15 < high - low < 0.25 and low < 0.1 < 0.2 + high
    assert benches.interval([3.0, 3.0]) == (3.0, 3.0)


def test_white_noise_has_the_figures_of_white_noise() -> None:
    """1, 1, 1, 0, 0 within 3 %; a blurred picture has its power at low frequencies and correlated neighbours."""
    noise = torch.randn(4, 3, 8, 16, 16, generator=torch.Generator().manual_seed(0))
    found = list(benches.noise_statistics(noise).values())
    assert found == pytest.approx([1, 1, 1, 0, 0], abs=0.06)
    blurred = benches.noise_statistics((noise + noise.roll(1, -1) + noise.roll(1, -2)) / 3)
    assert blurred["x_T_low"] > 2 * blurred["x_T_high"] and blurred["x_T_neighbour"] > 0.2


def test_a_chart_puts_points_where_they_belong() -> None:
    """Ends of the axes are the corners of the frame; the middle of a logarithmic axis is the geometric mean."""
    x, y = chart.Axis("x", 10, 1000, [], log=True), chart.Axis("y", 0, 10, [])
    right, bottom = chart.WIDTH - chart.RIGHT, chart.HEIGHT - chart.BOTTOM
    assert chart.at(x, y, 10, 0) == (chart.LEFT, bottom) and chart.at(x, y, 1000, 10) == (right, chart.TOP)
    assert chart.at(x, y, 100, 5) == pytest.approx(((chart.LEFT + right) / 2, (chart.TOP + bottom) / 2))


def test_a_page_without_its_marks_or_folder_is_refused(tmp_path: Path) -> None:
    """The sentence names the mark, or the folder, before anything is computed; a page that is not there is begun."""
    with pytest.raises(BadSpec, match="<!-- inverters -->"):
        page.between("no marks", "inverters", "x")
    assert page.between("a <!-- x --> old <!-- /x --> b", "x", "new") == "a <!-- x -->\nnew\n<!-- /x --> b"
    wanted = run.Wanted(ModelSpec(path="no model"), 2, tmp_path / "out.json", tmp_path / "none" / "page.md")
    with pytest.raises(BadSpec, match=r"field page: the folder of .*page\.md"):
        run.inversion_study(wanted, print)
    bare = tmp_path / "bare.md"
    bare.write_text("# bare", "utf-8")
    with pytest.raises(BadSpec, match="<!-- about -->"):
        run.check(run.Wanted(ModelSpec(), 2, tmp_path / "out.json", bare))
    begun = tmp_path / "begun.md"
    begun.write_text(page.new_page("mine"), "utf-8")
    page.check(begun)
