"""Long clips edited as one, beside their windows edited apart and joined end to end, as `dataset.window=all` does it.

    python tests/benchmarks/long.py --json out/long.json           # the table of docs/long.md; goes on where it stopped
    python tests/benchmarks/long.py --tuning --limit 2             # clips to tune on
    python tests/benchmarks/long.py --strip docs/figures/long.png --limit 0

24 held-out clips of 41 frames whose shape moves so slowly that it stays in view, with a colour and a shape edit each;
the list is frozen by its hash. A piece is 9 frames, a window of those that are joined: four in a clip, and the same
frames of the joint edit. `success`: colour, shape and background of a piece are read as wanted. The model has never
seen so slow a motion and moves the shape faster within a window, so motion is not marked.

`seam_delta_e`: mean ΔE2000 from frame to frame where windows meet, over that elsewhere. Seams of the joint edit are at
both ends of the latent frames that windows share, so always where the VAE begins another four frames; what single
windows show where it does so inside of them, where nothing meets, is divided out. `_raw` is the ratio before that, and
`_vae` the one over what the VAE alone does there, in a clip without any seam. `seam_flicker`: the same of how the
difference to the source changes from frame to frame where there is no object.
`identity`: share of the
frames, of edits that succeed as a whole, in which colour and shape are those wanted, each frame by itself; beside that
of the VAE's reconstruction of the ground truth. Peak memory is what torch allocates beyond the start latents, window
after window. `cost_ratio_5b` is that of 321 frames.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import time
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from shapes_edit import DTYPE, interval
from skimage.color import deltaE_ciede2000, rgb2lab
from torch import Tensor

from cogvideo_core.diffusion import editing
from cogvideo_core.diffusion.inversion import evaluations, invert
from cogvideo_core.diffusion.joint import Windows, edited_jointly
from cogvideo_core.diffusion.sliding import Sliding, edit_sliding
from cogvideo_core.diffusion.windows import Layout, default_overlap, layout_of
from cogvideo_core.media.quality import psnr
from cogvideo_core.models.memory import peak_bytes
from cogvideo_core.models.model import VideoModel, load
from cogvideo_core.settings.presets import PRESETS
from cogvideo_core.settings.specs import InversionSpec, ModelSpec, RecipeSpec
from cogvideo_core.shapes import figure, long, oracle, world
from cogvideo_core.study import flops, page

WINDOW, PIECES = world.FRAMES, long.FRAMES // world.FRAMES
HASH = "aa9ed6ef3bb321a871dd7f37400ba13bf222e0513f841e114beac53bc7d03877"
Row = dict[str, Any]


class Done(NamedTuple):
    """Edits of a clip: frames of each, the windows that share latent frames, evaluations that they cost."""

    frames: list[np.ndarray]
    layout: Layout
    evaluations: int


class Clip:
    """A long clip, its edits, and their prompts' embeddings."""

    def __init__(self, model: VideoModel, edits: list[world.BenchEdit]) -> None:
        self.model, self.edits, scene = model, edits, edits[0].scene
        self.frames = world.render(scene, long.FRAMES)
        text = model.embed([edit.target_prompt for edit in edits] + ["", edits[0].source_prompt])
        self.texts = editing.Texts(text[:-2], text[-2:-1], text[-1:])
        self.schedule = model.schedule(InversionSpec().steps)

    def windows(self, layout: Layout, parts: list[Tensor]) -> Windows:
        """Windows of these latents, inverted in one batch."""

        def velocity(x: Tensor, t: int) -> Tensor:
            return self.model.velocity(x, t, self.texts.reference.expand(len(x), -1, -1))

        states = list(invert(velocity, torch.stack(parts), self.schedule, InversionSpec()))
        stored = [[level[window] for level in states] for window in range(len(layout))]
        return Windows(layout, [self.model.velocity] * len(layout), [one.__getitem__ for one in stored], len(layout))

    def start(self, windows: Windows, recipe: RecipeSpec) -> Tensor:
        return torch.stack([editing.start_latents(recipe, self.schedule, windows.state, 0)] * len(self.edits))

    def joined(self, recipe: RecipeSpec) -> Done:
        """Windows encoded, edited and decoded apart: as one batch without overlap, which is the same."""
        cut = [self.frames[WINDOW * piece : WINDOW * (piece + 1)] for piece in range(PIECES)]
        parts = [self.model.encode(frames) for frames in cut]
        layout = layout_of(4 * (PIECES * len(parts[0]) - 1) + 1, WINDOW, 0)
        latents, cost = self.denoised(self.windows(layout, parts), recipe)
        frames = [np.concatenate([self.model.decode(part) for part in one.split(len(parts[0]))]) for one in latents]
        return Done(frames, layout, cost)

    def joint(self, recipe: RecipeSpec, overlap: int) -> tuple[Done, Windows]:
        layout, latents = layout_of(long.FRAMES, WINDOW, overlap), self.model.encode_sequence(self.frames)
        windows = self.windows(layout, [layout.of(latents, window) for window in range(len(layout))])
        clean, cost = self.denoised(windows, recipe)
        return Done([decoded(self.model, one) for one in clean], layout, cost), windows

    def denoised(self, windows: Windows, recipe: RecipeSpec) -> tuple[Tensor, int]:
        """Clean latents, and the transformer's rows that they cost."""
        before = self.model.evaluations
        clean = edited_jointly(
            windows, self.start(windows, recipe), self.texts, self.schedule, recipe, self.model.layers
        )
        return clean, self.model.evaluations - before

    def slid(self, windows: Windows, recipe: RecipeSpec) -> Tensor:
        sliding = Sliding(windows, self.texts, self.schedule, recipe, self.model.layers)
        return torch.cat(list(edit_sliding(sliding, self.start(windows, recipe))), dim=1)


def decoded(model: VideoModel, latents: Tensor) -> np.ndarray:
    return np.concatenate(list(model.decode_sequence(latents)))


@cache
def model_of(path: str, dtype: str) -> VideoModel:
    return load(ModelSpec(path=path, dtype=dtype))  # type: ignore[arg-type]


def seams(layout: Layout) -> list[int]:
    """The frames before which windows meet: first frames of shared latent frames, and of those after them."""
    if layout.overlap == 0:
        return [WINDOW * piece for piece in range(1, PIECES)]
    ends = [place + layout.span for place in layout.places]
    shared = {k for end, place in zip(ends, layout.places[1:], strict=False) for k in range(place, end + 1)}
    return sorted(4 * (k - 1) + 1 for k in shared)


def changes(frames: np.ndarray) -> np.ndarray:
    """Mean ΔE2000 from each frame to the next: [F-1]."""
    lab = rgb2lab(frames / 255.0)
    return deltaE_ciede2000(lab[:-1], lab[1:]).mean((1, 2))


def flickers(frames: np.ndarray, source: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """How much the difference to the source changes from each frame to the next, where no object is in both: [F-1]."""
    off = frames.astype(float) - source[: len(frames)]
    both = (outside[:-1] & outside[1:])[..., None]
    return (np.abs(np.diff(off, axis=0)) * both).sum((1, 2, 3)) / (3 * np.maximum(both.sum((1, 2, 3)), 1))


def outside_of(edit: world.BenchEdit, frames: np.ndarray) -> np.ndarray:
    """Where neither source nor ground truth nor edit shows the object: bool [F,H,W]."""
    shown = (world.masks(edit.scene, long.FRAMES) > 0) | (world.masks(edit.wanted, long.FRAMES) > 0)
    return ~oracle.grow(shown[: len(frames)] | (oracle.soft_mask(frames) > 0.5))


def right(frames: np.ndarray, wanted: world.Combination, names: tuple[str, ...]) -> bool:
    found = oracle.read(frames).matches(wanted)
    return all(found[name] for name in names)


def identity(frames: np.ndarray, wanted: world.Combination) -> float:
    """Share of the frames in which colour and shape are read as wanted, each by itself."""
    soft = oracle.soft_mask(frames)
    hits = [
        one.sum() >= oracle.MIN_AREA_PX
        and (one > 0.8).any()
        and oracle.read_colour(frame[None], one[None]) == wanted.colour
        and oracle.read_shape(one[None]) == wanted.shape
        for frame, one in zip(frames, soft, strict=True)
    ]
    return float(np.mean(hits))


def marks(clip: Clip, edit: world.BenchEdit, done: Done, frames: np.ndarray) -> Row:
    """All figures of one edit."""
    wanted, names = edit.wanted.combination, ("colour", "shape", "background")
    pieces = [frames[WINDOW * piece : WINDOW * (piece + 1)] for piece in range(PIECES)]
    outside, places = outside_of(edit, frames), np.array(seams(done.layout)) - 1
    found: Row = {
        "success": float(np.mean([right(piece, wanted, names) for piece in pieces])),
        "whole": right(frames, wanted, names),
        "identity": identity(frames, wanted),
        "background": psnr(frames[outside], clip.frames[: len(frames)][outside]),
    }
    inside = (
        [] if done.layout.overlap else [WINDOW * piece + 4 for piece in range(PIECES)]
    )  # no seam, but a latent frame
    for name, values in {"delta_e": changes(frames), "flicker": flickers(frames, clip.frames, outside)}.items():
        rest = np.delete(values, [*places, *inside]).mean()
        found |= {f"{name}_seam": float(values[places].mean()), f"{name}_else": float(rest)}
        found |= {f"{name}_inside": float(values[inside].mean())} if inside else {}
    return found


def of_clip(model: VideoModel, number: int, tuning: bool, recipe: RecipeSpec, overlap: int, more: bool) -> Row:
    """Marks of a clip's edits joined and joint; with `more`, also window after window, and of the VAE alone."""
    clip, started = Clip(model, list(long.long_edits(number + 1, number, tuning))), time.process_time()
    joined, (joint, windows) = clip.joined(recipe), clip.joint(recipe, overlap)
    pairs = {"joined": joined, "joint": joint}
    row: Row = {
        name: [marks(clip, edit, done, frames) for edit, frames in zip(clip.edits, done.frames, strict=True)]
        for name, done in pairs.items()
    }
    apart = editing.edit_evaluations(recipe, clip.schedule.steps, len(clip.edits), model.layers)
    row["cost_overhead"] = joint.evaluations / (len(joint.layout) * apart)
    if more:
        row |= of_vae(clip, joined, joint)
        frames = [decoded(model, one) for one in clip.slid(windows, recipe)]
        row["sliding_db"] = [psnr(a, b) for a, b in zip(frames, joint.frames, strict=True)]
        done = joint._replace(frames=frames)
        row["sliding"] = [marks(clip, edit, done, one) for edit, one in zip(clip.edits, frames, strict=True)]
    return row | {"seconds": time.process_time() - started}


def of_vae(clip: Clip, joined: Done, joint: Done) -> Row:
    """What the VAE alone makes of the clip, whole and in windows, and of the ground truth of its last edit."""
    model, last = clip.model, clip.edits[-1]
    still = last._replace(wanted=last.scene)
    whole = decoded(model, model.encode_sequence(clip.frames))
    cut = np.concatenate([model.decode(model.encode(clip.frames[WINDOW * i :][:WINDOW])) for i in range(PIECES)])
    truth = decoded(model, model.encode_sequence(world.render(last.wanted, long.FRAMES)))
    row: Row = {"vae_joint": [marks(clip, still, joint, whole)], "vae_joined": [marks(clip, still, joined, cut)]}
    return row | {"vae_identity": identity(truth, last.wanted.combination)}


def ratio(rows: list[Row], kind: str, name: str, where: str = "seam") -> float:
    """Of a figure at seams (or inside of windows) over that elsewhere, over all edits of a kind."""
    every = [one for row in rows for one in row.get(kind, [])]
    return float(np.mean([one[f"{name}_{where}"] for one in every]) / np.mean([one[f"{name}_else"] for one in every]))


def mean(rows: list[Row], kind: str, name: str) -> float:
    return float(np.mean([one[name] for row in rows for one in row[kind]]))


def summary(rows: list[Row]) -> Row:
    """The bars of long clips, over all clips that are marked."""
    told: Row = {"clips": len(rows), "edits": sum(len(row["joint"]) for row in rows)}
    for name in ("delta_e", "flicker"):
        for kind in ("joint", "joined", "sliding"):
            if any(kind in row for row in rows):
                own, vae = ratio(rows, kind, name), ratio(rows, "vae_joined" if kind == "joined" else "vae_joint", name)
                label = f"seam_{name}" if kind == "joint" else f"seam_{name}_{kind}"
                told |= {label: round(own / ratio(rows, "joined", name, "inside"), 3), f"{label}_raw": round(own, 3)}
                told |= {f"{label}_vae": round(own / vae, 3)}
    for kind in ("joint", "joined"):
        kept = [one["identity"] for row in rows for one in row[kind] if one["whole"]]
        label = "identity" if kind == "joint" else "identity_joined"
        told |= {label: round(float(np.mean(kept)), 3) if kept else None, f"{label}_edits": len(kept)}
    told["identity_vae"] = round(float(np.mean([row["vae_identity"] for row in rows if "vae_identity" in row])), 3)
    for name in ("success", "background"):

        def gain(numbers: Any, name: str = name) -> float:
            chosen = [rows[i] for i in numbers]
            return mean(chosen, "joint", name) - mean(chosen, "joined", name)

        low, high = interval(gain, len(rows))
        told |= {name: round(mean(rows, "joint", name), 3), f"{name}_joined": round(mean(rows, "joined", name), 3)}
        told |= {f"{name}_gain": [round(one, 3) for one in (gain(range(len(rows))), low, high)]}
    told["whole"] = {kind: round(mean(rows, kind, "whole"), 3) for kind in ("joint", "joined")}
    told["cost_overhead"] = round(float(np.mean([row["cost_overhead"] for row in rows])), 4)
    slid = [db for row in rows for db in row.get("sliding_db", [])]
    told |= {"sliding_db": round(float(np.mean(slid)), 1), "sliding_db_worst": round(min(slid), 1)} if slid else {}
    return told


def cost_ratios(recipe: RecipeSpec, edits: int = 4) -> Row:
    """FLOPs on 5B at 49 frames with the default overlap over those of windows without one, inversion included."""
    model, spec = flops.full_size("5b"), InversionSpec()
    layout = layout_of(49, 49, 0)
    given = flops.given(model, edits, spec.steps)
    meter = flops.Meter(model)
    window = Windows(layout, [meter], [given.trajectory.__getitem__])
    schedule = model.schedule(spec.steps)
    one = meter.of(lambda: edited_jointly(window, given.x, given.texts, schedule, recipe, model.layers))
    row = flops.count(lambda: model.velocity(given.x[:1], 500, given.texts.cond[:1])).total
    cost, overlap = one + evaluations(spec) * row, default_overlap(49)

    def over(frames: int) -> float:
        found = layout_of(frames, 49, overlap)
        return len(found) * cost / (cost * found.frames / 49)

    found = {str(frames): round(over(frames), 3) for frames in (97, 161, 321, 641, 2401)}
    about = {"overlap_5b": overlap, "window_pflop_5b": round(cost / 1e15, 2)}
    return {"cost_ratio_5b": found["321"], "cost_ratio_5b_by_frames": found} | about


def peak(model: VideoModel, frames: int, recipe: RecipeSpec) -> int:
    """Bytes that two edits of a clip of so many frames take, window after window, beside start and end."""
    layout, schedule = layout_of(frames, WINDOW, default_overlap(WINDOW)), model.schedule(4)
    text = model.embed([world.scene_from_seed(0).combination.caption(), "", "a red circle"])
    texts = editing.Texts(text[:1].repeat(2, 1, 1), text[1:2], text[2:3])

    def state(level: int) -> Tensor:
        return torch.randn(layout.span, 8, 12, 12, generator=torch.Generator().manual_seed(level))

    windows = Windows(layout, [model.velocity] * len(layout), [state] * len(layout))
    sliding = Sliding(windows, texts, schedule, recipe, model.layers)
    x = torch.randn(2, layout.latents, 8, 12, 12)
    return peak_bytes(lambda: [part.shape for part in edit_sliding(sliding, x)])


def strip(model: VideoModel, number: int, file: Path, overlap: int) -> None:
    """Every fourth frame of a tuning clip, of its windows edited apart and joined, and of the joint edit."""
    clip, recipe = Clip(model, list(long.long_edits(number + 1, number, True))), PRESETS["balanced"]
    joined, (joint, _) = clip.joined(recipe), clip.joint(recipe, overlap)
    wish = clip.edits[0].target_prompt
    last = joined.frames[0][-1:].repeat(long.FRAMES - len(joined.frames[0]), 0) * 0 + 255  # the rest is cut off there
    rows = {
        f"clip: {clip.edits[0].source_prompt}": clip.frames,
        f"windows joined: {wish}": np.concatenate([joined.frames[0], last]),
        f"edited as one: {wish}": joint.frames[0],
    }
    figure.strip(rows, range(0, long.FRAMES, 4), 1).save(file)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=24, help="clips, two edits each")
    parser.add_argument(
        "--more", type=int, default=6, help="clips edited window after window too, and put through the VAE"
    )
    parser.add_argument("--tuning", action="store_true", help="clips of trained combinations, not the held-out list")
    parser.add_argument("--overlap", type=int, default=default_overlap(WINDOW), help="latent frames")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a recipe field, as JSON")
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--dtype", default=DTYPE, choices=["float32", "bfloat16"], help="of the transformer")
    parser.add_argument("--json", type=Path, help="file of clips that are marked; those that it holds are not again")
    parser.add_argument("--page", type=Path, help="page whose table between its marks is renewed")
    parser.add_argument("--strip", type=Path, help="PNG to draw of a tuning clip")
    parser.add_argument("--clip", type=int, default=0, help="the tuning clip of the strip")
    args = parser.parse_args()
    torch.set_num_threads(1)
    assert long.long_hash() == HASH, "the list of clips has changed"
    model, changed = model_of(args.model, args.dtype), {k: json.loads(v) for k, v in (s.split("=") for s in args.set)}
    if args.strip:
        strip(model, args.clip, args.strip, args.overlap)
    about = {"model": model.fingerprint, "overlap": args.overlap, "tuning": args.tuning, "recipe": changed}
    held = json.loads(args.json.read_text("utf-8")) if args.json and args.json.is_file() else {"about": about}
    rows, recipe = held["rows"] if held.get("about") == about and "rows" in held else [], RecipeSpec(**changed)
    for number in range(len(rows), args.limit):
        rows.append(of_clip(model, number, args.tuning, recipe, args.overlap, number < args.more))
        if args.json:
            args.json.parent.mkdir(parents=True, exist_ok=True)
            args.json.write_text(json.dumps({"about": about, "rows": rows}), "utf-8")
        print(number + 1, json.dumps(summary(rows)), flush=True)
    if not rows:
        return
    memory = {frames: peak(model, frames, recipe) for frames in (long.FRAMES, 161)}
    told = summary(rows[: args.limit]) | cost_ratios(recipe) | {"peak_memory_ratio": round(memory[161] / memory[41], 3)}
    told |= {"peak_mib": {str(k): round(v / 2**20, 2) for k, v in memory.items()}, "dtype": args.dtype}
    told |= {"overlap": args.overlap, "cpu_minutes": round(sum(row["seconds"] for row in rows) / 60, 1)}
    if args.page:
        args.page.write_text(page.between(args.page.read_text("utf-8"), "long", table(told)), "utf-8")
    print(json.dumps(told))


def table(told: Row) -> str:
    """The table of docs/long.md."""

    def gain(name: str, unit: str = "") -> str:
        mid, low, high = told[f"{name}_gain"]
        return f"{mid:+.2f}{unit} ({low:+.2f} to {high:+.2f})"

    lines = [["", "edited as one", "windows joined", "window after window"]]
    for name, title in {
        "delta_e": "change where windows meet, ΔE2000",
        "flicker": "flicker of the background there",
    }.items():
        for kind, label in {"": "", "_raw": ", nothing divided out", "_vae": ", over the VAE's own"}.items():
            found = [told.get(f"seam_{name}{which}{kind}", "") for which in ("", "_joined", "_sliding")]
            lines.append([f"{title}{label}", *map(str, found)])
    edits = f"{told['identity_edits']} and {told['identity_joined_edits']} edits"
    lines.append(
        [f"identity ({edits}; VAE {told['identity_vae']})", str(told["identity"]), str(told["identity_joined"]), ""]
    )
    lines.append(
        ["pieces of 9 frames that succeed", f"{told['success']}: {gain('success')}", str(told["success_joined"]), ""]
    )
    back = f"{told['background']}: {gain('background')}"
    lines.append(["background PSNR, dB", back, str(told["background_joined"]), ""])
    lines.append(["PSNR to the edit as one, dB (worst)", "", "", f"{told['sliding_db']} ({told['sliding_db_worst']})"])
    return page.table(lines[0], lines[1:])


if __name__ == "__main__":
    main()
