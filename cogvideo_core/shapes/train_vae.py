"""The VAE of the shapes model: trained on crops, its latent channels whitened, its latents cached."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from cogvideo_core.shapes import build, world
from cogvideo_core.shapes.fit import Run, autocast

CROP_PX = 32
TEST_SEED = 800_000


@cache
def train_scenes(count: int) -> list[world.Scene]:
    """Pairs of scenes, 2k and 2k + 1, that differ in their shape alone; none is of a held-out combination."""
    scenes: list[world.Scene] = []
    for seed in itertools.count():
        rng, scene = np.random.default_rng((3, seed)), world.scene_from_seed(seed, world.train_combinations())
        others = [scene.edited(shape=shape) for shape in world.SHAPES if shape != scene.combination.shape]
        others = [other for other in others if not world.is_held_out(other.combination)]
        if others:
            scenes += [scene, others[int(rng.integers(len(others)))]]
        if len(scenes) >= count:
            break
    return scenes[:count]


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


def psnr(a: Tensor, b: Tensor) -> float:
    """dB for pixels in -1..1, clipped, averaged over clips."""
    error = (a.clamp(-1, 1) - b.clamp(-1, 1)).square().mean(dim=(1, 2, 3, 4))
    return float((10 * torch.log10(4 / error)).mean())


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
def cached_latents(out: Path, vae: Any, pool: int, device: str) -> Tensor:
    """Latents of the training clips as the VAE gives them, float32 [n,C,f,h,w]; encoded once."""
    file = out / "latents.pt"
    if not file.exists():
        parts = []
        for part in train_pixels(pool).split(16):
            with autocast(device):
                parts.append(vae.encode(normalised(part).to(device)).latent_dist.mode().float().cpu())
        torch.save(torch.cat(parts), file)
    return torch.load(file, weights_only=True).float()


@torch.no_grad()
def equalise(vae: Any, latents: Tensor) -> Tensor:
    """Mixes the VAE's latent channels, in place, so that their covariance over `latents` [n,C,f,h,w] is the identity.

    Decoded pixels stay the same; returns the latents in the new channels. With almost no KL term, training leaves
    nearly all variance in two channels, for brightness and colour, and the transformer hardly learns what the others
    encode: shapes.
    """
    channels, device = latents.shape[1], vae.device
    rows = latents.movedim(1, -1).reshape(-1, channels).double()
    variances, axes = torch.linalg.eigh(rows.T.cov())
    mix = torch.diag(variances.rsqrt()) @ axes.T
    back = torch.linalg.inv(mix).to(device)
    out = vae.encoder.conv_out.conv
    out.weight[:channels] = torch.einsum("ij,jcthw->icthw", mix.to(device), out.weight[:channels].double()).float()
    out.bias[:channels] = (mix.to(device) @ out.bias[:channels].double()).float()
    out.weight[channels:], out.bias[channels:] = 0, -10  # no diagonal posterior fits a mixture: next to no variance
    for name, module in vae.decoder.named_modules():
        if name == "conv_in" or name.endswith(("conv_y", "conv_b")):  # all layers that read the latents
            weight = torch.einsum("ojthw,ji->oithw", module.conv.weight.double(), back)
            module.conv.weight.copy_(weight)
    return torch.einsum("ij,njfhw->nifhw", mix.float(), latents)
