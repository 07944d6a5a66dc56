"""How well the judge tells good edits from bad ones, against the oracle of the shapes world.

    python tests/benchmarks/judge.py                     # held-out clips, with the calibration that comes along
    python tests/benchmarks/judge.py --calibrate         # first fits that calibration anew, on training clips

Edits of five recipes (seed, balanced, bold, fast, sdedit_50), each kind of edit. An edit is good when the oracle reads
all four attributes as the target prompt says, and the background, where it was to stay, is at most 9 dB below that of
the VAE. `auc`: chance that a good edit has more confidence than a bad one. `precision`, `recall`, `kept`: of what the
preset `balanced` accepts. `best_of_4_over_oracle`: success of the most confident of seed, balanced, bold and fast, over
success of the best of them. Frames are kept under --cache, so that only the judge is run anew. The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import time
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from shapes_edit import DTYPE, ROWS, Clip, Setup, crew, edited, marks, model_of

from cogvideo_core.judging import policy
from cogvideo_core.judging.judges import Judges, Wish
from cogvideo_core.media.quality import preserved_scores
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.shapes import world

RECIPES = ("seed", "balanced", "bold", "fast", "sdedit_50")
RIVALS = ("seed", "balanced", "bold", "fast")
EARLY = (0.3, 0.4, 0.5, 0.6, 0.7)  # of the steps, after which the clean estimate is looked at
FARTHEST_DB = 9.0
TRAINING, HELD_OUT = 720_000, 1_300_000  # first seeds of the two lists
SHIPPED = Path(world.__file__).parent / "judge" / "calibration.json"


class Edit(NamedTuple):
    """One judged edit: what it was, whether it is good, and its scores."""

    clip: int
    kind: str
    recipe: str
    good: bool
    scores: dict[str, float]


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
            videos[name] = np.stack(edited(model, found, *ROWS[name], early.__setitem__))
            decoding = time.perf_counter()
            steps = ROWS[name][0].steps
            for share in EARLY:
                step = round(share * steps) - 1  # after so many steps
                if step in early:
                    videos[f"{name}@{share}"] = np.stack([model.decode(latents) for latents in early[step]])
            looked += time.perf_counter() - decoding
        part = file.with_suffix(".part.npz")
        np.savez_compressed(part, seconds=time.perf_counter() - started - looked, decoded=found.decoded, **videos)
        part.rename(file)
    return file, float(np.load(file)["seconds"])


def good(clip: Clip, edit: world.BenchEdit, frames: np.ndarray) -> bool:
    found = marks(clip, edit, frames)
    below = found["bg_psnr_vae"] - found["bg_psnr"] if "bg_psnr" in found else 0.0
    return bool(found["all"]) and below <= FARTHEST_DB


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
        for edit, frames, measured in zip(edits, videos, scores, strict=True):
            measured = preserved_scores(shown.decoded, frames) | measured
            found.append(Edit(clip, edit.kind, name, good(shown, edit, frames), measured))
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
        **kept_by("balanced", edits, truth, calibration),
        **{f"{name}_strict": value for name, value in kept_by("strict", edits, truth, calibration).items()},
        "best_of_4": round(picked, 4),
        "best_of_4_possible": round(possible, 4),
        "best_of_4_over_oracle": round(picked / max(possible, 1e-9), 4),
        "best_of_4_over_balanced": round(picked - alone, 4),
        "good_by_recipe": {name: share(edits, recipe=name) for name in RECIPES},
        "good_by_kind": {kind: share(edits, kind=kind) for kind in world.EDIT_KINDS},
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


def measured(judges: Judges, cache: Path, first: int, clips: int, jobs: int) -> tuple[list[Edit], float, float]:
    """Judged edits of a list; seconds of judging and of editing."""
    with crew(jobs) as pool:
        files = list(pool.map(partial(made, cache, first), range(clips)))
    found = [judged(judges, file, first, clip) for clip, (file, _) in enumerate(files)]
    return [edit for edits, _ in found for edit in edits], sum(s for _, s in found), sum(s for _, s in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=20, help="held-out clips, 25 edits each")
    parser.add_argument("--calibrate", action="store_true", help=f"write {SHIPPED.name} anew first")
    parser.add_argument("--training-clips", type=int, default=40)
    parser.add_argument("--cache", type=Path, default=Path("out/judge-bench"))
    parser.add_argument("--jobs", type=int, default=2, help="processes of one thread each")
    parser.add_argument("--only-make", action="store_true", help="make the edits and stop")
    args = parser.parse_args()
    args.cache.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    if args.only_make:
        with crew(args.jobs) as pool:
            for first, clips in ((TRAINING, args.training_clips), (HELD_OUT, args.clips)):
                list(pool.map(partial(made, args.cache, first), range(clips)))
        return
    judges = Judges(JudgeSpec(text="shapes"))
    if args.calibrate:
        edits, *_ = measured(judges, args.cache, TRAINING, args.training_clips, args.jobs)
        calibration = policy.fit([edit.scores for edit in edits], [edit.good for edit in edits])
        SHIPPED.write_text(json.dumps(calibration.as_json(), indent=2) + "\n")
        print(json.dumps({"training": figures(edits, calibration)}))
    edits, judging_s, editing_s = measured(judges, args.cache, HELD_OUT, args.clips, args.jobs)
    found = figures(edits, policy.read_calibration(SHIPPED))
    found |= {"judge_share": round(judging_s / editing_s, 4), "list": list_hash(HELD_OUT, args.clips)[:16]}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
