"""Trains the shapes CogVideoX: VAE on crops, latents cached, then transformer and text encoder jointly.

    python -m cogvideo_core.shapes.train --out out/train

Interrupted runs go on from their last checkpoint when the same command is given again.
The result, `OUT/model`, is an ordinary diffusers folder; `--export FOLDER` writes another copy.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import CogVideoXPipeline
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from cogvideo_core.shapes import build, world
from cogvideo_core.shapes.generate import success

CROP_PX = 32
TEST_SEED = 800_000


@cache
def train_scenes(count: int) -> list[world.Scene]:
    return [world.scene_from_seed(i, world.train_combinations()) for i in range(count)]


@cache
def train_pixels(count: int) -> Tensor:
    """uint8 [n,3,F,H,W] of the training scenes; 20 ms a clip, so only where they are needed."""
    return pixels_of(train_scenes(count))


def pixels_of(scenes: list[world.Scene]) -> Tensor:
    """uint8 [n,3,F,H,W]."""
    pixels = np.stack([world.render(scene) for scene in scenes])
    return torch.from_numpy(pixels).permute(0, 4, 1, 2, 3).contiguous()


def normalised(pixels: Tensor) -> Tensor:
    return pixels.float() / 127.5 - 1


def random_crops(pixels: Tensor, scenes: list[world.Scene], batch: int, rng: np.random.Generator) -> Tensor:
    """Crops [batch,3,F,CROP_PX,CROP_PX]; four in five are centred near the object."""
    crops, room = [], world.SIZE_PX - CROP_PX
    for i in rng.integers(len(scenes), size=batch):
        near = np.array([scenes[i].x, scenes[i].y]) - CROP_PX / 2 + rng.normal(0, 4, 2)
        corner = near if rng.random() < 0.8 else rng.uniform(0, room, 2)
        x, y = np.clip(np.rint(corner), 0, room).astype(int)
        crops.append(pixels[i, :, :, y : y + CROP_PX, x : x + CROP_PX])
    return normalised(torch.stack(crops))


def one_cycle(step: int, total: int, peak: float, warmup: float = 0.05) -> float:
    """Learning rate: linear up over the first `warmup` part, cosine down to a hundredth."""
    part = step / total
    if part < warmup:
        return peak * (part / warmup + 0.01)
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (part - warmup) / (1 - warmup))))


def psnr(a: Tensor, b: Tensor) -> float:
    """dB for pixels in -1..1, clipped, averaged over clips."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean(dim=(1, 2, 3, 4))
    return float((10 * torch.log10(4 / error)).mean())


class Run:
    """One resumable training loop: model, average, optimiser, a checkpoint file and a log."""

    def __init__(self, out: Path, name: str, model: nn.Module, steps: int, peak: float, ema: float) -> None:
        self.file, self.log_file, self.name, self.model = out / f"{name}.pt", out / "log.jsonl", name, model
        self.steps, self.peak, self.step = steps, peak, 0
        self.optimiser = torch.optim.AdamW(
            model.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=1e-4, fused=True
        )
        self.average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(ema))
        self.started = time.monotonic()
        if self.file.exists():
            state = torch.load(self.file, weights_only=True)
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
            self.step = state["step"]

    @property
    def averaged(self) -> Any:
        """The model with the averaged weights."""
        return self.average.module

    def save(self) -> None:
        temporary = self.file.with_suffix(".part")
        state = {
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "step": self.step,
        }
        torch.save(state, temporary)
        os.replace(temporary, self.file)

    def log(self, **values: float) -> None:
        row = {"stage": self.name, "step": self.step, "seconds": round(time.monotonic() - self.started, 1)} | values
        with self.log_file.open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(json.dumps(row), flush=True)

    def train(self, loss_of: Callable[[int], Tensor], check: Callable[[], dict[str, float]], every: int) -> None:
        """`loss_of(step)` is the loss of that step's batch, drawn from the step number alone."""
        recent = []
        while self.step < self.steps:
            for group in self.optimiser.param_groups:
                group["lr"] = one_cycle(self.step, self.steps, self.peak)
            with torch.autocast("cpu" if not torch.cuda.is_available() else "cuda", torch.bfloat16):
                loss = loss_of(self.step)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
            self.optimiser.step()
            self.optimiser.zero_grad()
            self.average.update_parameters(self.model)
            self.step += 1
            recent.append(float(loss.detach()))
            if self.step % 100 == 0 or self.step == self.steps:
                self.log(loss=round(float(np.mean(recent)), 5), **(check() if self.step % every == 0 else {}))
                recent.clear()
                self.save()


def train_vae(out: Path, steps: int, pool: int, batch: int, device: str) -> Any:
    """The VAE, L1 + L2 + a little KL on crops; returns the averaged model."""
    torch.manual_seed(0)
    vae = build.build_vae(build.VARIANTS["shapes"]).to(device)
    for conv in (m for m in vae.modules() if isinstance(m, nn.Conv3d)):  # about a seventh faster on CPU
        conv.weight.data = conv.weight.data.contiguous(memory_format=torch.channels_last_3d)
    run = Run(out, "vae", vae, steps, peak=2e-3, ema=0.995)
    if run.step < steps:
        pixels, scenes = train_pixels(pool), train_scenes(pool)
        unseen = [world.scene_from_seed(TEST_SEED + i, world.held_out_combinations()) for i in range(32)]
        test = normalised(pixels_of(unseen)).to(device)

        def loss_of(step: int) -> Tensor:
            x = random_crops(pixels, scenes, batch, np.random.default_rng((1, step))).to(device)
            posterior = vae.encode(x).latent_dist
            error = vae.decode(posterior.sample()).sample.float() - x
            kl = 0.5 * (posterior.mean.square() + posterior.var - 1 - posterior.logvar).mean()
            return error.abs().mean() + 2 * error.square().mean() + 1e-4 * kl

        def check() -> dict[str, float]:
            with torch.no_grad():
                again = run.averaged.decode(run.averaged.encode(test).latent_dist.mode()).sample
            return {"psnr_db": round(psnr(again, test), 2)}

        run.train(loss_of, check, every=200)
    return run.averaged.eval()


@torch.no_grad()
def cached_latents(out: Path, vae: Any, pool: int, device: str) -> tuple[Tensor, float]:
    """Latents of the training clips, [n,f,C,h,w] float16, times the scaling factor that makes their std 1."""
    file = out / "latents.pt"
    if not file.exists():
        parts = []
        for part in train_pixels(pool).split(16):
            with torch.autocast(device, torch.bfloat16):
                parts.append(vae.encode(normalised(part).to(device)).latent_dist.mode().float().cpu())
        torch.save(torch.cat(parts), file)
    latents = torch.load(file, weights_only=True)
    scale = float(1 / latents.std())
    return (latents * scale).transpose(1, 2).half(), scale


def token_ids(tokenizer: Any, prompts: list[str]) -> Tensor:
    """int64 [B, MAX_TEXT_TOKENS], as CogVideoXPipeline tokenises."""
    encoded = tokenizer(
        prompts, padding="max_length", max_length=build.MAX_TEXT_TOKENS, truncation=True, return_tensors="pt"
    )
    return encoded.input_ids


def train_transformer(out: Path, pipe: Any, steps: int, pool: int, batch: int, device: str) -> Any:
    """Transformer and text encoder on v-prediction with 10 % empty captions; returns the finished pipeline."""
    scenes = train_scenes(pool)
    latents, scale = cached_latents(out, pipe.vae, pool, device)
    pipe.vae.register_to_config(scaling_factor=scale)
    both = nn.ModuleDict({"transformer": pipe.transformer, "text_encoder": pipe.text_encoder}).to(device)
    run = Run(out, "transformer", both, steps, peak=1.5e-3, ema=0.998)
    rope = pipe._prepare_rotary_positional_embeddings(world.SIZE_PX, world.SIZE_PX, latents.shape[1], device)

    def loss_of(step: int) -> Tensor:
        rng = np.random.default_rng((2, step))
        noise = torch.Generator().manual_seed(step)
        rows = rng.integers(len(scenes), size=batch)
        captions = [
            "" if rng.random() < 0.1 else scenes[i].combination.caption(int(rng.integers(len(world.WORDINGS))))
            for i in rows
        ]
        x_0 = latents[rows].float()
        t = torch.randint(0, 1000, (batch,), generator=noise)
        eps = torch.randn(x_0.shape, generator=noise)
        x_t = pipe.scheduler.add_noise(x_0, eps, t).to(device)
        v = pipe.scheduler.get_velocity(x_0, eps, t).to(device)
        text = both["text_encoder"](token_ids(pipe.tokenizer, captions).to(device))[0]
        guess = both["transformer"](
            hidden_states=x_t, encoder_hidden_states=text, timestep=t.to(device), image_rotary_emb=rope
        ).sample
        return F.mse_loss(guess.float(), v)

    def check() -> dict[str, float]:
        return success(with_averages(pipe, run.averaged), prompts=24, seed=step_seed(run.step))

    run.train(loss_of, check, every=2000)
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
    for name in parts:
        getattr(pipe, name).to(torch.float32)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("out/train"), help="checkpoints, log and result")
    parser.add_argument("--vae-steps", type=int, default=1850)
    parser.add_argument("--steps", type=int, default=4000, help="of transformer and text encoder")
    parser.add_argument("--pool", type=int, default=4000, help="training clips")
    parser.add_argument("--batch", type=int, default=32, help="clips a transformer step")
    parser.add_argument("--vae-batch", type=int, default=8, help="crops a VAE step")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--init", type=Path, help="train on from this model's weights; its VAE stays as it is")
    parser.add_argument("--export", type=Path, help="also write the finished folder here")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    if args.init:
        pipe: Any = CogVideoXPipeline.from_pretrained(args.init, use_safetensors=True).to(args.device)
    else:
        pipe = build.build_pipeline("shapes", seed=1)
        pipe.register_modules(vae=train_vae(args.out, args.vae_steps, args.pool, args.vae_batch, args.device))
    pipe = train_transformer(args.out, pipe, args.steps, args.pool, args.batch, args.device)
    for folder in filter(None, (args.out / "model", args.export)):
        export(pipe, folder)
    print(json.dumps({"text_to_video": success(pipe)}))


if __name__ == "__main__":
    main()
