"""The reconstruction gate: what passes, what is inverted again, what is rejected, and what each costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cogvideo_core.diffusion.inversion import evaluations, invert, stronger
from cogvideo_core.errors import OutOfMemory
from cogvideo_core.media import video
from cogvideo_core.media.quality import psnr
from cogvideo_core.models import model
from cogvideo_core.settings.specs import InversionSpec, ModelSpec, RecipeSpec
from cogvideo_core.shapes import build
from cogvideo_core.stages import gate
from cogvideo_core.stages.units import levels_kept
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.storage.trajectories import open_trajectory

Record = dict[str, Any]
STEPS, STD = 20, 0.3
GOOD: Record = {"method": "multistep", "steps": STEPS, "gate": "quick"}
POOR: Record = GOOD | {"method": "ddim", "gate_threshold_db": 0.1}
LEVELS = 4  # the quick form's


def smooth_frames(path: Path, clip: str, found: Any, window: video.Window, *_: Any) -> np.ndarray:
    """A still grey ramp, which the model's coarse latents can hold."""
    ramp = np.linspace(60, 190, 16)
    return np.broadcast_to(ramp[None, :, None, None], (window.frames, 16, 16, 3)).astype(np.uint8)


@pytest.fixture
def gaussian(toy: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A toy model whose latents are every second pixel and whose velocity is that of N(0, STD²) data."""
    monkeypatch.setattr(video, "decode", smooth_frames)

    class Gaussian(toy.ToyModel):  # type: ignore[name-defined, misc]
        front_padding = 0

        def encode(self, frames: np.ndarray) -> Tensor:
            return torch.from_numpy(frames[::4, ::2, ::2, :2].astype(np.float32)).permute(0, 3, 1, 2) / 128 - 1

        def decode(self, latents: Tensor) -> np.ndarray:
            pixels = ((latents[:, :1] + 1) * 128).round().clamp(0, 255).byte().permute(0, 2, 3, 1).numpy()
            large = pixels.repeat(2, 1).repeat(2, 2).repeat(3, 3)
            return np.concatenate([large[:1], large[1:].repeat(4, 0)])

        def velocity(self, x: Tensor, t: int, text: Tensor, reference: Any = None) -> Tensor:
            self.evaluations += len(x)
            theta = 1.5 * (t + 1) / 10 / STEPS
            c, s = math.cos(theta), math.sin(theta)
            return c * s * (1 - STD**2) / (c**2 * STD**2 + s**2) * x

    return Gaussian()


Run = Callable[..., tuple[Record, int]]


@pytest.fixture
def run(toy: ModuleType, gaussian: Any, tmp_path: Path) -> Run:
    """run(root, **inversion): the one clip's record, encoded, inverted and edited, and the model's evaluations."""

    def once(root: str = "run", **inversion: Any) -> tuple[Record, int]:
        before = gaussian.evaluations
        (record,) = toy.run(str(tmp_path / root), tmp_path / "clips", 1, gaussian, **inversion)
        return record, gaussian.evaluations - before

    return once


def paid(record: Record, stage: str) -> int:
    return sum(row["evaluations"] for row in record["timings"] if row["stage"] == stage)


def cost(inversion: Record) -> int:
    return evaluations(InversionSpec(**inversion)) + LEVELS


def commit_of(tmp_path: Path, record: Record, root: str = "run") -> Any:
    commit = Ledger(str(tmp_path / root)).find("trajectories", record["trajectory_key"])
    assert commit is not None
    return commit


def test_a_good_inversion_passes_and_its_scores_are_columns(run: Run, tmp_path: Path) -> None:
    """Commit and rows of the edits tell the same scores; the gate's evaluations are counted; a second run is free."""
    first, made = run(**GOOD)
    report = commit_of(tmp_path, first).record["reconstruction"]
    assert paid(first, "invert") == cost(GOOD) == report["evaluations"]
    assert made == cost(GOOD) + paid(first, "edit")
    assert report["passed"] and abs(report["below_vae_db"]) < 1 < 20 < report["vae_db"]
    assert report["below_vae_db"] == pytest.approx(report["vae_db"] - report["reconstruction_db"], abs=2e-3)
    again, nothing = run(**GOOD)
    assert nothing == 0
    wanted = {"reconstruction_db", "vae_db", "reconstruction_below_vae_db"}
    for edit in first["edits"] + again["edits"]:
        assert {name: edit["scores"][name] for name in wanted} == gate.scores(report)


def test_a_poor_inversion_is_done_again_more_strongly(run: Run, tmp_path: Path) -> None:
    """DDIM inversion fails here; what is stored is the stronger one's, bit for bit, and both are paid for."""
    record, _ = run(**POOR)
    more = stronger(InversionSpec(**POOR))
    report = commit_of(tmp_path, record).record["reconstruction"]
    assert paid(record, "invert") == cost(POOR) + evaluations(more) + LEVELS == report["evaluations"]
    assert report["passed"]
    plain, _ = run("plain", **GOOD | {"gate": "off"})
    assert report["inverter"] == {"method": "multistep", "iterations": 1, "first_iterations": 15}
    ours, theirs = (
        open_trajectory(Ledger(str(tmp_path / root)), commit_of(tmp_path, row, root)).read(STEPS)
        for root, row in (("run", record), ("plain", plain))
    )
    assert torch.equal(ours, theirs)


def test_a_clip_that_never_reconstructs_is_rejected(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The failure names clip, score, limit and remedy; what was computed for it is counted, and never again."""
    monkeypatch.setattr(gate, "stronger", lambda settings: settings)
    row, made = run(**POOR)
    assert made == 2 * cost(POOR) == paid(row, "invert")
    assert (row["error"], row["stage"], row["kind"], row["retryable"]) == (
        *("PoorReconstruction", "invert", "bad_input"),
        False,
    )
    words = (
        "clip 'clip0.mp4'",
        "dB below the VAE's own",
        "gate_threshold_db 0.1",
        f"{made} evaluations",
        "source prompt",
    )
    assert all(word in row["message"] for word in words), row["message"]
    (unit,) = Ledger(str(tmp_path / "run")).units("trajectories")
    assert not unit.files and not unit.record["reconstruction"]["passed"]
    again, nothing = run(**POOR)
    assert nothing == 0 and again["message"] == row["message"]
    assert "error" not in run(**POOR | {"gate_threshold_db": 100.0})[0]


def test_an_absurd_ceiling_is_a_failure_of_its_own(run: Run) -> None:
    """A clip that the VAE alone ruins is the model's failure, not the source prompt's, though the inversion passes. The
    floor is no part of the key: lowered, it lets pass what is stored."""
    row, _ = run(**GOOD | {"gate_floor_db": 60.0})
    assert (row["error"], row["stage"], row["kind"], row["retryable"]) == ("PoorVae", "invert", "model", False)
    assert all(word in row["message"] for word in ("clip 'clip0.mp4'", "gate_floor_db 60", "model.vae_dtype"))
    assert "source prompt" not in row["message"]
    passed, _ = run(**GOOD)
    assert "error" not in passed and paid(passed, "invert") == 0


def test_an_inversion_outlives_a_gate_without_memory(
    run: Run, tmp_path: Path, gaussian: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory that runs out while the gate decodes costs no inversion: it is committed, the sentence says so, and a
    later run judges what is stored for the gate's evaluations alone."""
    decode, undisturbed = type(gaussian).decode, run("undisturbed", **GOOD)[0]

    def full(self: Any, latents: Tensor) -> np.ndarray:
        raise OutOfMemory("decoding 16x16 pixels: memory does not suffice for the VAE; lower dataset.height")

    monkeypatch.setattr(type(gaussian), "decode", full)
    for _ in range(2):
        row, _ = run(**GOOD)
        assert (row["error"], row["kind"]) == ("OutOfMemory", "out_of_memory") and "is inverted" in row["message"]
        assert "lower dataset.height" in row["message"]
    before = commit_of(tmp_path, undisturbed | {"trajectory_key": undisturbed["trajectory_key"]}, "run")
    assert before.files and "unjudged" in before.record["reconstruction"]
    monkeypatch.setattr(type(gaussian), "decode", decode)
    record, made = run(**GOOD)
    assert "error" not in record and made == LEVELS + paid(record, "edit")
    ours, theirs = commit_of(tmp_path, record), commit_of(tmp_path, undisturbed, "undisturbed")
    assert [f.sha256 for f in ours.files.values()] == [f.sha256 for f in theirs.files.values()]
    assert gate.scores(ours.record["reconstruction"]) == gate.scores(theirs.record["reconstruction"])
    assert run(**GOOD)[1] == 0


def test_what_does_not_pass_when_it_is_judged_later_is_inverted_again(
    run: Run, tmp_path: Path, gaussian: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A poor inversion that could not be judged at first ends as the stronger one, like any other."""
    decode = type(gaussian).decode

    def full(self: Any, latents: Tensor) -> np.ndarray:
        raise MemoryError

    monkeypatch.setattr(type(gaussian), "decode", full)
    run(**POOR)
    monkeypatch.setattr(type(gaussian), "decode", decode)
    record, _ = run(**POOR)
    report = commit_of(tmp_path, record).record["reconstruction"]
    assert report["passed"] and report["inverter"]["method"] == "multistep"


def test_off_costs_nothing_and_is_no_part_of_the_key(run: Run) -> None:
    """Without the gate a poor inversion stays, its key knows no threshold, and there are no scores of it."""
    off, _ = run(**POOR | {"gate": "off"})
    same, nothing = run(**POOR | {"gate": "off", "gate_threshold_db": 1.0})
    assert paid(off, "invert") == STEPS and nothing == 0
    assert off["trajectory_key"] == same["trajectory_key"] != run(**POOR)[0]["trajectory_key"]
    assert not {"vae_db", "reconstruction_db"} & set(off["edits"][0]["scores"])


def test_without_inversion_there_is_nothing_to_judge(run: Run) -> None:
    """The noised source is sampled back by nobody: no evaluations beside the edits'."""
    record, made = run(method="none", steps=STEPS, gate="full")
    assert made == paid(record, "edit")


def test_the_full_form_samples_from_the_noisiest_level(gaussian: Any) -> None:
    """It costs all steps and agrees with the quick form on a good inversion; noise in x_T it alone sees."""
    frames = partial(smooth_frames, Path(), "", None)
    schedule, velocity = gaussian.schedule(STEPS), gaussian.one_row(gaussian.embed([""]))
    latents = gaussian.encode(frames(video.Window(0, 0.0, 9)))
    states = list(invert(velocity, latents, schedule, InversionSpec(steps=STEPS)))

    def below(form: Any, found: list[Tensor]) -> float:
        settings = InversionSpec(gate=form, steps=STEPS)
        level = gate.gate_evaluations(settings)
        seen, before = {0: found[0], level: found[level]}, gaussian.evaluations
        report = gate.judged(gaussian, velocity, schedule, settings, seen, lambda n: frames(video.Window(0, 0.0, n)))
        assert gaussian.evaluations - before == level == {"full": STEPS, "quick": LEVELS}[form]
        return float(report["below_vae_db"])

    assert abs(below("full", states) - below("quick", states)) < 1
    spoiled = [*states[:-1], torch.randn(states[-1].shape, generator=torch.Generator().manual_seed(0))]
    assert below("full", spoiled) > 3 > below("quick", spoiled)


def test_the_first_frames_decode_as_they_do_within_the_clip() -> None:
    """The VAE is causal: 3 latent frames decode to the first 9 frames of what 5 decode to, so quick may stop there."""
    tiny = model.VideoModel(build.build_pipeline("5b"), ModelSpec(device="cpu"))
    latents = tiny.encode(np.random.default_rng(0).integers(0, 255, (17, 48, 48, 3), np.uint8))
    assert np.array_equal(tiny.decode(latents[:3]), tiny.decode(latents)[:9])


def test_psnr_is_what_it_says() -> None:
    """One level off everywhere is 48.13 dB; equal pixels are 100."""
    a = np.full((2, 4, 4, 3), 7, np.uint8)
    assert psnr(a, a + 1) == pytest.approx(48.1308, abs=1e-3) and psnr(a, a) == 100


def test_an_inversion_ends_where_the_recipe_begins() -> None:
    """By default the top fifth of the levels is not read: 31 evaluations instead of 35; the gate's level is reached."""
    window = InversionSpec(save_steps="window")
    levels = levels_kept(window, RecipeSpec(), 6)
    assert levels is not None and gate.highest_level(window, levels) == 16
    assert (evaluations(window, 16), evaluations(window)) == (31, 35)
    assert gate.highest_level(InversionSpec(gate="full"), levels) == 20 == gate.highest_level(window, None)
    assert evaluations(window, 0) == 0
