"""What an edit costs: the public script's scheme and ours, counted, timed and weighed.

    python tests/benchmarks/engine.py                # the tables of docs/performance.md
    python tests/benchmarks/engine.py --counts-only  # without timing, for a busy machine
    python tests/benchmarks/engine.py --gpu-only     # full-size models on the GPU, nothing else (engine_gpu.py)
    python tests/benchmarks/engine.py --tiny         # the same on the CPU with miniatures, to try the script out
    python tests/benchmarks/engine.py --script-steps 20  # what the script is compared with for the fair ratios

The script's scheme edits one prompt after another, each with four rows: two reference rows (one a guidance half) and
two edit rows. Ours edits N prompts in one call of 2N + 1 rows. L is the linear part of one row's FLOPs, A attention.
Full-size models are counted on the meta device, without weights. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import engine_gpu
import torch
from engine_gpu import concatenating
from torch import Tensor

from cogvideo_core.diffusion import editing
from cogvideo_core.diffusion.attention import Reference
from cogvideo_core.diffusion.ddim import sample
from cogvideo_core.diffusion.inversion import ddim_inversion, evaluations, invert
from cogvideo_core.models import memory
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.presets import PRESET_INVERSIONS, PRESETS, unwindowed
from cogvideo_core.settings.specs import ModelSpec, RecipeSpec
from cogvideo_core.shapes import build
from cogvideo_core.stages.gate import gate_evaluations
from cogvideo_core.study import flops
from cogvideo_core.study.flops import SCRIPT, SHARED, Given, given, script, shared

EDITS = (1, 4, 8, 16)
STEPS = 50  # of the script's inversions and edits
FAIR_STEPS = 20  # the fewest measured at which the script's edits are as good as at 50, by docs/performance.md
JOBS = [name for name in PRESETS if name not in ("seed", "text")]
WINDOWS = {
    "all steps, all layers": SHARED,
    "steps 0 to 0.4": unwindowed(reference_end=0.4),
    "layers 0 to 0.5": unwindowed(reference_end=1.0, layer_end=0.5),
    "layers 0.5 to 1": unwindowed(reference_end=1.0, layer_start=0.5),
    "steps 0 to 0.4, layers 0 to 0.5": unwindowed(reference_end=0.4, layer_end=0.5),
    "no reference": PRESETS["text"],
    "all, guidance in steps 0 to 0.6": unwindowed(reference_end=1.0, guidance_end=0.6),
}


def with_inversion_prompt(model: VideoModel, of: Given) -> editing.RowVelocity:
    """Gives the script's reference rows our prompt, so that both schemes must come to the same result."""

    def velocity(x: Tensor, t: int, text: Tensor, reference: Reference | None = None) -> Tensor:
        if reference is not None:
            text = torch.cat([of.texts.reference.expand_as(text[: reference.rows]), text[reference.rows :]])
        return model.velocity(x, t, text, reference)

    return velocity


def as_script(model: VideoModel, of: Given) -> Tensor:
    """The script's scheme in the script's own way, at our arithmetic."""
    with concatenating():
        return script(model, of, with_inversion_prompt(model, of))


def one_row(model: VideoModel) -> flops.Flops:
    of = given(model, 1, 1)
    return flops.count(lambda: model.velocity(of.x, 999, of.texts.cond))


def count_steps(meter: flops.Meter, row: flops.Flops) -> list[dict[str, float]]:
    """One guided step by number of edits; FLOPs of all edits together, and how far from floor and closed forms."""
    rows = []
    for n in EDITS:
        of = given(meter.model, n, 1)
        theirs = meter.of(partial(script, meter.model, of, meter))
        ours = meter.of(partial(shared, meter.model, of, velocity=meter))
        found = {"N": n, "script": theirs, "ours": ours, "ratio": theirs / ours}
        found["ours/floor"] = ours / flops.floor_cost(row, n)
        found["script/closed"] = theirs / flops.script_cost(row, n)
        found["ours/closed"] = ours / flops.shared_cost(row, n)
        rows.append(found)
    return rows


def count_edits(meter: flops.Meter, recipe: RecipeSpec, steps: int = STEPS) -> int:
    """FLOPs of a run of all steps with 8 edits."""
    of = given(meter.model, 8, steps)
    return meter.of(lambda: shared(meter.model, of, recipe, meter))


def script_job(row: flops.Flops, steps: int) -> int:
    """FLOPs of 8 edits: the script inverts for every prompt anew, with two equal rows a step."""
    return 8 * steps * 2 * row.total + steps * flops.script_cost(row, 8)


def count_jobs(meter: flops.Meter, row: flops.Flops, fair_steps: int) -> list[dict[str, Any]]:
    """Inversion, gate and 8 edits of one clip, each preset with its own steps; beside the script at 50 and fewer."""
    jobs: list[tuple[str, int, str, str, int]] = [
        ("script", steps, str(steps), f"ddim, {steps}, 8 times", script_job(row, steps))
        for steps in (STEPS, fair_steps)
    ]
    for name in JOBS:
        inversion, recipe = PRESET_INVERSIONS[name], PRESETS[name]
        steps, upward, back = inversion.steps, evaluations(inversion), gate_evaluations(inversion)
        whole = len(editing.computed_steps(recipe, steps, meter.model.layers))
        cost = (upward + back) * row.total + count_edits(meter, recipe, steps)
        told = f"{whole} of {steps - editing.first_step(recipe, steps)}"
        jobs.append((name, steps, told, f"{inversion.method}, {upward} + {back}", cost))
    (*_, script), (*_, fewer) = jobs[:2]
    return [
        dict(zip(("recipe", "steps", "whole", "inversion", "flops"), job, strict=True))
        | {"ratio": script / job[-1], "fair ratio": fewer / job[-1]}
        for job in jobs
    ]


def seconds(call: Callable[[], Any]) -> float:
    wait = torch.cuda.synchronize if torch.cuda.is_available() else lambda: None
    wait()
    started = time.perf_counter()
    call()
    wait()
    return time.perf_counter() - started


def measure_wall(model: VideoModel, edits: int = 8, steps: int = 2, rounds: int = 7) -> dict[str, float]:
    """The schemes in turn, in one run; each round gives a ratio, the median counts."""
    of = given(model, edits, steps)
    schemes = {
        "ours": lambda: shared(model, of),
        "script": lambda: as_script(model, of),
        "script, two-part attention": lambda: script(model, of, with_inversion_prompt(model, of)),
    }
    results = [call() for call in schemes.values()]  # also the warm-up
    difference = max(float((result - results[0]).abs().max()) for result in results)
    if difference > 1e-4:
        raise SystemExit(f"The schemes differ by {difference:.1e}; their times can't be compared.")
    times = [{name: seconds(call) for name, call in schemes.items()} for _ in range(rounds)]
    ratios = {
        name: statistics.median(took[name] / took["ours"] for took in times) for name in schemes if name != "ours"
    }
    return ratios | {"difference": difference}


def script_edits(model: VideoModel, steps: int, edits: int = 8) -> None:
    """The script's whole job: for each prompt an inversion of two equal rows a step, then the edit's four rows."""
    of = given(model, edits, steps)
    for edit in range(edits):
        list(ddim_inversion(two_rows(model, of), of.trajectory[0], model.schedule(steps)))
        with concatenating():
            shared(model, of.one(edit), SCRIPT)


def two_rows(model: VideoModel, of: Given) -> Callable[[Tensor, int], Tensor]:
    text = of.texts.reference.expand(2, -1, -1)
    return lambda x, t: model.velocity(x.expand(2, *x.shape), t, text)[0]


def preset_edits(model: VideoModel, name: str, edits: int = 8) -> None:
    """A preset's whole job: one inversion, the gate's sampling back, all edits in one batch."""
    inversion, recipe = PRESET_INVERSIONS[name], PRESETS[name]
    of, schedule = given(model, edits, inversion.steps), model.schedule(inversion.steps)
    velocity, back = model.one_row(of.texts.reference), gate_evaluations(inversion)
    states = list(invert(velocity, of.trajectory[0], schedule, inversion))
    list(sample(velocity, states[back], schedule, schedule.steps - back))
    shared(model, Given(of.x, of.texts, states), recipe)


def measure_jobs(model: VideoModel, fair_steps: int, rounds: int = 5) -> dict[str, float]:
    """Whole jobs of 8 edits in turn, in one run; each round gives ratios, the median counts. VAE and storage aside."""
    jobs: dict[str, Callable[[], None]] = {
        "script": partial(script_edits, model, STEPS),
        "fair": partial(script_edits, model, fair_steps),
        **{name: partial(preset_edits, model, name) for name in ("balanced", "fast")},
    }
    for job in jobs.values():
        job()  # warms up
    times = [{name: seconds(job) for name, job in jobs.items()} for _ in range(rounds)]
    found = {}
    for name in ("balanced", "fast"):
        for key, other in (("job_wall_ratio", "script"), ("job_wall_ratio_fair", "fair")):
            found[f"{key}_{name}_n8"] = round(statistics.median(took[other] / took[name] for took in times), 2)
    return found


def measure_memory(model: VideoModel, edits: int = 8) -> dict[str, float]:
    """MiB of one step, beside the weights."""
    of = given(model, edits, 1)
    one = of.one(0)

    def together() -> Tensor:
        with concatenating():
            return shared(model, of, SCRIPT)

    calls = {
        "script, one edit": lambda: as_script(model, one),
        "ours, one edit": lambda: shared(model, one),
        f"script, {edits} edits in one call": together,
        f"ours, {edits} edits in one call": lambda: shared(model, of),
    }
    for call in calls.values():
        call()  # what is made once and kept is no cost of a step
    return {name: memory.peak_bytes(call) / 2**20 for name, call in calls.items()}


def print_table(title: str, rows: list[dict[str, Any]]) -> None:
    """Markdown, with the keys of the first row as its head."""
    print(f"\n{title}\n\n| " + " | ".join(rows[0]) + " |\n|" + "---|" * len(rows[0]))
    for row in rows:
        print("| " + " | ".join(f"{x:.3f}" if isinstance(x, float) else str(x) for x in row.values()) + " |")


def scaled(rows: list[dict[str, Any]], unit: float, *names: str) -> list[dict[str, Any]]:
    return [row | {name: row[name] / unit for name in names} for row in rows]


def by_edits(rows: list[dict[str, float]], name: str) -> dict[int, float]:
    return {int(row["N"]): round(row[name], 4) for row in rows}


def print_windows(meter: flops.Meter) -> dict[str, float]:
    costs = {name: count_edits(meter, recipe) / 8 / STEPS for name, recipe in WINDOWS.items()}
    saved = {name: round(1 - cost / costs["all steps, all layers"], 4) for name, cost in costs.items()}
    rows = [{"reference in": name, "TFLOP": x / 1e12, "saved": f"{saved[name]:.1%}"} for name, x in costs.items()]
    print_table("An edit and step on 5B at N = 8, averaged over all steps", rows)
    return saved


def print_jobs(meter: flops.Meter, row: flops.Flops, fair_steps: int) -> dict[str, Any]:
    jobs = count_jobs(meter, row, fair_steps)
    print_table("A whole job on 5B: inversion, gate and 8 edits, PFLOP", scaled(jobs, 1e15, "flops"))
    found: dict[str, Any] = {"fair_script_steps": fair_steps}
    for job in jobs[2:]:
        found[f"job_ratio_{job['recipe']}_n8"] = round(job["ratio"], 3)
        found[f"job_ratio_fair_{job['recipe']}_n8"] = round(job["fair ratio"], 3)
        found[f"whole_steps_{job['recipe']}"] = job["whole"]
    return found


def planned_row(model: VideoModel) -> int:
    """The estimate for a row at the model's usual size in bfloat16, bytes."""
    latents = model.latents(model.shape.frames, model.shape.height, model.shape.width)
    return memory.row_bytes(model.transformer.config, latents, torch.bfloat16)


def plan_memory(variant: str, edits: int = 4) -> dict[str, Any]:
    """The estimate for a released model in bfloat16 at its usual size."""
    model = flops.full_size(variant)
    shape, row = model.shape, planned_row(model) / 2**30
    rows, weights = memory.most_rows(SHARED, edits), sum(p.nbytes for p in model.transformer.parameters()) / 2**30
    found = {"model": variant, "frames": shape.frames, "size": f"{shape.height}x{shape.width}", "GiB a row": row}
    return found | {f"{edits} edits ({rows} rows)": rows * row, "transformer's weights": weights}


def print_memory_plan() -> dict[str, Any]:
    rows = [plan_memory(variant) for variant in flops.RELEASED]
    print_table("Estimated peak of a transformer call in bfloat16, GiB", rows)
    return {"gib_per_row": {row["model"]: round(row["GiB a row"], 4) for row in rows}}


def print_counts(shapes: VideoModel, fair_steps: int) -> dict[str, Any]:
    small, big = flops.Meter(shapes), flops.Meter(flops.full_size("5b"))
    row = one_row(big.model)
    small_steps, steps = count_steps(small, one_row(shapes)), count_steps(big, row)
    print(f"5B, one row: L = {row.linear / 1e12:.1f} TFLOP, A = {row.attention / 1e12:.1f} TFLOP")
    print_table("One step of N edits on 5B, 49 frames 480x720, TFLOP", scaled(steps, 1e12, "script", "ours"))
    print_table("One step of N edits on the shapes model, GFLOP", scaled(small_steps, 1e9, "script", "ours"))
    return {
        "flops_ratio_5b": by_edits(steps, "ratio"),
        "flops_ratio_shapes": by_edits(small_steps, "ratio"),
        "flops_over_floor": by_edits(steps, "ours/floor"),
        "closed_form_error": max(abs(r[f"{s}/closed"] - 1) for r in steps + small_steps for s in ("script", "ours")),
        "windows_saved_5b": print_windows(big),
        **print_jobs(big, row, fair_steps),
        **print_memory_plan(),
    }


def print_measured(shapes: VideoModel, fair_steps: int) -> dict[str, Any]:
    jobs = measure_jobs(shapes, fair_steps)
    print(f"\nWhole jobs of 8 edits on the shapes model by the clock, script ÷ preset: {jobs}")
    wall = measure_wall(shapes)
    print(f"\nWall-clock of 8 edits on the shapes model ({torch.get_num_threads()} threads), as a multiple of ours:")
    print(f"  the script's scheme {wall['script']:.2f}; with two-part attention", end=" ")
    print(f"{wall['script, two-part attention']:.2f}. Largest difference of results: {wall['difference']:.1e}")
    memory = measure_memory(shapes)
    print_table(
        "Peak memory of one step on the shapes model, beside the weights",
        [{"scheme": name, "MiB": mib} for name, mib in memory.items()],
    )
    alone, ours_alone, script_n, ours_n = memory.values()
    return {
        **jobs,
        "wall_ratio_n8": wall["script"],
        "peak_memory_ratio_n8": script_n / ours_n,
        "peak_memory_ratio_n1": alone / ours_alone,
        "peak_memory_script_one_by_one_over_ours_n8": alone / ours_n,
    }


def on_a_gpu(minutes: float, tiny: bool = False) -> dict[str, Any]:
    """Full-size models on the GPU; miniatures on the CPU where `tiny`."""
    if not tiny and not torch.cuda.is_available():
        print("No GPU here; with --tiny, this takes the same way with miniatures on the CPU.")
        return {}
    tables, about = engine_gpu.measured(minutes, tiny)
    for title, rows in tables.items():
        if rows:
            print_table(title, rows)
    return about


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts-only", action="store_true", help="no timing, no memory")
    parser.add_argument("--gpu-only", action="store_true", help="full-size models on the GPU, nothing else")
    parser.add_argument(
        "--minutes", type=float, default=6, help="of the GPU's part; what is not begun then is left out"
    )
    parser.add_argument("--tiny", action="store_true", help="the GPU's part on the CPU with miniatures, to try it out")
    parser.add_argument("--script-steps", type=int, default=FAIR_STEPS, help="of the script in the fair ratios")
    args = parser.parse_args()
    if args.gpu_only or args.tiny:
        print(json.dumps(on_a_gpu(args.minutes, args.tiny)))
        return
    shapes = VideoModel(build.build_pipeline("shapes"), ModelSpec(device="cpu"))
    result = print_counts(shapes, args.script_steps)
    if not args.counts_only:
        result |= print_measured(shapes, args.script_steps)
        result |= on_a_gpu(args.minutes) if torch.cuda.is_available() else {}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
