"""Whether `tune` finds a recipe from scratch, by the judge alone: the oracle says so, on clips that it never saw.

    python tests/benchmarks/tune.py                        # both models, one core
    python tests/benchmarks/tune.py --root out/tune_bench  # goes on with what lies there

The search is told the bounds of each field and the judge's scores, and not the values of any preset; `balanced` is
measured beside it by the judge, as the recipe to beat. It runs on clips of trained combinations. Its pick and
`balanced` are then measured by the oracle on a held-out list that is frozen by hash: `success` is the share of edits in
which all four attributes are right, `background` the PSNR of the background in edits that keep it, dB. Differences are
the pick's less `balanced`'s, over clips, with 95 % intervals. The other model is the shapes transformer, perturbed so
that `balanced` is visibly worse than it could be (`--other`). The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from shapes_edit import DTYPE, Clip, Marks, Setup, difference, edited, marks, mean, model_of

from cogvideo_core.media import video
from cogvideo_core.models.configuration import configured
from cogvideo_core.planning.plan import planned_clips
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.presets import PRESET_INVERSIONS, PRESETS
from cogvideo_core.settings.specs import (
    DatasetSpec,
    EngineSpec,
    InversionSpec,
    ModelSpec,
    OutputSpec,
    RecipeSpec,
)
from cogvideo_core.settings.tune_specs import TuneSpec
from cogvideo_core.shapes import world
from cogvideo_core.stages.encode import encode_clip
from cogvideo_core.stages.failures import attempt
from cogvideo_core.stages.trajectory import invert_clip
from cogvideo_core.stages.work import Work
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.tuning import preparing, report
from cogvideo_core.tuning.measuring import seen, trial_work
from cogvideo_core.tuning.search import Found

TUNING, HELD_OUT = 1_500_000, 1_600_000  # first seeds of the two lists
FROZEN = "7cd1ec21cc67d892"  # hash of the first 24 held-out clips, fixed before any search
SHAPES = Path(world.__file__).parent / "model"
SCALED = {"attention": ".to_out.0.", "keys": ".attn1.norm_k."}  # weights that are made smaller
OTHERS = ("drop2", "drop3", "drop4", "noise", *SCALED)


def listed(first: int, clips: int) -> list[world.BenchEdit]:
    """The edits of a list; held-out combinations in the held-out list alone."""
    pool = world.held_out_combinations() if first == HELD_OUT else world.train_combinations()
    return list(world.bench_edits(clips, seed=first, pool=pool))


def list_hash(clips: int) -> str:
    """Fingerprint of the held-out list: pixels and prompts."""
    digest = hashlib.sha256()
    for edit in listed(HELD_OUT, clips):
        digest.update(world.render(edit.scene).tobytes() + f"{edit.source_prompt}|{edit.target_prompt}".encode())
    return digest.hexdigest()


def write_clips(folder: Path, clips: int) -> Path:
    """Clips to tune on as mp4, with all five prompts of each; the manifest's path."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[int, dict[str, Any]] = {}
    for edit in listed(TUNING, clips):
        row = rows.setdefault(
            edit.clip, {"clip": f"{edit.clip:04d}.mp4", "source_prompt": edit.source_prompt, "target_prompts": []}
        )
        if not (folder / row["clip"]).exists():
            video.encode(world.render(edit.scene), folder / row["clip"], world.FPS)
        if edit.target_prompt not in row["target_prompts"]:
            row["target_prompts"].append(edit.target_prompt)
    manifest = folder / "manifest.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    return manifest


def perturbed(folder: Path, how: str) -> Path:
    """The shapes model with another transformer, on which `balanced` was not chosen.

    dropN: block N does nothing but pass its input on. noise: all weights of the blocks with a tenth of their spread
    added as noise. attention: attention's outputs 0.7 times as large. keys: keys of all blocks 0.7 times as large.
    """
    if (folder / "model_index.json").exists():
        return folder
    shutil.copytree(SHAPES, folder.with_suffix(".part"), dirs_exist_ok=True)
    file = folder.with_suffix(".part") / "transformer" / "diffusion_pytorch_model.safetensors"
    weights, generator = load_file(file), torch.Generator().manual_seed(0)
    for name, value in weights.items():
        block = name.split(".")[1] if name.startswith("transformer_blocks.") else ""
        if how.startswith("drop") and block == how[4:] and (".to_out.0." in name or ".ff.net.2." in name):
            weights[name] = torch.zeros_like(value)
        elif how == "noise" and block and value.ndim == 2:
            drawn = torch.randn(value.shape, generator=generator, dtype=torch.float32)
            weights[name] = value + 0.1 * value.float().std() * drawn.to(value.dtype)
        elif block and how in SCALED and SCALED[how] in name:
            weights[name] = 0.7 * value
    save_file({name: value.contiguous() for name, value in weights.items()}, file)
    folder.with_suffix(".part").rename(folder)
    return folder


def work_of(model: str, manifest: Path, root: Path) -> Work:
    judge = preparing.check_judge(JudgeSpec(text="shapes"), model)
    loaded = model_of(Setup(model, DTYPE, True))
    groups = (DatasetSpec(source=str(manifest)), InversionSpec(), PRESETS["balanced"], OutputSpec(root=str(root)))
    return Work(*groups, EngineSpec(), loaded, Ledger(str(root)), judge=judge)


def tuned(model: str, manifest: Path, root: Path, place: Path, spec: TuneSpec) -> tuple[Found, dict[str, Any]]:
    """Searches, with the stages of an ordinary run; what was found, and what it cost. Both models share a
    root, for their VAE is the same."""
    work, began, cpu = work_of(model, manifest, root), time.perf_counter(), time.process_time()

    def invert(records: list[dict], steps: int) -> list[dict]:
        own = replace(work, inversion=work.inversion.model_copy(update={"steps": steps}))
        return [attempt(lambda r: invert_clip(own, r, only_if_needed=False), record, "invert") for record in records]

    stages = preparing.Stages(
        lambda records: [attempt(lambda r: encode_clip(work, r), record, "encode") for record in records], invert
    )
    rows = planned_clips(work.dataset, configured(ModelSpec(path=model)))
    ready = preparing.prepared(spec, rows, stages, work.ledger)
    search = preparing.search_of(spec, ready, work.inversion, work.judge, work.model.layers, work.ledger)
    search.say = lambda line: print(line, flush=True)
    search.measure = lambda point, clips, left_out=range(0): [
        seen(trial_work(work, point, left_out), ready.by_steps[point.steps][clip]) for clip in clips
    ]
    search.prepared_s = time.perf_counter() - began
    found = search.run()
    told = report.write(str(place), search, found, ready)
    spent = {"seconds": told["seconds"], "this_call_s": round(time.perf_counter() - began, 1)}
    spent |= {"this_call_cpu_s": round(time.process_time() - cpu, 1), "stopped": told["stopped"]}
    spent |= {name: told["counts"][name] for name in ("trials", "pruned", "complete", "failed", "evaluations")}
    return found, spent


def measured(model: str, inversion: InversionSpec, recipe: RecipeSpec, clips: int, cache: Path) -> Marks:
    """The oracle's marks of a recipe on the held-out list; what lies in the cache is not made again."""
    key = hashlib.sha256(json.dumps([model, DTYPE, inversion.as_json(), recipe.as_json()], sort_keys=True).encode())
    file = cache / f"{key.hexdigest()[:16]}.jsonl"
    found: Marks = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    loaded, cached = model_of(Setup(model, DTYPE, True)), len(found)
    for number in range(cached, clips):
        edits = [edit for edit in listed(HELD_OUT, number + 1) if edit.clip == number]
        frames = world.render(edits[0].scene)
        latents = loaded.encode(frames)
        clip = Clip(edits, frames, loaded.decode(latents), latents)
        made = edited(loaded, clip, inversion, recipe)
        found.append([marks(clip, edit, one) for edit, one in zip(edits, made, strict=True)])
        found[-1] = [{name: float(value) for name, value in row.items()} for row in found[-1]]
        cache.mkdir(parents=True, exist_ok=True)
        with file.open("a") as sink:
            sink.write(json.dumps(found[-1]) + "\n")
    return found[:clips]


def compared(model: str, found: Found, clips: int, cache: Path) -> dict[str, Any]:
    """Success and background of the pick less those of `balanced`, by the oracle on the held-out list."""
    theirs = measured(model, PRESET_INVERSIONS["balanced"], PRESETS["balanced"], clips, cache)
    if found.pick is None:
        return {"picked": False}
    point = found.pick.point
    own = InversionSpec(steps=point.steps)
    ours = measured(model, own, point.recipe, clips, cache)
    gain = difference("tuned", ours, theirs)
    rows = {
        name: [row for clip in by_clip for row in clip] for name, by_clip in (("tuned", ours), ("balanced", theirs))
    }
    kinds = {
        kind: round(float(np.mean([clip[n]["all"] for clip in ours]) - np.mean([clip[n]["all"] for clip in theirs])), 3)
        for n, kind in enumerate(world.EDIT_KINDS)
    }
    return {
        "picked": True,
        "success": gain["all"],
        "success_interval": [gain["all_low"], gain["all_high"]],
        "background": gain["bg_psnr"],
        "background_interval": [gain["bg_psnr_low"], gain["bg_psnr_high"]],
        "of_each": {
            name: {"success": round(mean(each, "all"), 3), "background": round(mean(each, "bg_psnr"), 2)}
            for name, each in rows.items()
        },
        "success_by_kind": kinds,
        "recipe": {"steps": point.steps, **changed_fields(point.recipe)},
        "evaluations_an_edit": [round(found.pick.cost, 1), round(found.preset.cost, 1)],
    }


def changed_fields(recipe: RecipeSpec) -> dict[str, Any]:
    """What a recipe has otherwise than `balanced`."""
    plain = PRESETS["balanced"].as_json()
    return {name: value for name, value in recipe.as_json().items() if value != plain[name] and name != "name"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=Path("out/tune_bench"), help="folder; what lies there is reused")
    parser.add_argument("--trials", type=int, default=20, help="recipes tried on each model, at most")
    parser.add_argument("--budget", default="40m", help="of each search")
    parser.add_argument("--clips", type=int, default=8, help="clips to tune on")
    parser.add_argument("--layer-groups", type=int, default=6, help="of the layer study; 0: none")
    parser.add_argument("--held-out", type=int, default=16, help="clips of the oracle's list")
    parser.add_argument("--other", default="attention", choices=OTHERS, help="how the other model is perturbed")
    parser.add_argument("--give-db", type=float, default=4.0, help="tune.give_db of the other model's search")
    parser.add_argument("--only", choices=["shapes", "other"], help="one of the models")
    args = parser.parse_args()
    torch.set_num_threads(1)
    if list_hash(24)[:16] != FROZEN:
        parser.error("the held-out list is not the one that was frozen")
    few = {"clips": args.clips, "held_out": 2, "steps": [12, 20], "layer_clips": 1, "layer_groups": args.layer_groups}
    spec = TuneSpec(budget=args.budget, trials=args.trials, **few)
    manifest = write_clips(args.root / "clips", 2 * (args.clips + 2))
    told: dict[str, Any] = {"held_out": args.held_out, "list": list_hash(args.held_out)[:16], "dtype": DTYPE}
    told |= {"cores": len(os.sched_getaffinity(0))}
    models = {"shapes": "shapes", "other": str(perturbed(args.root / f"model_{args.other}", args.other))}
    for name, model in models.items():
        if args.only in (None, name):
            place = args.root / (name if name == "shapes" else f"other_{args.other}")  # of recipe and page
            own = spec if name == "shapes" else spec.model_copy(update={"give_db": args.give_db})
            found, spent = tuned(model, manifest, args.root / "run", place, own)
            key = "tuned_minus_balanced" if name == "shapes" else "other_tuned_minus_balanced"
            told |= {key: compared(model, found, args.held_out, args.root / "oracle"), f"{name}_search": spent}
            print(json.dumps(told), flush=True)
    print(json.dumps(told))


if __name__ == "__main__":
    main()
