"""Draws the README's strip: a clip, its reconstruction from the inverted noise, and edits of it, frame by frame.

python -m cogvideo_core.shapes.figure docs/figures/strip.png
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from cogvideo_core.diffusion import ddim, editing
from cogvideo_core.diffusion.inversion import invert
from cogvideo_core.models.model import VideoModel, load
from cogvideo_core.settings.presets import PRESETS
from cogvideo_core.settings.specs import InversionSpec, ModelSpec, RecipeSpec
from cogvideo_core.shapes import world

SCALE, GAP, LABEL_PX = 2, 4, 372
SHOWN = range(0, world.FRAMES, 2)


def versions(model: VideoModel, scene: world.Scene, recipe: RecipeSpec, targets: list[str]) -> dict[str, np.ndarray]:
    """Label -> frames: the clip, its reconstruction, one edit a target prompt, in one batch."""
    settings = InversionSpec()
    schedule, source = model.schedule(settings.steps), scene.combination.caption()
    text = model.embed([*targets, "", source])
    texts = editing.Texts(text[:-2], text[-2:-1], text[-1:])
    velocity, frames = model.one_row(texts.reference), world.render(scene)
    states = list(invert(velocity, model.encode(frames), schedule, settings))
    *_, again = ddim.sample(velocity, states[-1], schedule)
    starts = [editing.start_latents(recipe, schedule, states.__getitem__, seed) for seed in range(len(targets))]
    *_, edited = editing.edit(
        model.velocity, torch.stack(starts), texts, states.__getitem__, schedule, recipe, model.layers
    )
    found = {f"clip: {source}": frames, "reconstruction": model.decode(again)}
    return found | {target: model.decode(latents) for target, latents in zip(targets, edited, strict=True)}


def targets_of(edits: list[world.BenchEdit]) -> list[str]:
    """Six target prompts: the clip's four changes of the bench, then other changes of one attribute."""
    scene = edits[0].scene
    others: dict[str, Iterable[str]] = {"background": world.BACKGROUNDS, "colour": world.COLOURS, "shape": world.SHAPES}
    more = [scene.edited(**{name: value}) for name, values in others.items() for value in values]
    wanted = [edit.wanted for edit in edits if edit.kind != "none"] + [one for one in more if one != scene]
    return list(dict.fromkeys(one.combination.caption() for one in wanted))[:6]


def strip(rows: dict[str, np.ndarray], shown: range = SHOWN, scale: int = SCALE) -> Image.Image:
    """One row a version, its label on the left, every second frame on the right."""
    size = world.SIZE_PX * scale
    picture = Image.new("RGB", (LABEL_PX + len(shown) * (size + GAP), len(rows) * (size + GAP) - GAP), "white")
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(15)
    for y, (label, frames) in enumerate(rows.items()):
        top = y * (size + GAP)
        words, half = label.split(), len(label) // 2 + 4
        lines = [""]
        for word in words:
            if len(lines[-1]) + len(word) > max(half, 30):
                lines.append("")
            lines[-1] += f"{word} "
        draw.multiline_text((8, top + size // 2), "\n".join(lines), fill="black", font=font, anchor="lm")
        for x, index in enumerate(shown):
            frame = Image.fromarray(frames[index]).resize((size, size), Image.Resampling.BICUBIC)
            picture.paste(frame, (LABEL_PX + x * (size + GAP), top))
    return picture


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path, help="PNG to write")
    parser.add_argument("--model", default="shapes")
    parser.add_argument("--recipe", default="balanced", choices=list(PRESETS))
    parser.add_argument("--clip", type=int, default=0, help="number of the bench's clip")
    args = parser.parse_args()
    edits = [edit for edit in world.bench_edits(args.clip + 1) if edit.clip == args.clip]
    rows = versions(load(ModelSpec(path=args.model)), edits[0].scene, PRESETS[args.recipe], targets_of(edits))
    args.file.parent.mkdir(parents=True, exist_ok=True)
    strip(rows).save(args.file, optimize=True)
    print(args.file)


if __name__ == "__main__":
    main()
