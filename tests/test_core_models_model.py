"""The adapter: loading, refusals, prompts, frames and latents, and the plain diffusers pipeline as the judge."""

import json
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import CogVideoXPipeline

from cogvideo_core.diffusion import ddim
from cogvideo_core.diffusion.guidance import guide
from cogvideo_core.errors import BadSpec, ModelError
from cogvideo_core.models import model
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.shapes import build, world


@pytest.fixture(scope="module")
def loaded(tiny_pipeline_folder: Path) -> model.VideoModel:
    return model.load(ModelSpec(path=str(tiny_pipeline_folder)))


@pytest.mark.parametrize("variant", ["5b", "2b", "1.5-5b"])
def test_sampling_equals_the_diffusers_pipeline(variant: str) -> None:
    """Text to video through our adapter and sampler equals the diffusers pipeline on the same noise, within 1e-4."""
    pipe = build.build_pipeline(variant)
    prompt, steps, scale = "a red circle moving left on a striped background", 10, 3.0
    frames = 3 + (variant == "1.5-5b")
    start = torch.randn(1, frames, 8, 12, 12, generator=torch.Generator().manual_seed(5))
    theirs = pipe(
        prompt=prompt,
        height=48,
        width=48,
        num_frames=9,
        num_inference_steps=steps,
        guidance_scale=scale,
        latents=start.clone(),
        max_sequence_length=16,
        output_type="latent",
    ).frames
    ours = model.VideoModel(pipe, ModelSpec())
    text = ours.embed(["", prompt])

    def velocity(x: torch.Tensor, t: int) -> torch.Tensor:
        return guide(*ours.velocity(torch.cat([x, x]), t, text).chunk(2), scale)

    *_, last = ddim.sample(velocity, start, ours.schedule(steps))
    assert (last - theirs).abs().max() < 1e-4


def test_encode_is_deterministic_and_keeps_the_count(loaded: model.VideoModel) -> None:
    """Encoding twice gives equal float32 latents [3,8,12,12]; decoding gives the 9 frames back as uint8."""
    frames = world.render(world.scene_from_seed(3))
    latents = loaded.encode(frames)
    assert latents.dtype == torch.float32 and latents.shape == (3, 8, 12, 12)
    assert torch.equal(latents, loaded.encode(frames))
    decoded = loaded.decode(latents)
    assert decoded.shape == frames.shape and decoded.dtype == np.uint8


def test_latents_are_the_vae_mode_times_the_scaling_factor(loaded: model.VideoModel) -> None:
    """The latents are what the VAE itself gives, in the axis order the transformer wants."""
    frames = world.render(world.scene_from_seed(4))
    pixels = torch.from_numpy(frames).permute(3, 0, 1, 2)[None] / 127.5 - 1
    with torch.inference_mode():
        mode = loaded.pipe.vae.encode(pixels).latent_dist.mode()[0] * loaded.pipe.vae.config.scaling_factor
    assert torch.allclose(loaded.encode(frames), mode.transpose(0, 1), atol=1e-6)


def test_odd_latent_frames_are_padded_for_1_5() -> None:
    """CogVideoX 1.5 takes latent frames in pairs: one is put in front, and decoding gives the same count of frames."""
    paired = model.VideoModel(build.build_pipeline("1.5-5b"), ModelSpec())
    frames = world.render(world.scene_from_seed(3))
    latents = paired.encode(frames)
    assert latents.shape[0] == 4 and torch.equal(latents[0], latents[1])
    assert paired.decode(latents).shape == frames.shape


def test_prompts_are_embedded_in_the_order_given(loaded: model.VideoModel) -> None:
    """Repeated prompts share their embedding; the length is the transformer's max_text_seq_length."""
    a, b = "a red circle", "a blue square"
    embedded = loaded.embed([a, b, a])
    assert embedded.shape[:2] == (3, loaded.transformer.config.max_text_seq_length)
    assert torch.equal(embedded[0], embedded[2]) and not torch.equal(embedded[0], embedded[1])


def test_the_text_encoder_is_held_only_while_it_is_needed(tiny_pipeline_folder: Path) -> None:
    """It is loaded for the first prompt, goes when told, comes back for another; the embeddings are those of a pipeline
    that has it from the start. Where it could not come back it stays."""
    spec = ModelSpec(path=str(tiny_pipeline_folder))
    late, prompts = model.load(spec), ["a red circle", "a blue square"]
    pipe = CogVideoXPipeline.from_pretrained(tiny_pipeline_folder)
    whole = model.VideoModel(pipe, spec)
    assert late.pipe.text_encoder is None and pipe.text_encoder is not None
    for _ in range(2):
        assert torch.equal(late.embed(prompts), whole.embed(prompts))
        late.drop_text_encoder()
        assert late.pipe.text_encoder is None
    whole.drop_text_encoder()
    assert pipe.text_encoder is not None


def test_busy_seconds_never_overlap(tiny_pipeline_folder: Path) -> None:
    """Four threads on one model: the sum of the seconds inside its lock is never more than the wall's time;
    decoding, encoding and embedding count too."""
    busy = model.load(ModelSpec(path=str(tiny_pipeline_folder)))
    text, x = busy.embed([""]), torch.zeros(1, 3, 8, 12, 12)
    for call in (lambda: busy.encode(np.zeros((9, 48, 48, 3), np.uint8)), lambda: busy.decode(x[0])):
        before = busy.busy_s
        call()
        assert busy.busy_s > before > 0
    started, before = time.perf_counter(), busy.busy_s
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda t: busy.velocity(x, t, text), range(12)))
    assert 0 < busy.busy_s - before <= time.perf_counter() - started


def test_what_the_tokenizer_drops_is_said(loaded: model.VideoModel) -> None:
    """Unknown words and prompts that are too long are told, whole ones are not."""
    assert loaded.prompt_problem("a red circle moving left on a striped background") == ""
    assert "does not know" in loaded.prompt_problem("a purple circle")
    assert "cut to 16" in loaded.prompt_problem("a red circle " * 6)


def test_shape_is_the_training_shape(loaded: model.VideoModel) -> None:
    """Frames, size and rate come from the checkpoint's configuration."""
    assert loaded.shape == model.VideoShape(9, 48, 48, 8)


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def test_pickled_weights_are_refused(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    """A folder whose transformer has only a .bin is refused in a sentence, and the pickle is never opened."""
    folder = copy_of(tiny_pipeline_folder, tmp_path / "m")
    weights = next((folder / "transformer").glob("*.safetensors"))
    weights.rename(weights.with_name("diffusion_pytorch_model.bin"))
    with pytest.raises(ModelError, match="pickled weights"):
        model.load(ModelSpec(path=str(folder)))


def test_other_pipelines_are_refused(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    """A Fun or ControlNet folder is refused by the class its index names."""
    folder = copy_of(tiny_pipeline_folder, tmp_path / "m")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": "CogVideoXFunControlPipeline"}))
    with pytest.raises(ModelError, match="CogVideoXFunControlPipeline"):
        model.load(ModelSpec(path=str(folder)))


def with_config(folder: Path, part: str, **values: object) -> None:
    """Changes a component's configuration."""
    file = folder / part / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("pipeline", "channels", "takes"),
    [
        ("CogVideoXPipeline", 16, "takes 16 channels, a CogVideoXPipeline with this VAE 8"),
        ("CogVideoXPipeline", 17, "takes 17 channels"),
        ("CogVideoXVideoToVideoPipeline", 16, "takes 16 channels"),
        ("CogVideoXImageToVideoPipeline", 8, "takes 8 channels, a CogVideoXImageToVideoPipeline with this VAE 16"),
        ("CogVideoXImageToVideoPipeline", "many", "in_channels = .many."),
    ],
)
def test_other_layouts_are_refused(
    tiny_pipeline_folder: Path, tmp_path: Path, pipeline: str, channels: object, takes: str
) -> None:
    """Input channels that fit neither layout, as Fun's under a plain name, are refused before a weight is read."""
    folder = copy_of(tiny_pipeline_folder, tmp_path / "m")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"_class_name": pipeline}))
    with_config(folder, "transformer", in_channels=channels)
    next((folder / "transformer").glob("*.safetensors")).write_bytes(b"no weights")
    with pytest.raises(ModelError, match=takes):
        model.load(ModelSpec(path=str(folder)))


def test_a_video_to_video_folder_is_its_text_to_video_model(
    tiny_pipeline_folder: Path, tmp_path: Path, loaded: model.VideoModel
) -> None:
    """Both class names stand for the same transformer and VAE: equal fingerprints, latents and velocities."""
    folder = copy_of(tiny_pipeline_folder, tmp_path / "m")
    index = json.loads((folder / "model_index.json").read_text())
    named = index | {"_class_name": "CogVideoXVideoToVideoPipeline"}
    (folder / "model_index.json").write_text(json.dumps(named))
    other = model.load(ModelSpec(path=str(folder)))
    assert type(other.pipe).__name__ == named["_class_name"]
    assert other.fingerprint == loaded.fingerprint and not other.image_to_video
    latents, text = loaded.encode(world.render(world.scene_from_seed(3))), loaded.embed(["a red circle"])
    assert torch.equal(other.encode(world.render(world.scene_from_seed(3))), latents)
    assert torch.equal(other.velocity(latents[None], 500, text), loaded.velocity(latents[None], 500, text))


def test_folder_without_index_is_refused(tmp_path: Path) -> None:
    """An empty folder is no model."""
    with pytest.raises(ModelError, match=r"model_index\.json"):
        model.load(ModelSpec(path=str(tmp_path)))


@pytest.mark.parametrize("path", ["no/such/folder", "./nowhere", "word"])
def test_missing_model_is_refused(path: str) -> None:
    """A path that is neither a folder nor a hub id says what may be given."""
    with pytest.raises(ModelError, match="hub id"):
        model.load(ModelSpec(path=path))


def test_impossible_devices_are_refused(tiny_pipeline_folder: Path) -> None:
    """CPU offload without a GPU names its field and the remedy."""
    with pytest.raises(BadSpec, match="offload"):
        model.load(ModelSpec(path=str(tiny_pipeline_folder), device="cpu", offload="model"))


def test_fingerprints_follow_the_files(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    """One changed byte in the VAE changes the VAE's fingerprint and no other."""
    folder = copy_of(tiny_pipeline_folder, tmp_path / "m")
    before = model.component_fingerprints(folder)
    weights = next((folder / "vae").glob("*.safetensors"))
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)
    after = model.component_fingerprints(folder)
    assert {part for part in before if before[part] != after[part]} == {"vae"}


def test_one_load_a_process(tiny_pipeline_folder: Path) -> None:
    """Asking twice for the same model loads it once."""
    spec = ModelSpec(path=str(tiny_pipeline_folder))
    with model.unloaded():
        before = model.loads
        assert model.loaded(spec) is model.loaded(spec)
        assert model.loads == before + 1


def test_low_precision_stays_near(tiny_pipeline_folder: Path, loaded: model.VideoModel) -> None:
    """In bfloat16 the velocity is within 5 % of float32's, and comes back as float32."""
    low = model.load(ModelSpec(path=str(tiny_pipeline_folder), dtype="bfloat16"))
    x = torch.randn(1, 3, 8, 12, 12, generator=torch.Generator().manual_seed(1))
    text = loaded.embed(["a red circle"])
    want, got = loaded.velocity(x, 500, text), low.velocity(x, 500, text)
    assert got.dtype == torch.float32
    assert (got - want).norm() / want.norm() < 0.05


def test_vae_slicing_changes_nothing(tiny_pipeline_folder: Path, loaded: model.VideoModel) -> None:
    """Slicing gives the same latents and the same frames."""
    sliced = model.load(ModelSpec(path=str(tiny_pipeline_folder), vae_slicing=True))
    frames = world.render(world.scene_from_seed(6))
    latents = loaded.encode(frames)
    assert sliced.pipe.vae.use_slicing and torch.equal(sliced.encode(frames), latents)
    assert np.array_equal(sliced.decode(latents), loaded.decode(latents))


def test_tiles_that_do_not_fit_are_refused(tiny_pipeline_folder: Path, loaded: model.VideoModel) -> None:
    """Tiles that come back at another size are refused by name; where they fit, the frames stay near."""
    tiled = model.load(ModelSpec(path=str(tiny_pipeline_folder), vae_tiling="on"))
    frames = world.render(world.scene_from_seed(6))
    latents = loaded.encode(frames)
    with pytest.raises(BadSpec, match="vae_tiling"):
        tiled.decode(latents)
    tiled.pipe.vae.enable_tiling(24, 24, tile_overlap_factor_height=1 / 3, tile_overlap_factor_width=1 / 3)
    difference = np.abs(tiled.decode(latents).astype(int) - loaded.decode(latents))
    assert 0 < difference.mean() < 12
