"""The one adapter that knows diffusers: a loaded CogVideoX, its prompts, latents, frames and velocities."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import torch
from torch import Tensor

from cogvideo_core.diffusion.attention import Reference
from cogvideo_core.diffusion.schedule import Schedule, schedule_from_config
from cogvideo_core.errors import BadSpec
from cogvideo_core.models import compiling, options, processors, quantised, weights
from cogvideo_core.models.checkpoint import check_folder, component_fingerprints, model_folder
from cogvideo_core.models.checkpoint_files import unreadable
from cogvideo_core.models.configuration import Configured
from cogvideo_core.models.configuration import VideoShape as VideoShape
from cogvideo_core.models.image_to_video import OFS, Images
from cogvideo_core.models.lane import Clock, Lane, stream_on
from cogvideo_core.models.lora import add_loras, lora_files
from cogvideo_core.models.memory import Room
from cogvideo_core.models.placement import chosen_device as chosen_device
from cogvideo_core.models.placement import placed
from cogvideo_core.models.text_encoder import TextEncoder
from cogvideo_core.models.vae import Vae, finite
from cogvideo_core.settings.specs import ModelSpec, fingerprint


class VideoModel(Configured):
    """A loaded CogVideoX. Processors are installed once; one forward at a time (`lock`), but for the VAE's where it has
    a lane of its own; `evaluations` counts rows, and `busy_s` the seconds in which anything computes."""

    def __init__(
        self,
        pipeline: Any,
        spec: ModelSpec,
        fingerprints: dict[str, str] | None = None,
        text_folder: Path | None = None,
    ) -> None:
        """`text_folder`: where the text encoder is, which is loaded only when a prompt is to be embedded. None where
        the pipeline has it already."""
        super().__init__(pipeline.transformer.config, getattr(pipeline.vae, "config", None))  # benches do without a VAE
        self.pipe, self.spec, self.fingerprints = pipeline, spec, fingerprints or {}
        self.transformer = pipeline.transformer
        self.lock, self.evaluations, self.clock = threading.RLock(), 0, Clock()
        self.device = torch.device(pipeline._execution_device)
        lane = Lane(self.lock, self.clock, stream_on(self.device) if spec.vae_overlap == "on" else None)
        self.room = Room(lane)
        text_device = torch.device("cpu") if spec.text_device == "cpu" else self.device
        self.text_encoder = TextEncoder(pipeline, text_folder, text_device, spec.text_weights)
        self.vae = Vae(pipeline.vae, self.device, spec, self.pixels_a_cell, lane)
        self._rope: dict[tuple[int, ...], tuple[Tensor, Tensor] | None] = {}
        options.check_transformer(self.transformer, spec.weights)
        kernel = compiling.fixed_kernel(spec, self.transformer, self.device)
        processors.install(self.transformer, kernel, spec.compile == "blocks")

    @property
    def fingerprint(self) -> str:
        """Of all components and of the precisions they run in."""
        shrunk: list[str] = [] if self.spec.weights == "stored" else [self.spec.weights]
        shrunk += ["sage"] if self.spec.attention == "sage" else []  # in 8 bits; the other kernels differ by rounding
        shrunk += [] if self.spec.text_weights == "stored" else ["text", self.spec.text_weights]
        return fingerprint([self.fingerprints, self.spec.dtype, self.spec.vae_dtype, *shrunk])

    @property
    def pixels_a_cell(self) -> int:
        return int(self.pipe.vae_scale_factor_spatial)

    @property
    def layers(self) -> int:
        return len(self.transformer.transformer_blocks)

    @property
    def text_tokens(self) -> int:
        """Prompts are padded to this many tokens: 226 on the released models, 16 on the shapes one."""
        return int(self.transformer.config.max_text_seq_length)

    def schedule(self, steps: int, spacing: str = "trailing") -> Schedule:
        return schedule_from_config(self.pipe.scheduler.config, steps, spacing)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """The transformer's lock, and the clock of `busy_s`."""
        with self.lock, self.clock.running():
            yield

    @property
    def busy_s(self) -> float:
        return self.clock.seconds

    def embed(self, prompts: Sequence[str]) -> Tensor:
        """Each distinct prompt once through T5: [P,S,D] in the order given."""
        with self.computing():
            return self.text_encoder.embed(prompts, self.text_tokens)

    def drop_text_encoder(self) -> None:
        """Frees its memory (9.5 GB in 16 bits on the released models) until another prompt is to be embedded; does
        nothing where it could not be loaded again."""
        with self.lock:
            self.text_encoder.drop()

    def prompt_problem(self, prompt: str) -> str:
        """What the tokenizer would lose of a prompt, as half a sentence; "" when it keeps all of it."""
        ids = self.pipe.tokenizer(prompt, verbose=False).input_ids
        if self.pipe.tokenizer.unk_token_id in ids:
            return "has words that the model's tokenizer does not know"
        return f"has {len(ids)} tokens and is cut to {self.text_tokens}" if len(ids) > self.text_tokens else ""

    @torch.inference_mode()
    def encode(self, frames: np.ndarray) -> Tensor:
        """frames uint8 [F,H,W,3] -> latents float32 [f,C,h,w] on the CPU, deterministic (the posterior's mode)."""
        latents = self.vae.encode(frames) * self.vae_config.scaling_factor
        return torch.cat([latents[: self.front_padding], latents])

    @torch.inference_mode()
    def encode_sequence(self, frames: np.ndarray) -> Tensor:
        """`encode` for a clip of any length, 4k+1 frames: part by part, so that the VAE's memory stays that of one."""
        latents = self.vae.encode_sequence(frames) * self.vae_config.scaling_factor
        return torch.cat([latents[: self.front_padding], latents])

    @torch.inference_mode()
    def encode_image(self, frame: np.ndarray) -> Tensor:
        """A first frame uint8 [H,W,3] -> image latents float32 [C,h,w] on the CPU, deterministic."""
        scale = self.vae_config.scaling_factor
        # 1.5-5B-I2V was trained on images that were divided by the factor; its video latents are multiplied
        return self.vae.encode(frame[None])[0] * (1 / scale if self.vae_config.invert_scale_latents else scale)

    def crossing(self, x: Tensor) -> Tensor:
        """Finished latents where `decode` can read them while the next batch is denoised."""
        return self.vae.lane.crossing(x)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> np.ndarray:
        """latents [f,C,h,w] -> frames uint8 [F,H,W,3]; the padding in front is dropped."""
        finite(latents, "transformer", self.transformer.dtype, "model.dtype")
        return self.vae.decode(latents[self.front_padding :], self.vae_config.scaling_factor)

    def decode_sequence(self, latents: Tensor) -> Iterator[np.ndarray]:
        """`decode` for a clip of any length: frames uint8 [n,H,W,3], part by part. No other part is held."""
        finite(latents, "transformer", self.transformer.dtype, "model.dtype")
        decoded = self.vae.decode_sequence(latents[self.front_padding :], self.vae_config.scaling_factor)
        while True:
            with torch.inference_mode():
                frames = next(decoded, None)
            if frames is None:
                return
            yield frames

    def _rotary(self, latent_frames: int, height: int, width: int) -> tuple[Tensor, Tensor] | None:
        """RoPE tables for a latent grid, made by the pipeline's own method; None for absolute positions (2B)."""
        if not self.transformer.config.use_rotary_positional_embeddings:
            return None
        key = (latent_frames, height, width)
        if key not in self._rope:
            scale = self.pipe.vae_scale_factor_spatial
            self._rope[key] = self.pipe._prepare_rotary_positional_embeddings(
                height * scale, width * scale, latent_frames, self.device
            )
        return self._rope[key]

    @torch.inference_mode()
    def velocity(
        self, x: Tensor, t: int, text: Tensor, reference: Reference | None = None, images: Images | None = None
    ) -> Tensor:
        """v [R,f,C,h,w] float32 for rows x [R,f,C,h,w] at timestep t with prompts text [R,S,D]; see `conditioned`."""
        dtype = self.transformer.dtype
        if images is not None and reference is not None and reference.anchor:
            raise BadSpec("field recipe.anchor: an image-to-video model can't have anchors; set it to none")
        x = x.to(self.device, dtype)
        with self.computing():
            self.evaluations += len(x)
            v = self.transformer(
                hidden_states=x if images is None else images.beside(x, reference.rows if reference else 0),
                encoder_hidden_states=text.to(self.device, dtype),
                timestep=torch.full((len(x),), t, device=self.device),
                ofs=None if self.transformer.config.ofs_embed_dim is None else x.new_full((1,), OFS),
                image_rotary_emb=self._rotary(x.shape[1], x.shape[3], x.shape[4]),
                attention_kwargs=None if reference is None else {"reference": reference},
                return_dict=False,
            )[0]
        return finite(v, "transformer", dtype, "model.dtype").float()

    def conditioned(self, image: Tensor | None, image_ref: Tensor | None = None) -> Callable[..., Tensor]:
        """`velocity` with image latents [C,h,w] bound to it: the rows' and, if different, the reference rows'.

        Image-to-video models need them; for text-to-video there is no image, and it is plain `velocity`.
        """
        if image is None:
            return self.velocity
        place = partial(torch.Tensor.to, device=self.device, dtype=self.transformer.dtype)
        return partial(self.velocity, images=Images(place(image), place(image if image_ref is None else image_ref)))

    def one_row(self, text: Tensor, image: Tensor | None = None) -> Callable[[Tensor, int], Tensor]:
        """velocity(x [f,C,h,w], t) of a single row with one prompt [1,S,D]: what inversion and `ddim.sample` take."""
        velocity = self.conditioned(image)
        return lambda x, t: velocity(x[None], t, text)[0].to(x.device)


def load(spec: ModelSpec, shape: VideoShape | None = None) -> VideoModel:
    """Loads and places a model; checks come first, so that a bad folder costs no time. `shape`: of the clips, where it
    is not the model's own."""
    folder = model_folder(spec)
    name = check_folder(folder)
    spec = placed(quantised.held_as(spec, folder), shape)
    quantised.check_loadable(spec, folder)
    device, loras = chosen_device(spec), lora_files(spec)
    dtypes = {"vae": getattr(torch, spec.vae_dtype), "default": getattr(torch, spec.dtype)}
    try:
        pipe = getattr(diffusers, name).from_pretrained(
            folder, dtype=dtypes, use_safetensors=True, local_files_only=True, text_encoder=None
        )
    except Exception as error:
        raise unreadable(folder, error) from error
    pipe.set_progress_bar_config(disable=True)
    lora = add_loras(pipe, loras)
    if quantised.kind_of(folder) == "stored":
        weights.shrink(pipe.transformer, spec)
    if spec.vae_tiling == "on":
        pipe.vae.enable_tiling()
    if spec.vae_slicing:
        pipe.vae.enable_slicing()
    place(pipe, spec, device)
    return VideoModel(pipe, spec, component_fingerprints(folder) | lora, folder / "text_encoder")


def place(pipe: Any, spec: ModelSpec, device: torch.device) -> None:
    """Moves a pipeline to its device, or leaves there what `offload` says."""
    hooks = {"model": "enable_model_cpu_offload", "sequential": "enable_sequential_cpu_offload"}
    if spec.offload in hooks:
        getattr(pipe, hooks[spec.offload])(device=device)
        return
    if spec.offload == "blocks":  # before the rest is moved: the transformer must not be on the GPU as a whole
        stream = device.type == "cuda"  # the next block is copied while one computes
        pipe.transformer.enable_group_offload(
            device, torch.device("cpu"), "block_level", num_blocks_per_group=1, use_stream=stream
        )
        pipe.vae.to(device)
        return
    pipe.to(device)


_loaded: dict[str, VideoModel] = {}
_loading = threading.Lock()
_placed = lru_cache(maxsize=8)(placed)  # for a hub id it asks the network
loads = 0  # of this process; one a model, however many threads ask


def loaded(spec: ModelSpec, shape: VideoShape | None = None) -> VideoModel:
    """The process's own copy of this model, loaded on first use and kept; another spec replaces it, and so does a shape
    that needs another placement."""
    global loads
    with _loading:
        spec = _placed(spec, shape)
        if spec.fingerprint not in _loaded:
            _loaded.clear()
            _loaded[spec.fingerprint] = load(spec)
            loads += 1
        return _loaded[spec.fingerprint]


def busy_seconds() -> float:
    """Seconds that this process's kept model has computed since it was loaded; 0 where none is kept."""
    return sum(model.busy_s for model in _loaded.values())


@contextlib.contextmanager
def unloaded() -> Iterator[None]:
    """Forgets the kept model before and after: for tests and for processes that change models."""
    _loaded.clear()
    yield
    _loaded.clear()
