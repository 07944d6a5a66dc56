"""How well the judge tells good edits from bad ones, against the oracle of the shapes world.

    python tests/benchmarks/judge.py                     # held-out clips, with the calibration that comes along
    python tests/benchmarks/judge.py --calibrate         # first fits that calibration anew, on training clips

Edits of five recipes (seed, balanced, bold, fast, sdedit_50), each kind of edit. An edit is good when the oracle reads
all four attributes as the target prompt says, and the background, where it was to stay, is at most 9 dB below that of
the VAE. `auc`: chance that a good edit has more confidence than a bad one. `precision`, `recall`, `kept`: of what the
preset `balanced` accepts; `recall_at_95`: by the limit that has that precision on the list itself.
`best_of_4_over_oracle`: success of the most confident of seed, balanced, bold and fast, over
success of the best of them. `early_stop_saved`: of the evaluations of the edits that are rejected or given up, the
share that early stops save; `early_stop_lost`: of the good edits, the share that they cost. `cost_per_kept`: FLOPs of
the 5B model per good edit by the public script, over ours per edit that is good and kept, with ladder and early stops,
at 8 prompts a clip (figures of a clip's five edits, scaled); `cost_per_kept_loose` allows 15 dB. Frames are kept under
--cache, so that only the judge is run anew. The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import replace
from functools import lru_cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import engine
import numpy as np
import torch
from shapes_edit import DTYPE, ROWS, Clip, Setup, crew, edited, marks, model_of

from cogvideo_core.diffusion import editing
from cogvideo_core.diffusion.inversion import evaluations
from cogvideo_core.judging import policy
from cogvideo_core.judging.judges import Judges, Wish
from cogvideo_core.media.quality import preserved_scores
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.presets import PRESETS
from cogvideo_core.settings.specs import InversionSpec, RecipeSpec
from cogvideo_core.shapes import world
from cogvideo_core.stages.early import own_evaluations
from cogvideo_core.stages.gate import gate_evaluations
from cogvideo_core.study import flops

RECIPES = ("seed", "balanced", "bold", "fast", "sdedit_50")
RIVALS = ("seed", "balanced", "bold", "fast")
OURS_OF_ONE = RIVALS[1:]  # rivals that share an inversion
OURS = InversionSpec()  # of each clip
FARTHEST_DB, LOOSE_DB = 9.0, 15.0
LADDER = ("balanced", "fast")  # the order in which a prompt is tried
LOOKS = ("0.4", "0.7")  # shares of the steps, after which the clean estimate is looked at
PROMPTS, KINDS = 8, 5  # of a clip: those that costs are counted for, and those of the lists
TRAINING, HELD_OUT = 720_000, 1_300_000  # first seeds of the two lists
SHIPPED = Path(world.__file__).parent / "judge" / "calibration.json"
FOR_LOOSE = Path(__file__).with_name("judge_loose.json")  # a calibration for backgrounds up to LOOSE_DB


class Edit(NamedTuple):
    """One judged edit: what it was, whether it is good, its scores, and those of its clean estimates."""

    clip: int
    kind: str
    recipe: str
    good: bool
    good_loose: bool
    scores: dict[str, float]
    early: dict[str, dict[str, float] | None]  # by share of the steps; None where it had not begun


def listed(first: int, clip: int) -> list[world.BenchEdit]:
    """The edits of one clip of a list; held-out combinations in the held-out list alone."""
    pool = world.held_out_combinations() if first == HELD_OUT else world.train_combinations()
    return list(world.bench_edits(1, seed=first + clip, pool=pool))


def list_hash(first: int, clips: int) -> str:
    """Fingerprint of a list: pixels and prompts."""
    digest = hashlib.sha256()
    for edit in (edit for clip in range(clips) for edit in listed(first, clip)):
        digest.update(world.render(edit.scene).tobytes() + f"{edit.source_prompt}|{edit.target_prompt}".encode())
    return digest.hexdigest()


def made(cache: Path, first: int, clip: int) -> tuple[Path, float]:
    """The file with all edits of a clip, made where it is missing, and the seconds that editing took."""
    file = cache / f"{first}-{clip}.npz"
    if not file.exists():
        model, edits = model_of(Setup("shapes", DTYPE, False)), listed(first, clip)
        frames = world.render(edits[0].scene)
        latents = model.encode(frames)
        numbered = [edit._replace(clip=first + clip) for edit in edits]
        found = Clip(numbered, frames, model.decode(latents), latents)
        started = time.perf_counter()
        videos: dict[str, np.ndarray] = {}
        looked = 0.0
        for name in RECIPES:
            early: dict[int, torch.Tensor] = {}
            videos[name] = np.stack(edited(model, found, *row_of(name), early.__setitem__))
            decoding = time.perf_counter()
            steps = row_of(name)[0].steps
            for share in LOOKS:
                step = round(float(share) * steps) - 1  # after so many steps
                if step in early:
                    videos[f"{name}@{share}"] = np.stack([model.decode(latents) for latents in early[step]])
            looked += time.perf_counter() - decoding
        part = file.with_suffix(".part.npz")
        np.savez_compressed(part, seconds=time.perf_counter() - started - looked, decoded=found.decoded, **videos)
        part.rename(file)
    return file, float(np.load(file)["seconds"])


def good(clip: Clip, edit: world.BenchEdit, frames: np.ndarray) -> tuple[bool, bool]:
    """Whether an edit is good, and whether it is where the background may be as far as LOOSE_DB below the VAE's."""
    found = marks(clip, edit, frames)
    below = found["bg_psnr_vae"] - found["bg_psnr"] if "bg_psnr" in found else 0.0
    return bool(found["all"]) and below <= FARTHEST_DB, bool(found["all"]) and below <= LOOSE_DB


def judged(judges: Judges, file: Path, first: int, clip: int) -> tuple[list[Edit], float]:
    """Every edit of a clip with its scores, and the seconds that judging took."""
    kept, edits = np.load(file), listed(first, clip)
    shown = Clip(edits, world.render(edits[0].scene), kept["decoded"], torch.empty(0))
    wishes = [Wish(edit.source_prompt, edit.target_prompt) for edit in edits]
    found, seconds = [], 0.0
    for name in RECIPES:
        videos = kept[name]
        started = time.perf_counter()
        scores = judges.scores(shown.decoded, list(videos), wishes)
        seconds += time.perf_counter() - started
        looks = {at: kept.get(f"{name}@{at}") for at in LOOKS}
        early = {at: judges.scores(shown.decoded, list(v), wishes) for at, v in looks.items() if v is not None}
        for number, (edit, frames) in enumerate(zip(edits, videos, strict=True)):
            measured = preserved_scores(shown.decoded, frames) | scores[number]
            begun = {at: early[at][number] if at in early else None for at in looks}
            found.append(Edit(clip, edit.kind, name, *good(shown, edit, frames), measured, begun))
    return found, seconds


def figures(edits: list[Edit], calibration: policy.Calibration) -> dict[str, Any]:
    """All figures of judged edits under a calibration."""
    confidence = np.array([calibration.confidence(edit.scores) for edit in edits])
    truth = np.array([edit.good for edit in edits])
    best: dict[tuple[int, str], list[tuple[float, bool, str]]] = {}
    for edit, value in zip(edits, confidence, strict=True):
        if edit.recipe in RIVALS:
            best.setdefault((edit.clip, edit.kind), []).append((float(value), edit.good, edit.recipe))
    picked = float(np.mean([max(rivals)[1] for rivals in best.values()]))
    possible = float(np.mean([any(right for _, right, _ in rivals) for rivals in best.values()]))
    alone = float(np.mean([right for rivals in best.values() for _, right, name in rivals if name == "balanced"]))
    return {
        "edits": len(edits),
        "good": round(float(truth.mean()), 3),
        "auc": round(policy.auc(confidence, truth), 4),
        "recall_at_95": round(recall_at(0.95, confidence, truth), 4),
        **kept_by("balanced", edits, truth, calibration),
        **{f"{name}_strict": value for name, value in kept_by("strict", edits, truth, calibration).items()},
        "best_of_4": round(picked, 4),
        "best_of_4_possible": round(possible, 4),
        "best_of_4_over_oracle": round(picked / max(possible, 1e-9), 4),
        "best_of_4_over_balanced": round(picked - alone, 4),
        "good_by_recipe": {name: share(edits, recipe=name) for name in RECIPES},
        "good_by_kind": {kind: share(edits, kind=kind) for kind in world.EDIT_KINDS},
    }


def recall_at(precision: float, confidence: np.ndarray, truth: np.ndarray) -> float:
    """The share of the good edits above the lowest limit that has this precision on the list itself."""
    return float((confidence[truth] >= policy.limit_for(confidence, truth, precision)).mean())


def stops(edits: list[Edit], calibration: policy.Calibration, looks: tuple[str, ...]) -> list[float | None]:
    """For each edit the share of the steps after which it is given up, or None."""

    def hopeless(at: str, scores: dict[str, float] | None) -> bool:
        early = calibration.early[at]
        return scores is not None and early.confidence(scores) < early.limits["stop"]

    return [next((float(at) for at in looks if hopeless(at, edit.early[at])), None) for edit in edits]


def early_figures(edits: list[Edit], calibration: policy.Calibration, looks: tuple[str, ...]) -> dict[str, float]:
    """What early stops save and cost."""
    given_up, spec = stops(edits, calibration, looks), JudgeSpec(text="shapes")
    saved, rejected, layers = 0, 0, model_of(Setup("shapes", DTYPE, False)).layers
    for edit, at in zip(edits, given_up, strict=True):
        inversion, recipe = row_of(edit.recipe)
        cost = partial(own_evaluations, recipe, inversion.steps, layers)
        if at is not None:
            saved += cost(range(round(at * inversion.steps), inversion.steps))
        if at is not None or policy.decide(edit.scores, spec, calibration).verdict == "rejected":
            rejected += cost(range(inversion.steps))
    lost = [at is not None for edit, at in zip(edits, given_up, strict=True) if edit.good]
    stopped = [at is not None for at in given_up]
    found = {"early_stop_saved": saved / max(rejected, 1), "early_stop_lost": float(np.mean(lost))}
    found["early_stop_stopped"] = float(np.mean(stopped))
    for at in looks:
        seen = [(calibration.early[at].confidence(scores), edit.good) for edit in edits if (scores := edit.early[at])]
        confidence, truth = (np.array(values) for values in zip(*seen, strict=True))
        found[f"early_auc_{at}"] = policy.auc(confidence, truth)
    return {name: round(value, 4) for name, value in found.items()}


def row_of(name: str) -> tuple[InversionSpec, RecipeSpec]:
    """How an edit is made: our presets' come from one inversion, whatever their own is."""
    return (OURS, PRESETS[name]) if name in OURS_OF_ONE else ROWS[name]


class StepCost(NamedTuple):
    """FLOPs of one step: of what a batch shares, and of each of its edits."""

    shared: float
    each: float


def step_costs(meter: flops.Meter, recipe: RecipeSpec) -> list[StepCost]:
    """By step; counted for one and for two edits, between which nothing but an edit's own rows differs."""
    spent = []
    for edits in (1, 2):
        of, layers = flops.given(meter.model, edits, OURS.steps), meter.model.layers
        schedule = meter.model.schedule(OURS.steps)
        states = editing.edit(meter, of.x, of.texts, of.trajectory.__getitem__, schedule, recipe, layers)
        totals = [meter.total, *(meter.total for _ in states)]
        skipped = [0] * editing.first_step(recipe, OURS.steps)
        spent.append(skipped + [after - before for before, after in pairwise(totals)])
    return [StepCost(2 * one - two, two - one) for one, two in zip(*spent, strict=True)]


def cost_figures(
    edits: list[Edit], calibration: policy.Calibration, looks: tuple[str, ...], name: str, right: Callable[[Edit], bool]
) -> dict[str, float]:
    """FLOPs of the public scheme per good edit over those of ours per edit that is good and kept."""
    meter = flops.Meter(flops.full_size("5b"))
    row, inversion = engine.one_row(meter.model), OURS
    public = 2 * engine.STEPS * row.total + engine.STEPS * flops.script_cost(row, 1)
    public_good = float(np.mean([right(edit) for edit in edits if edit.recipe == "seed"]))
    costs = {recipe: step_costs(meter, PRESETS[recipe]) for recipe in LADDER}
    spec, given_up = JudgeSpec(text="shapes"), dict(zip(map(id, edits), stops(edits, calibration, looks), strict=True))
    by = {(edit.clip, edit.kind, edit.recipe): edit for edit in edits}
    total, kept_good, kept, made = 0.0, 0, 0, 0
    clips = sorted({edit.clip for edit in edits})
    for clip in clips:
        total += (evaluations(inversion) + gate_evaluations(inversion)) * row.total
        todo = list(world.EDIT_KINDS)
        for recipe in LADDER:
            tried = [by[clip, kind, recipe] for kind in todo]
            made += len(tried)
            ends = [round((given_up[id(edit)] or 1.0) * OURS.steps) for edit in tried]
            for step, cost in enumerate(costs[recipe]):
                left = sum(step < end for end in ends)
                total += (cost.shared if left else 0.0) + cost.each * left * PROMPTS / KINDS
            passed = [
                edit
                for edit in tried
                if given_up[id(edit)] is None and policy.decide(edit.scores, spec, calibration).verdict == "accepted"
            ]
            kept += len(passed)
            kept_good += sum(map(right, passed))
            todo = [kind for kind in todo if kind not in {edit.kind for edit in passed}]
    ours = total / max(kept_good * PROMPTS / KINDS, 1)
    prompts = len(clips) * KINDS
    return {
        name: round(public / max(public_good, 1e-9) / ours, 3),
        f"{name}_public_good": round(public_good, 4),
        f"{name}_kept": round(kept / prompts, 4),
        f"{name}_precision": round(kept_good / max(kept, 1), 4),
        f"{name}_candidates": round(made / prompts, 3),
        f"{name}_pflop": round(ours / 1e15, 2),
    }


def kept_by(preset: str, edits: list[Edit], truth: np.ndarray, calibration: policy.Calibration) -> dict[str, float]:
    """Precision, recall and share of what a preset accepts."""
    spec = JudgeSpec(text="shapes", preset=preset)  # type: ignore[arg-type]
    passed = np.array([policy.decide(edit.scores, spec, calibration).verdict == "accepted" for edit in edits])
    precision = float(truth[passed].mean()) if passed.any() else 0.0
    shares = {"precision": precision, "recall": float(passed[truth].mean()), "kept": float(passed.mean())}
    return {name: round(value, 4) for name, value in shares.items()}


def share(edits: list[Edit], **which: str) -> float:
    """Of the edits with these fields, how many are good."""
    chosen = [edit.good for edit in edits if all(getattr(edit, name) == value for name, value in which.items())]
    return round(float(np.mean(chosen)), 3)


@lru_cache(maxsize=1)
def own_judges() -> Judges:
    return Judges(JudgeSpec(text="shapes"))


def scored(cache: Path, first: int, clip: int) -> tuple[list[Edit], float]:
    """`judged` in a process with judges of its own."""
    return judged(own_judges(), cache / f"{first}-{clip}.npz", first, clip)


def measured(cache: Path, first: int, clips: int, jobs: int) -> tuple[list[Edit], float, float]:
    """Judged edits of a list; seconds of judging and of editing."""
    with crew(jobs) as pool:
        files = list(pool.map(partial(made, cache, first), range(clips)))
        found = list(pool.map(partial(scored, cache, first), range(clips)))
    return [edit for edits, _ in found for edit in edits], sum(s for _, s in found), sum(s for _, s in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20, help="held-out clips, 25 edits each")
    parser.add_argument("--calibrate", action="store_true", help=f"write {SHIPPED.name} anew first")
    parser.add_argument("--training-clips", type=int, default=40)
    parser.add_argument("--cache", type=Path, default=Path("out/judge-bench"))
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--training-only", action="store_true", help="with --calibrate: leave the held-out list alone")
    parser.add_argument("--only-make", action="store_true", help="make the edits and stop")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if args.only_make:
        with crew(args.jobs) as pool:
            for first, clips in ((TRAINING, args.training_clips), (HELD_OUT, args.clips)):
                list(pool.map(partial(made, args.cache, first), range(clips)))
        return
    if args.calibrate:
        edits, *_ = measured(args.cache, TRAINING, args.training_clips, args.jobs)
        for file, truth in ((SHIPPED, [e.good for e in edits]), (FOR_LOOSE, [e.good_loose for e in edits])):
            early = policy.fit_early({at: [edit.early[at] for edit in edits] for at in LOOKS}, truth)
            fitted = replace(policy.fit([edit.scores for edit in edits], truth), early=early)
            file.write_text(json.dumps(fitted.as_json(), indent=2) + "\n")
        print(json.dumps({"training": all_figures(edits)}))
        if args.training_only:
            return
    edits, judging_s, editing_s = measured(args.cache, HELD_OUT, args.clips, args.jobs)
    times = {"judge_share": round(judging_s / editing_s, 4), "list": list_hash(HELD_OUT, args.clips)[:16]}
    print(json.dumps(all_figures(edits) | times))


def all_figures(edits: list[Edit]) -> dict[str, Any]:
    """Everything that is counted on a list of judged edits."""
    own, loose = policy.read_calibration(SHIPPED), policy.read_calibration(FOR_LOOSE)
    return (
        figures(edits, own)
        | early_figures(edits, own, LOOKS)
        | cost_figures(edits, own, LOOKS, "cost_per_kept", lambda edit: edit.good)
        | cost_figures(edits, loose, LOOKS, "cost_per_kept_loose", lambda edit: edit.good_loose)
    )


if __name__ == "__main__":
    main()
