"""Training of the shapes model: its own steps, not its outcome."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.shapes import build, fit, train, train_vae, world


def test_equalised_channels_decode_to_the_same() -> None:
    """Mixing the latent channels gives them identity covariance and changes no pixel of the VAE's round trip."""
    vae = build.build_pipeline("5b").vae
    clips = train_vae.normalised(train_vae.train_pixels(6))
    with torch.inference_mode(False), torch.no_grad():
        before = vae.encode(clips).latent_dist.mode()
        pixels = vae.decode(before).sample
        mixed = train_vae.equalise(vae, before)
        after = vae.encode(clips).latent_dist.mode()
        assert (vae.decode(after).sample - pixels).abs().max() < 1e-4
    assert (after - mixed).abs().max() < 1e-3 * mixed.abs().max()
    covariance = after.movedim(1, -1).reshape(-1, 8).T.cov()
    assert (covariance - torch.eye(8)).abs().max() < 0.01


def test_pairs_differ_in_their_shape_alone() -> None:
    """Training scenes come in twos that share all but the shape, and none is held out."""
    scenes = train_vae.train_scenes(60)
    for one, other in zip(scenes[::2], scenes[1::2], strict=True):
        assert one != other and one.edited(shape=other.combination.shape) == other
    assert not any(world.is_held_out(scene.combination) for scene in scenes)
    draw = train.drawn(scenes, 20, np.random.default_rng(0))
    assert len(draw.rows) == len(draw.captions) == len(draw.t) == 40 and torch.equal(draw.t[::2], draw.t[1::2])
    for row, caption in zip(draw.rows, draw.captions, strict=True):
        assert caption == "" or caption in [scenes[row].combination.caption(i) for i in range(5)]
    assert any(caption == "" for caption in draw.captions)


def test_circles_and_squares_are_drawn_most() -> None:
    """Two pairs in three are a circle and a square, a third of all there are; most timesteps are where shapes form."""
    scenes = train_vae.train_scenes(240)
    draw = train.drawn(scenes, 300, np.random.default_rng(0))
    alike = [{scenes[a].combination.shape, scenes[b].combination.shape} for a, b in draw.rows.reshape(-1, 2)]
    assert 0.5 < np.mean([shapes == {"circle", "square"} for shapes in alike]) < 0.8
    assert any("triangle" in shapes for shapes in alike)
    assert 0.6 < float(((draw.t >= train.FORMING[0]) & (draw.t < train.FORMING[1])).float().mean()) < 0.9


def test_the_difference_of_a_pair_is_counted_apart() -> None:
    """Errors that both rows of a pair share cost their square alone; others cost more, by the given weight, the nearer
    the pair's clips are to each other."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.randn(2, 1, 2, 4, 4, generator=generator).repeat_interleave(2, dim=0)
    x_0, weights = torch.zeros(4, 1, 2, 4, 4), torch.ones(4, 1, 1, 4, 4)
    x_0[0], x_0[2] = 2, 1  # the pairs' clips are two and one apart
    assert torch.allclose(train.loss_of_pairs(shared, x_0, weights, 5.0), shared.square().mean())
    for row, apart in ((1, 2), (3, 1)):
        own = shared.clone()
        own[row] += 1
        expected = own.square().mean() + 5.0 * (1 / apart**2) / 2  # the mean over two pairs
        assert torch.allclose(train.loss_of_pairs(own, x_0, weights, 5.0), expected)
        assert torch.allclose(train.loss_of_pairs(own, x_0, weights, 0.0), own.square().mean())


def test_crops_show_the_object() -> None:
    """A crop is the latent frame around the object: its weights are high in the middle, its place is the object's."""
    rows, rng = torch.arange(4).numpy(), np.random.default_rng(0)
    centres = train.latent_centres(4)
    cells = torch.stack(torch.meshgrid(torch.arange(12.0), torch.arange(12.0), indexing="ij"))  # (y, x) of each cell
    latents = cells.expand(4, 3, 2, 12, 12)
    tables = (torch.zeros(3 * 36, 4), torch.arange(3 * 36.0)[:, None].expand(-1, 4))
    batch = train.crop_batch(latents, centres, rows, tables, rng, 0.7)
    assert batch.x_0.shape == (4, 1, 2, 8, 8) and batch.weights.shape == (4, 1, 1, 8, 8)
    assert batch.rope[1].shape == (16, 4)
    frame = int(batch.rope[1][0, 0]) // 36
    for row in range(4):
        x, y = centres[row, frame]
        low = batch.x_0[row, 0, :, 0, 0]
        assert low[0] <= y <= low[0] + 8 and low[1] <= x <= low[1] + 8
    assert (batch.weights[:, 0, 0, 3:5, 3:5] == 1).float().mean() > 0.9
    assert batch.weights.min() < 1


def test_weights_cover_the_object() -> None:
    """Cells that the object touches, in each latent frame, carry full weight."""
    weights = train.object_weights(train.latent_centres(8), 12)
    for scene, weight in zip(train_vae.train_scenes(8), weights, strict=True):
        first = world.masks(scene)[0].reshape(12, 4, 12, 4).mean(axis=(1, 3)) > 0.1
        assert (weight[0, 0][torch.from_numpy(first)] == 1).all()
    assert 0.1 < (weights == 1).float().mean() < 0.5


def test_training_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """A loop that is interrupted behind a checkpoint ends with the weights of one that is not."""

    def trained(out: Path, stop: int) -> nn.Module:
        torch.manual_seed(0)
        run = fit.Run(out, "toy", nn.Linear(4, 1), steps=210, peak=1e-2, ema=0.9)

        def loss_of(step: int) -> torch.Tensor:
            if step == stop:
                raise KeyboardInterrupt
            x = torch.randn(8, 4, generator=torch.Generator().manual_seed(step))
            return (run.model(x).float() - x.sum(1, keepdim=True)).square().mean()

        run.train(loss_of, lambda: {"checked": 1.0}, every=200)
        return run.averaged

    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with torch.inference_mode(False):
        whole = trained(tmp_path / "a", -1)
        with pytest.raises(KeyboardInterrupt):
            trained(tmp_path / "b", 150)
        resumed = trained(tmp_path / "b", -1)
    assert torch.equal(whole.weight, resumed.weight)
    rows = [json.loads(line) for line in (tmp_path / "b" / "log.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [100, 200, 210] and rows[1]["checked"] == 1
    assert rows[2]["loss"] < 0.5 * rows[0]["loss"]


def test_transformer_and_text_encoder_are_trained(tmp_path: Path) -> None:
    """Two steps, on crops or clips, change both, leave the VAE alone and give a pipeline that can be exported."""
    pipe = build.build_pipeline("5b")
    before = {name: copy.deepcopy(getattr(pipe, name).state_dict()) for name in ("transformer", "text_encoder", "vae")}
    latents = 3 * torch.randn(24, 8, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode(False):
        trained = train.train_transformer(tmp_path, pipe, latents, 2, 2, "cpu")
        full = {name: copy.deepcopy(getattr(trained, name).state_dict()) for name in before}
        train.export(trained, tmp_path / "model")
    assert trained.vae.config.scaling_factor == pytest.approx(1 / 3, rel=0.05)
    again = VideoModel(type(trained).from_pretrained(tmp_path / "model"), ModelSpec())
    for name in before:
        now = getattr(again.pipe, name).state_dict()
        off = [key for key, value in before[name].items() if (now[key].float() - value).abs().max() > 1e-3]
        assert not off, "two steps of the average are small, and so is the rounding of the export"
        if name != "vae":
            assert any(not torch.equal(value, before[name][key]) for key, value in full[name].items())
