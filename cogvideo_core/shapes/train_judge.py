"""Trains the shapes world's CLIP, with which edits are judged: a small `CLIPModel` with a tokenizer of its own.

    python -m cogvideo_core.shapes.train_judge --out out/train-judge --export cogvideo_core/shapes/judge

It learns from single frames of rendered scenes, of what the VAE makes of them, and of decoded mixtures of a scene's
latents with those of its edited twin, whose caption is mixed alike. It never sees an edit that the model has made, nor
a combination that is held out. Interrupted runs go on from their last checkpoint.
"""

from __future__ import annotations

import argparse
import json
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from scipy import ndimage
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, trainers
from torch import Tensor
from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPTokenizer

from cogvideo_core.models.model import VideoModel, load
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.shapes import world
from cogvideo_core.shapes.fit import Run, multiplies_bfloat16

CLASSES = list(product(world.COLOURS, world.SHAPES, world.BACKGROUNDS))  # what a single frame can show
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)  # CLIP's own
TEST_SEED = 810_000
MAX_TOKENS = 24


def build_tokenizer() -> CLIPTokenizer:
    """CLIP's own tokenizer class; the byte pairs are learned from the captions, so each of their words is one token."""
    learner = Tokenizer(models.BPE(end_of_word_suffix="</w>", continuing_subword_prefix=""))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Split(Regex(r"\p{L}+"), behavior="removed", invert=True)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())  # all 256 bytes, so nothing is unknown
    trainer = trainers.BpeTrainer(
        vocab_size=1000, end_of_word_suffix="</w>", initial_alphabet=letters, show_progress=False
    )
    captions = [c.caption(i) for c in world.combinations() for i in range(len(world.WORDINGS))]
    learner.train_from_iterator(captions, trainer)
    learned = json.loads(learner.to_str())["model"]
    words = sorted(learned["vocab"], key=learned["vocab"].__getitem__)
    words += [letter + "</w>" for letter in letters if letter + "</w>" not in learned["vocab"]]
    words += ["<|startoftext|>", "<|endoftext|>"]
    merges = [tuple(pair) for pair in learned["merges"]]
    vocabulary = {word: number for number, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=MAX_TOKENS)


def build_clip(tokenizer: CLIPTokenizer) -> CLIPModel:
    """The model, with weights drawn from seed 1."""
    text = {
        "vocab_size": len(tokenizer),
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "max_position_embeddings": MAX_TOKENS,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }
    vision = {
        "hidden_size": 128,
        "intermediate_size": 384,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": world.SIZE_PX,
        "patch_size": 6,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=64))


def build_processor() -> CLIPImageProcessor:
    size = {"height": world.SIZE_PX, "width": world.SIZE_PX}
    return CLIPImageProcessor(size={"shortest_edge": world.SIZE_PX}, crop_size=size, image_mean=MEAN, image_std=STD)


class Pool(NamedTuple):
    """Frames to learn from: uint8 [n,3,F,H,W], and how much of each class (`CLASSES`) they show: float32 [n,36]."""

    frames: Tensor
    classes: Tensor


def class_of(scene: world.Scene) -> int:
    c = scene.combination
    return CLASSES.index((c.colour, c.shape, c.background))


def twins(count: int) -> list[tuple[world.Scene, world.Scene]]:
    """Scenes, each with an edited one: colour, shape, background, or several of them are others."""
    found: list[tuple[world.Scene, world.Scene]] = []
    seed = 0
    while len(found) < count:
        rng = np.random.default_rng((4, seed))
        scene = world.scene_from_seed(2_000_000 + seed, world.train_combinations())
        colour, shape, background = CLASSES[int(rng.integers(len(CLASSES)))]
        now, kept = scene.combination, rng.random(3) < 0.5
        names = ("colour", "shape", "background")
        wanted = {
            name: getattr(now, name) if keep else value
            for name, keep, value in zip(names, kept, (colour, shape, background), strict=True)
        }
        other = scene.edited(**wanted)
        if other != scene and not world.is_held_out(other.combination):
            found.append((scene, other))
        seed += 1
    return found


@torch.no_grad()
def pool_of(pairs: list[tuple[world.Scene, world.Scene]], model: VideoModel) -> Pool:
    """Of each pair: both as rendered, both decoded, and a decoded mixture of the two with a little noise."""
    frames, classes = [], []
    for number, (scene, other) in enumerate(pairs):
        rng = np.random.default_rng((5, number))
        own, its = (torch.eye(len(CLASSES))[class_of(one)] for one in (scene, other))
        rendered = [world.render(scene), world.render(other)]
        latents = [model.encode(one) for one in rendered]
        share, noise = float(rng.uniform(0, 1)), float(rng.uniform(0, 0.25))
        blurred = torch.from_numpy(rng.normal(0, noise, latents[0].shape)).to(latents[0])
        mixed = (1 - share) * latents[0] + share * latents[1] + blurred
        decoded = [model.decode(one) for one in (*latents, mixed)]
        frames += [torch.from_numpy(one).permute(3, 0, 1, 2) for one in (*rendered, *decoded)]
        classes += [own, its, own, its, (1 - share) * own + share * its]
    return Pool(torch.stack(frames), torch.stack(classes))


def counterfeit(scene: world.Scene, rng: np.random.Generator) -> tuple[np.ndarray, Tensor]:
    """A clip whose background has the brightness of its kind but not the pattern: uint8 [F,H,W,3], and its classes.

    The pattern is another kind's, or smooth noise of none: such backgrounds count for half of what they claim to be.
    """
    c = scene.combination
    others = [kind for kind in world.BACKGROUNDS if kind != c.background]
    if rng.random() < 0.5:
        kinds = [str(rng.choice(others))]
        shift = world.BACKGROUNDS[c.background] - world.BACKGROUNDS[kinds[0]]
        texture = world.texture(scene.edited(background=kinds[0])) + shift
    else:
        kinds = others
        noise = ndimage.gaussian_filter(rng.normal(size=(world.SIZE_PX, world.SIZE_PX)), rng.uniform(1, 4))
        grey = world.BACKGROUNDS[c.background] + scene.level + rng.uniform(4, 19) * noise / noise.std()
        texture = grey[..., None] * np.asarray(scene.tint)
    alpha = world.masks(scene)[..., None]
    colour = np.asarray(world.COLOURS[c.colour]) + np.asarray(scene.jitter)
    frames = np.clip(np.rint(alpha * colour + (1 - alpha) * texture), 0, 255).astype(np.uint8)
    classes = torch.eye(len(CLASSES))[class_of(scene)] / 2
    for kind in kinds:
        classes = classes + torch.eye(len(CLASSES))[class_of(scene.edited(background=kind))] / (2 * len(kinds))
    return frames, classes


@torch.no_grad()
def counterfeits(count: int, model: VideoModel) -> Pool:
    """Each as drawn and as decoded."""
    frames, classes = [], []
    for number in range(count):
        scene = world.scene_from_seed(3_000_000 + number, world.train_combinations())
        drawn, shown = counterfeit(scene, np.random.default_rng((8, number)))
        for one in (drawn, model.decode(model.encode(drawn))):
            frames.append(torch.from_numpy(one).permute(3, 0, 1, 2))
            classes.append(shown)
    return Pool(torch.stack(frames), torch.stack(classes))


def cached_pool(out: Path, count: int, model: VideoModel) -> Pool:
    """The pool of `count` pairs and half as many counterfeits, made once; about two seconds a pair on one core."""
    makers = {"pool": lambda: pool_of(twins(count), model), "counterfeits": lambda: counterfeits(count // 2, model)}
    for name, make in makers.items():
        if not (out / f"{name}.pt").exists():
            torch.save(tuple(make()), out / f"{name}.pt")
    parts = [torch.load(out / f"{name}.pt", weights_only=True) for name in makers]
    return Pool(*(torch.cat(pair) for pair in zip(*parts, strict=True)))


def captions(rng: np.random.Generator) -> list[str]:
    """One caption of each class, with a motion and a wording drawn anew."""
    drawn = zip(rng.choice(list(world.MOTIONS), len(CLASSES)), rng.integers(5, size=len(CLASSES)), strict=True)
    return [
        world.Combination(colour, shape, str(motion), background).caption(int(wording))
        for (colour, shape, background), (motion, wording) in zip(CLASSES, drawn, strict=True)
    ]


def normalised(frames: Tensor) -> Tensor:
    """uint8 [B,3,H,W] -> float32 as the image processor gives it."""
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (MEAN, STD))
    return (frames.float() / 255 - mean) / std


def shifted(frames: Tensor, rng: np.random.Generator) -> Tensor:
    """Frames [B,3,H,W] moved by up to three pixels, mirrored, a little brighter or darker, some of them noisy."""
    moved = [torch.roll(frame, tuple(rng.integers(-3, 4, 2)), (1, 2)) for frame in frames]
    batch = torch.stack(moved).float()
    flip = torch.from_numpy(rng.random(len(batch)) < 0.5)
    batch[flip] = batch[flip].flip(-1)
    batch += torch.from_numpy(rng.normal(0, 3, (len(batch), 3, 1, 1))).float()
    noise = torch.from_numpy(rng.normal(0, 1, batch.shape)).float()
    return (batch + noise * torch.from_numpy(rng.uniform(0, 6, (len(batch), 1, 1, 1))).float()).clamp(0, 255)


def logits(clip: Any, tokenizer: CLIPTokenizer, frames: Tensor, texts: list[str]) -> Tensor:
    """[B, texts] of frames as normalised."""
    tokens = tokenizer(texts, padding=True, return_tensors="pt")
    return clip(pixel_values=frames, **tokens).logits_per_image.float()


def train(out: Path, pool: Pool, test: Pool, steps: int, batch: int) -> tuple[CLIPModel, CLIPTokenizer]:
    """Cross entropy of each frame over one caption of every class; the model with averaged weights."""
    tokenizer = build_tokenizer()
    run = Run(out, "clip", build_clip(tokenizer), steps, peak=1e-3, ema=0.998)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((6, step))
        rows, frame = rng.integers(len(pool.frames), size=batch), rng.integers(world.FRAMES, size=batch)
        frames = normalised(shifted(pool.frames[rows, :, frame], rng))
        found = logits(run.model, tokenizer, frames, captions(rng))
        return torch.nn.functional.cross_entropy(found, pool.classes[rows], label_smoothing=0.02)

    def check() -> dict[str, float]:
        with torch.no_grad():
            middle = normalised(test.frames[:, :, world.FRAMES // 2])
            found = logits(run.averaged.eval(), tokenizer, middle, captions(np.random.default_rng(7)))
        error = (found.softmax(1) - test.classes).abs().sum(1) / 2
        sure = test.classes.max(1).values == 1
        right = (found.argmax(1) == test.classes.argmax(1))[sure]
        return {"right": round(float(right.float().mean()), 4), "error_mixed": round(float(error[~sure].mean()), 4)}

    run.train(loss_of, check, every=500)
    return run.averaged.eval(), tokenizer


def export(clip: CLIPModel, tokenizer: CLIPTokenizer, folder: Path) -> None:
    """The folder as transformers loads it, weights in float16."""
    clip.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    build_processor().save_pretrained(folder)
    contrasts = [" / ".join(words) for words in (world.COLOURS, world.SHAPES, world.BACKGROUNDS)]
    (folder / "contrasts.json").write_text(json.dumps(contrasts, indent=2) + "\n")
    clip.float()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/train-judge"), help="checkpoints, log and result")
    parser.add_argument("--pairs", type=int, default=1200, help="of scenes to learn from")
    parser.add_argument("--steps", type=int, default=4000)
    parser.add_argument("--batch", type=int, default=96, help="frames a step")
    parser.add_argument("--export", type=Path, help="also write the finished folder here")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    model = load(ModelSpec(dtype="bfloat16" if multiplies_bfloat16() else "float32"))
    unseen = [world.scene_from_seed(TEST_SEED + i, world.held_out_combinations()) for i in range(160)]
    pairs = [(one, other) for one, other in zip(unseen[::2], unseen[1::2], strict=True)]
    test = pool_of(pairs, model)
    pool = cached_pool(args.out, args.pairs, model)
    clip, tokenizer = train(args.out, pool, test, args.steps, args.batch)
    for folder in filter(None, (args.out / "model", args.export)):
        export(clip, tokenizer, folder)


if __name__ == "__main__":
    main()
