"""Local edits with masks against the same edits without, on fresh held-out shapes clips: colour, shape, and both.

    nice python tests/benchmarks/masks.py                   # 42 held-out clips, 126 edits
    nice python tests/benchmarks/masks.py --tuning --limit 6 --set grow_px=2
    nice python tests/benchmarks/masks.py --figure docs/figures/masks.png --first 3      # one clip's edit, drawn

Each clip is inverted once. Its three edits are made by `balanced` without masks; then, with a reference weight of 0.1,
with given masks and with masks that are found (auto). A given mask is the union of the true source object and of the
object that is wanted, frame by frame. `outside` is what is further than one latent cell from where the mask, widened,
lets a cell change; there PSNR is measured against the source, for edits with and without masks alike. `pasted` are the
same edits with the source's own pixels outside. Success: the oracle reads all four attributes as wanted. Intervals are
of 95 %, over clips.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cogvideo_core.diffusion import editing
from cogvideo_core.diffusion.inversion import evaluations, invert
from cogvideo_core.diffusion.masks import cells_of, pixels_of
from cogvideo_core.media.masks import pasted
from cogvideo_core.media.quality import flicker, psnr
from cogvideo_core.media.regions import seam, widened
from cogvideo_core.models.model import VideoModel, load
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.shapes import oracle, world
from cogvideo_core.shapes.figure import strip
from cogvideo_core.shapes.fit import multiplies_bfloat16
from cogvideo_core.stages import masks
from cogvideo_core.stages.work import Shared, Work
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.study.bench import interval

SEED, CLIPS, TUNING_SEED = 930_000, 42, 710_000
KINDS = ("colour", "shape", "both")
# chosen on clips of trained combinations; a cell is 4 pixels here, and found masks are wider by themselves
SETTINGS = {"given": MaskSpec(grow_px=6, feather_px=2), "auto": MaskSpec(use="auto", grow_px=2, feather_px=2)}
# what is outside no longer depends on the reference, so inside it may weigh less than the .25 of `balanced`
INSIDE = RecipeSpec(reference_weight=0.1)
Marks = dict[str, float]


def listed(number: int, tuning: bool = False) -> list[world.BenchEdit]:
    """The local edits of a clip, of the held-out list or of one with trained combinations."""
    pool = world.train_combinations() if tuning else world.held_out_combinations()
    edits = world.bench_edits(number + 1, TUNING_SEED if tuning else SEED, pool)
    return [edit for edit in edits if edit.clip == number and edit.kind in KINDS]


def list_hash() -> str:
    """Fingerprint of the held-out list: pixels, kinds and prompts."""
    digest = hashlib.sha256()
    for number in range(CLIPS):
        for edit in listed(number):
            told = f"{edit.kind}|{edit.source_prompt}|{edit.target_prompt}"
            digest.update(world.render(edit.scene).tobytes() + world.render(edit.wanted).tobytes() + told.encode())
    return digest.hexdigest()


def true_mask(edit: world.BenchEdit) -> np.ndarray:
    """Where the source object is, or the wanted one is to be: bool [F,H,W]."""
    return (world.masks(edit.scene) > 0.5) | (world.masks(edit.wanted) > 0.5)


class Bench:
    """A clip that is inverted, and its edits in every way."""

    def __init__(self, model: VideoModel, edits: list[Any], root: str, frames: np.ndarray | None = None) -> None:
        """frames: of the clip, where they are not its scene's."""
        self.model, self.edits, self.inversion, self.recipe = model, edits, InversionSpec(), RecipeSpec()
        groups = (DatasetSpec(), self.inversion, self.recipe, OutputSpec(root=root), EngineSpec(edits_per_batch=16))
        self.work = Work(*groups, model, Ledger(root))
        self.frames = world.render(edits[0].scene) if frames is None else frames
        latents = model.encode(self.frames)
        self.decoded, self.schedule = model.decode(latents), model.schedule(self.inversion.steps)
        prompts = [*(edit.target_prompt for edit in edits), self.recipe.negative_prompt, edits[0].source_prompt]
        self.text, size = model.embed(prompts), self.frames.shape
        one_row = model.one_row(self.text[-1:])
        # float16, as it is stored
        self.states = [state.half().float() for state in invert(one_row, latents, self.schedule, self.inversion)]
        self.record = {"mask_key": "auto", "source_prompt": prompts[-1], "target_prompts": prompts[:-2]}
        self.record |= {"frames": size[0], "height": size[1], "width": size[2]}

    def shared(self, given: bool) -> Shared:
        own = {edit.target_prompt: true_mask(edit) for edit in self.edits} if given else {}
        shared = Shared(lambda: self.decoded, None, masks=own)
        masks.prepare(self.work, self.record, self.model.velocity, self.states.__getitem__, shared)
        return shared

    def edited(self, shared: Shared | None) -> list[np.ndarray]:
        """Frames of the edits, made in one batch; `shared` holds their masks, None for none."""
        batch: Any = [{"target_prompt": edit.target_prompt} for edit in self.edits]
        kept = masks.batch_masks(self.work, self.record, batch, self.recipe, shared) if shared else None
        texts = editing.Texts(self.text[:-2], self.text[-2:-1], self.text[-1:], masks=kept)
        start = editing.start_latents(self.recipe, self.schedule, self.states.__getitem__, 0)
        x = start.expand(len(batch), *start.shape)
        steps = (self.states.__getitem__, self.schedule, self.recipe, self.model.layers)
        *_, clean = editing.edit(self.model.velocity, x, texts, *steps)
        return [self.model.decode(latents) for latents in clean]

    def cost(self, auto: bool) -> float:
        """Evaluations an edit, the inversion's share included."""
        steps, edits = self.inversion.steps, len(self.edits)
        total = evaluations(self.inversion) + editing.edit_evaluations(self.recipe, steps, edits, self.model.layers)
        return (total + (masks.evaluations(self.work, self.record) if auto else 0)) / edits


def on_grid(bench: Bench, pixels: np.ndarray) -> np.ndarray:
    return cells_of(torch.from_numpy(pixels.astype(np.float32)), bench.model.pixels_a_cell).numpy()


def outside_of(bench: Bench, alpha: np.ndarray) -> np.ndarray:
    """Pixels further than a cell from where any cell may change: bool [F,H,W]."""
    cells = torch.from_numpy(on_grid(bench, alpha))
    return ~widened(pixels_of(cells, bench.model.pixels_a_cell).numpy() > 0, bench.model.pixels_a_cell)


def marks(bench: Bench, edit: world.BenchEdit, plain: np.ndarray, frames: np.ndarray, mask: np.ndarray) -> Marks:
    """Figures of one edit with a mask, beside those of the same edit without."""
    alpha = masks.alpha_of(bench.work, mask)
    both, outside = pasted(bench.frames, frames, alpha), outside_of(bench, alpha)
    source, wanted = bench.frames, edit.wanted.combination
    hits = {"success": frames, "success_pasted": both, "success_plain": plain}
    found = {name: float(all(oracle.read(one).matches(wanted).values())) for name, one in hits.items()}
    found |= {"seam": seam(source, frames, alpha), "seam_pasted": seam(source, both, alpha)}
    found |= {"seam_vae": seam(source, bench.decoded, alpha), "mask_share": float((alpha > 0).mean())}
    if outside.sum() >= 100:
        each = {"plain": plain, "masked": frames, "vae": bench.decoded, "pasted": both}
        found |= {f"{name}_db": psnr(source[outside], one[outside]) for name, one in each.items()}
        found |= {f"{name}_flicker": flicker(source, one, outside) for name, one in each.items()}
    truth, own = on_grid(bench, true_mask(edit)) > 0, on_grid(bench, mask) > 0
    found["recall"] = float((truth & own).sum() / truth.sum())
    found["iou"] = float((truth & own).sum() / (truth | own).sum())
    return found


def measured(model: VideoModel, number: int, tuning: bool, specs: dict[str, MaskSpec]) -> dict[str, Any]:
    """The marks of a clip's edits with given masks and with found ones."""
    edits = listed(number, tuning)
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(model, edits, root)
        plain, found = bench.edited(None), {}
        bench.recipe = INSIDE
        for name, spec in specs.items():
            bench.work = replace(bench.work, mask=spec)
            shared = bench.shared(given=name == "given")
            frames = zip(edits, plain, bench.edited(shared), strict=True)
            found[name] = [marks(bench, e, p, f, shared.masks[e.target_prompt]) for e, p, f in frames]
        cost = {"evaluations": bench.cost(False), "auto_evaluations": bench.cost(True)}
    return found | {"cost": cost}


def drawn(model: VideoModel, number: int, file: Path) -> None:
    """A strip of a clip, its masks, and its last edit without a mask, with the given one, and with a found one."""
    edits = listed(number)
    with tempfile.TemporaryDirectory() as root:
        bench = Bench(model, edits, root)
        plain, wish = bench.edited(None)[-1], edits[-1].target_prompt
        rows = {f"clip: {edits[-1].source_prompt}": bench.frames, f"without a mask: {wish}": plain}
        bench.recipe = INSIDE
        for name, spec in SETTINGS.items():
            bench.work = replace(bench.work, mask=spec)
            shared = bench.shared(given=name == "given")
            alpha = masks.alpha_of(bench.work, shared.masks[wish])
            rows[f"mask: {name}"] = np.repeat(np.rint(255 * alpha).astype(np.uint8)[..., None], 3, -1)
            rows[f"edit with it ({name}), source pasted"] = pasted(bench.frames, bench.edited(shared)[-1], alpha)
    file.parent.mkdir(parents=True, exist_ok=True)
    strip(rows).save(file, optimize=True)
    print(file)


def told(clips: Sequence[list[Marks]]) -> dict[str, Any]:
    """Means over all edits, and differences to the edits without masks with their intervals over clips."""
    rows = [row for clip in clips for row in clip]
    # a mask of the whole picture has no border, and so no seam
    mean = {name: float(np.nanmean([row.get(name, np.nan) for row in rows])) for name in rows[0]}

    def gain(ours: str, theirs: str) -> list[float]:
        each = [[row[ours] - row[theirs] for row in clip if ours in row] for clip in clips]
        values = [float(np.mean(one)) for one in each if one]
        return [round(float(np.mean(values)), 3), *(round(end, 3) for end in interval(values))]

    return {
        "edits": len(rows),
        "success": [round(mean[name], 3) for name in ("success_plain", "success", "success_pasted")],
        "success_change": gain("success", "success_plain"),
        "success_change_pasted": gain("success_pasted", "success_plain"),
        "background_gain_db": gain("masked_db", "plain_db"),
        "background_below_vae_db": gain("vae_db", "masked_db"),
        "pasted_db": round(mean["pasted_db"], 2),
        "seam": [round(mean[name], 3) for name in ("seam_vae", "seam", "seam_pasted")],
        "flicker": [round(mean[f"{name}_flicker"], 3) for name in ("vae", "plain", "masked", "pasted")],
        "recall": round(mean["recall"], 3),
        "iou": round(mean["iou"], 3),
        "mask_share": round(mean["mask_share"], 3),
    }


def so_far(found: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """Success without and with masks, PSNR outside without, with and of the VAE, recall and IoU: means up to here."""
    names = ("success_plain", "success", "plain_db", "masked_db", "vae_db", "recall", "iou")
    rows = {kind: [row for clip in found for row in clip[kind]] for kind in SETTINGS}
    return {
        kind: [round(float(np.mean([row[name] for row in own if name in row] or [np.nan])), 3) for name in names]
        for kind, own in rows.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--limit", type=int, default=CLIPS, help="clips, three edits each")
    parser.add_argument("--first", type=int, default=0, help="number of the first clip")
    parser.add_argument("--tuning", action="store_true", help="clips of trained combinations instead of held-out ones")
    parser.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE", help="a field of mask, as JSON")
    parser.add_argument("--figure", type=Path, help="PNG to draw of the clip --first, instead of measuring")
    parser.add_argument("--model", default="shapes")
    args = parser.parse_args()
    changes = {field: json.loads(value) for field, value in (pair.split("=", 1) for pair in args.set)}
    specs = {name: MaskSpec(**spec.as_json() | changes) for name, spec in SETTINGS.items()}
    started = time.perf_counter()
    torch.set_num_threads(1)
    dtype: Any = "bfloat16" if multiplies_bfloat16() else "float32"
    model, found = load(ModelSpec(path=args.model, dtype=dtype)), []
    if args.figure:
        drawn(model, args.first, args.figure)
        return
    for number in range(args.first, args.first + args.limit):
        found.append(measured(model, number, args.tuning, specs))
        print(f"clip {number}, {time.perf_counter() - started:.0f} s; so far {so_far(found)}", flush=True)
    given, auto = (told([clip[name] for clip in found]) for name in ("given", "auto"))
    cost = {name: found[0]["cost"][name] for name in found[0]["cost"]}
    result = {"given": given, "auto": auto, "clips": args.limit, "tuning": args.tuning}
    result["inside"] = {"reference_weight": INSIDE.reference_weight}
    result["settings"] = {name: spec.as_json() for name, spec in specs.items()}
    result |= {name: round(value, 2) for name, value in cost.items()}
    result["evaluations_ratio"] = round(cost["auto_evaluations"] / cost["evaluations"], 3)
    for name in ("given", "auto"):
        print(f"\n{name}")
        for figure, value in result[name].items():
            print(f"  {figure}: {value}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
