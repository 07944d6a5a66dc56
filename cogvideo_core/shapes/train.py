"""Trains the shapes CogVideoX: VAE on crops, latents cached, then transformer and text encoder jointly.

    python -m cogvideo_core.shapes.train --out out/train

Interrupted runs go on from their last checkpoint when the same command is given again.
The result, `OUT/model`, is an ordinary diffusers folder; `--export FOLDER` writes another copy.
"""

from __future__ import annotations

import argparse
import json
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import CogVideoXPipeline
from torch import Tensor, nn

from cogvideo_core.shapes import build, world
from cogvideo_core.shapes.fit import Run
from cogvideo_core.shapes.generate import success
from cogvideo_core.shapes.train_vae import cached_latents, equalise, train_scenes, train_vae

CROP_CELLS = 8  # of latents; two cells a token
REACH = 3.5  # latent cells from an object's centre to beyond its corners
JITTER = 0.7  # latent cells, of a crop's place; grows from 0
FORMING = (550, 980)  # timesteps at which an object's place is known and its shape is not
DIFFERENCE = 1.0  # weight of the difference between a pair's errors, falling to 0


def token_ids(tokenizer: Any, prompts: list[str]) -> Tensor:
    """int64 [B, MAX_TEXT_TOKENS], as CogVideoXPipeline tokenises."""
    encoded = tokenizer(
        prompts, padding="max_length", max_length=build.MAX_TEXT_TOKENS, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids


@cache
def latent_centres(count: int) -> Tensor:
    """Where the object is in each latent frame: float32 [n,f,2], (x, y) in latent cells."""
    places = np.stack([world.centres(scene) for scene in train_scenes(count)])
    # the VAE takes the first frame alone and then four at a time
    frames = [places[:, 0]] + [places[:, i : i + 4].mean(1) for i in range(1, world.FRAMES, 4)]
    return torch.from_numpy(np.stack(frames, axis=1) / build.SPATIAL).float()


def object_weights(centres: Tensor, size: int) -> Tensor:
    """[n,f,1,size,size]: 1 within an object's reach of its centre, 0.2 elsewhere."""
    cells = torch.arange(size) + 0.5
    far_x, far_y = (cells - centres[..., axis, None] for axis in (0, 1))
    near = (far_x[..., None, :].square() + far_y[..., :, None].square()).sqrt() < REACH
    return torch.where(near, 1.0, 0.2)[:, :, None]


class Batch(NamedTuple):
    """Rows of one training step."""

    x_0: Tensor  # [B,f,C,h,w]
    weights: Tensor  # [B,f,1,h,w]
    rope: tuple[Tensor, Tensor]


def clip_batch(latents: Tensor, centres: Tensor, rows: np.ndarray, rope: tuple[Tensor, Tensor]) -> Batch:
    """Whole clips."""
    return Batch(latents[rows].float(), object_weights(centres[rows], latents.shape[-1]), rope)


def crop_batch(
    latents: Tensor,
    centres: Tensor,
    rows: np.ndarray,
    rope: tuple[Tensor, Tensor],
    rng: np.random.Generator,
    jitter: float,
) -> Batch:
    """One latent frame of each clip, cut to CROP_CELLS around the object, at a random place of the token grid.

    In a whole clip the shape is hard to learn: where it matters the place is unknown, and where the place is known the
    shape is in plain sight. With the place given to within `jitter` cells, only the caption tells the shape.
    """
    frames, size = latents.shape[1], latents.shape[-1]
    frame, room, p = int(rng.integers(frames)), size - CROP_CELLS, CROP_CELLS // 2
    offsets = rng.normal(0, jitter, (len(rows) // 2, 2)).repeat(2, axis=0)  # the same for both of a pair
    corners = centres[rows, frame] - CROP_CELLS / 2 + torch.from_numpy(offsets)
    corners = corners.round().clamp(0, room).long()
    whole = object_weights(centres[rows, frame : frame + 1], size)
    cut = [(slice(int(y), int(y) + CROP_CELLS), slice(int(x), int(x) + CROP_CELLS)) for x, y in corners]
    x_0 = torch.stack([latents[i, frame : frame + 1, :, v, u].float() for i, (v, u) in zip(rows, cut, strict=True)])
    weights = torch.stack([w[:, :, v, u] for w, (v, u) in zip(whole, cut, strict=True)])
    y, x = rng.integers(size // 2 - p + 1, size=2)

    def table(values: Tensor) -> Tensor:
        grid = values.reshape(frames, size // 2, size // 2, -1)
        return grid[frame, y : y + p, x : x + p].reshape(p * p, -1)

    return Batch(x_0, weights, (table(rope[0]), table(rope[1])))


class Draw(NamedTuple):
    """What a step's batch is made of; the two rows of a pair share everything but clip and caption's shape."""

    rows: np.ndarray
    captions: list[str]
    t: Tensor  # int64 [B]


@cache
def round_pairs(count: int) -> np.ndarray:
    """The pairs of the first `count` training scenes that are a circle and a square, the two hardest to tell apart."""
    shapes = [scene.combination.shape for scene in train_scenes(count)]
    return np.array([i for i in range(count // 2) if "triangle" not in shapes[2 * i : 2 * i + 2]])


def drawn(scenes: list[world.Scene], pairs: int, rng: np.random.Generator) -> Draw:
    """Pairs of clips, half of them a circle and a square; captions of one wording or none; timesteps, six in ten of
    them where objects take form."""
    alike = rng.choice(round_pairs(len(scenes)), pairs)
    chosen = np.where(rng.random(pairs) < 0.5, alike, rng.integers(len(scenes) // 2, size=pairs))
    rows = (2 * chosen[:, None] + np.arange(2)).ravel()
    wordings, dropped = rng.integers(len(world.WORDINGS), size=pairs), rng.random(pairs) < 0.1
    captions = [
        "" if dropped[i // 2] else scenes[row].combination.caption(int(wordings[i // 2])) for i, row in enumerate(rows)
    ]
    t = np.where(rng.random(pairs) < 0.6, rng.integers(*FORMING, pairs), rng.integers(0, 1000, pairs))
    return Draw(rows, captions, torch.from_numpy(t.repeat(2)))


def crop_share(part: float) -> float:
    """The share of steps on crops after this part of the training: nearly all in the first half, none in the last
    quarter."""
    return float(np.interp(part, (0.5, 0.75), (0.95, 0)))


def loss_of_pairs(error: Tensor, x_0: Tensor, weights: Tensor, difference: float) -> Tensor:
    """Weighted mean square of the errors [B,f,C,h,w], plus `difference` times that of the difference in a pair's
    errors, relative to its clips.

    Most of an error is the background, which no caption describes and which a pair's rows share. It cancels in their
    difference, so that what the caption describes stands out. It is divided by the distance of the two clips: a circle
    and a square are less than half as far apart as either is from a triangle.
    """
    weights = weights.expand_as(error)
    own = (error.square() * weights).sum() / weights.sum()
    if difference == 0:
        return own
    unshared, apart = ((rows[::2] - rows[1::2]).square() * weights[::2] for rows in (error, x_0))
    return own + difference * (unshared.sum((1, 2, 3, 4)) / apart.sum((1, 2, 3, 4))).mean()


def train_transformer(
    out: Path, pipe: Any, latents: Tensor, steps: int, batch: int, device: str, rate: float = 1e-3
) -> Any:
    """Transformer and text encoder on v-prediction with 10 % empty captions; returns the finished pipeline.

    latents: [n,C,f,h,w] of the first n training clips. Crops of single frames come first and give way to whole clips.
    """
    scenes, centres = train_scenes(len(latents)), latent_centres(len(latents))
    scale = float(1 / latents.std())
    pipe.vae.register_to_config(scaling_factor=scale)
    latents = (latents * scale).transpose(1, 2).half()
    both = nn.ModuleDict({"transformer": pipe.transformer, "text_encoder": pipe.text_encoder}).to(device)
    run = Run(out, "transformer", both, steps, peak=rate, ema=0.998)
    rope = pipe._prepare_rotary_positional_embeddings(world.SIZE_PX, world.SIZE_PX, latents.shape[1], device)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((2, step))
        crops = rng.random() < crop_share(step / steps)
        draw = drawn(scenes, batch if crops else batch // 2, rng)
        x_0, weights, tables = (
            crop_batch(latents, centres, draw.rows, rope, rng, JITTER * step / steps)
            if crops
            else clip_batch(latents, centres, draw.rows, rope)
        )
        noise = torch.Generator().manual_seed(step)
        eps = torch.randn(x_0[::2].shape, generator=noise).repeat_interleave(2, dim=0)
        x_t = pipe.scheduler.add_noise(x_0, eps, draw.t).to(device)
        v = pipe.scheduler.get_velocity(x_0, eps, draw.t).to(device)
        text = both["text_encoder"](token_ids(pipe.tokenizer, draw.captions).to(device))[0]
        guess = both["transformer"](
            hidden_states=x_t, encoder_hidden_states=text, timestep=draw.t.to(device), image_rotary_emb=tables
        ).sample
        return loss_of_pairs(guess.float() - v, x_0.to(device), weights.to(device), DIFFERENCE * (1 - step / steps))

    def check() -> dict[str, float]:
        return success(with_averages(pipe, run.averaged), prompts=24, seed=step_seed(run.step))

    run.train(loss_of, check, every=1000)
    return with_averages(pipe, run.averaged)


def step_seed(step: int) -> int:
    return 7_000_000 + step


def with_averages(pipe: Any, averages: Any) -> Any:
    """A pipeline that generates with the averaged weights."""
    parts = {**pipe.components, **{k: averages[k].eval() for k in ("transformer", "text_encoder")}}
    return type(pipe)(**parts)


def export(pipe: Any, folder: Path) -> None:
    """The diffusers folder, VAE and transformer in float16.

    The small text encoder stays in float32: transformers loads it as it is stored, and a plain `from_pretrained` would
    mix it with a transformer that diffusers turns to float32.
    """
    parts = ("vae", "transformer")
    for name in parts:
        getattr(pipe, name).to(torch.float16)
    pipe.save_pretrained(folder, safe_serialization=True)
    for file in folder.rglob("*.json"):  # diffusers writes down where the weights came from, a folder of this machine
        settings = json.loads(file.read_text())
        if isinstance(settings, dict) and settings.pop("_name_or_path", None):
            file.write_text(json.dumps(settings, indent=2) + "\n")
    for name in parts:
        getattr(pipe, name).to(torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/train"), help="checkpoints, log and result")
    parser.add_argument("--vae-steps", type=int, default=1850)
    parser.add_argument("--steps", type=int, default=4000, help="of transformer and text encoder")
    parser.add_argument("--pool", type=int, default=4000, help="training clips")
    parser.add_argument("--batch", type=int, default=32, help="clips a transformer step")
    parser.add_argument("--rate", type=float, default=1e-3, help="highest learning rate of the transformer")
    parser.add_argument("--vae-batch", type=int, default=8, help="crops a VAE step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--init", type=Path, help="train on from this model's weights; its VAE stays as it is")
    parser.add_argument("--snr-shift", type=float, help="of the noise schedule, 3 as on 2B; the model's own by default")
    parser.add_argument("--export", type=Path, help="also write the finished folder here")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.init:
        pipe: Any = CogVideoXPipeline.from_pretrained(args.init, use_safetensors=True).to(args.device)
        latents = cached_latents(args.out, pipe.vae, args.pool, args.device)
    else:
        pipe = build.build_pipeline("shapes", seed=1)
        pipe.register_modules(vae=train_vae(args.out, args.vae_steps, args.pool, args.vae_batch, args.device))
        latents = equalise(pipe.vae, cached_latents(args.out, pipe.vae, args.pool, args.device))
    if args.snr_shift:
        pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, snr_shift_scale=args.snr_shift)
    pipe = train_transformer(args.out, pipe, latents, args.steps, args.batch, args.device, args.rate)
    for folder in filter(None, (args.out / "model", args.export)):
        export(pipe, folder)
    print(json.dumps({"text_to_video": success(pipe)}))


if __name__ == "__main__":
    main()
