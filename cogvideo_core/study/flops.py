"""The cost of edits: FLOPs counted for two schemes, closed forms to check them, full-size models without weights.

A multiplication and an addition are two FLOPs. Element-wise work is not counted, as everywhere.
"""

from __future__ import annotations

import contextlib
import itertools
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKLCogVideoX, CogVideoXPipeline, CogVideoXTransformer3DModel
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import T5Config, T5EncoderModel

from cogvideo_core.diffusion import editing
from cogvideo_core.diffusion.attention import Reference
from cogvideo_core.diffusion.inversion import seeded_noise
from cogvideo_core.models import weights
from cogvideo_core.models.model import VideoModel
from cogvideo_core.settings.presets import PRESETS, unwindowed
from cogvideo_core.settings.specs import ModelSpec, RecipeSpec
from cogvideo_core.shapes import build

aten = torch.ops.aten


@dataclass(frozen=True)
class Flops:
    """Of one call. linear: matrix products and convolutions with weights; attention: the two products of q, k and v."""

    linear: int
    attention: int

    @property
    def total(self) -> int:
        return self.linear + self.attention


def attention_flops(q: torch.Size, k: torch.Size, v: torch.Size, *_: Any, **__: Any) -> int:
    """Shapes q [B,H,S_q,d], k and v [B,H,S_k,d] -> 4·B·H·S_q·S_k·d: the products q·kᵀ and softmax·v."""
    return 4 * q[0] * q[1] * q[2] * k[2] * q[3]


FORMULAS = {aten._scaled_dot_product_flash_attention_for_cpu: attention_flops}
"""What torch's counter doesn't know and counts as nothing: all attention on the CPU."""

# bmm: on the meta device attention is spelled out as two of them; CogVideoX has no others
ATTENTION = {"bmm", "_scaled_dot_product_flash_attention_for_cpu"}
COSTLY = re.compile(r"attention|mm|mv|matmul|conv|linear|dot")


class Uncounted(TorchDispatchMode):
    """Notes the operators that reach the kernels, look like matrix products, and have no formula."""

    def __init__(self, known: dict[Any, Any]) -> None:
        super().__init__()
        self.known, self.found = known, set[str]()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        packet = func._overloadpacket
        if packet not in self.known and COSTLY.search(packet.__name__):
            self.found.add(packet.__name__)
        return func(*args, **(kwargs or {}))


def count(call: Callable[[], Any], formulas: dict[Any, Any] | None = None) -> Flops:
    """FLOPs of what `call` runs, on the CPU or the meta device. Raises LookupError for products without a formula."""
    counter = FlopCounterMode(display=False, custom_mapping=FORMULAS if formulas is None else formulas)
    with Uncounted(counter.flop_registry) as uncounted, counter:
        call()
    if uncounted.found:
        raise LookupError(f"no FLOP formula for {', '.join(sorted(uncounted.found))}; register one in FORMULAS")
    by_op = {packet.__name__: flops for packet, flops in counter.get_flop_counts().get("Global", {}).items()}
    attention = sum(flops for name, flops in by_op.items() if name in ATTENTION)
    return Flops(sum(by_op.values()) - attention, attention)


class Meter:
    """A velocity that adds up FLOPs in `total`. Each kind of call runs once; its answer is then reused."""

    def __init__(self, model: VideoModel) -> None:
        self.model, self.total = model, 0
        self.seen: dict[tuple[torch.Size, Reference | None], tuple[int, Tensor]] = {}

    def __call__(self, x: Tensor, t: int, text: Tensor, reference: Reference | None = None) -> Tensor:
        kind = (x.shape, reference)
        if kind not in self.seen:
            answers: list[Tensor] = []
            cost = count(lambda: answers.append(self.model.velocity(x, t, text, reference)))
            self.seen[kind] = (cost.total, answers[0])
        self.total += self.seen[kind][0]
        return self.seen[kind][1]

    def of(self, run: Callable[[], Any]) -> int:
        """FLOPs that `run` asks of this velocity."""
        before = self.total
        run()
        return self.total - before


SHARED = unwindowed(name="shared")
SCRIPT = PRESETS["seed"]


@dataclass(frozen=True)
class Given:
    """Inputs of `editing.edit` for N edits, drawn at random: x [N,f,C,h,w], trajectory: a state [f,C,h,w] a level."""

    x: Tensor
    texts: editing.Texts
    trajectory: list[Tensor]

    def one(self, edit: int) -> Given:
        texts = editing.Texts(self.texts.cond[edit : edit + 1], self.texts.uncond, self.texts.reference)
        return Given(self.x[edit : edit + 1], texts, self.trajectory)


def given(model: VideoModel, edits: int, steps: int) -> Given:
    """Inputs of the model's own size on its device; the same at each call."""
    config, seeds = model.transformer.config, itertools.count()
    frames = (config.sample_frames - 1) // config.temporal_compression_ratio + 1
    latents = (frames + model.front_padding, config.out_channels, config.sample_height, config.sample_width)

    def draw(*shape: int) -> Tensor:
        if model.device.type == "meta":
            return torch.empty(shape, device="meta")
        return seeded_noise(shape, next(seeds)).to(model.device)

    cond, uncond, reference = (draw(n, model.text_tokens, config.text_embed_dim) for n in (edits, 1, 1))
    x = draw(edits, *latents)
    return Given(x, editing.Texts(cond, uncond, reference), [draw(*latents) for _ in range(steps + 1)])


def shared(
    model: VideoModel, of: Given, recipe: RecipeSpec = SHARED, velocity: editing.RowVelocity | None = None
) -> Tensor:
    """Our scheme: all edits in one batch, denoised to the end [N,f,C,h,w]."""
    schedule = model.schedule(len(of.trajectory) - 1)
    return editing.edited(velocity or model.velocity, of.x, of.texts, of.trajectory, schedule, recipe, model.layers)


def script(model: VideoModel, of: Given, velocity: editing.RowVelocity | None = None) -> Tensor:
    """The public script's scheme: one edit after the other, a reference row for each guidance half."""
    return torch.cat([shared(model, of.one(edit), SCRIPT, velocity) for edit in range(len(of.x))])


def shared_cost(row: Flops, edits: int) -> int:
    """A guided step of N edits over one shared reference row: 2N(L + 2A) + (L + A). row: one row without reference."""
    return 2 * edits * (row.linear + 2 * row.attention) + row.total


def script_cost(row: Flops, edits: int) -> int:
    """The same with a reference row for each edit and guidance half: N(4L + 6A)."""
    return edits * (4 * row.linear + 6 * row.attention)


def floor_cost(row: Flops, edits: int) -> int:
    """The same if the reference were free, which is the limit of many edits: 2N(L + 2A)."""
    return 2 * edits * (row.linear + 2 * row.attention)


RELEASED: dict[str, dict[str, Any]] = {
    "2b": {"num_layers": 30, "num_attention_heads": 30, "use_rotary_positional_embeddings": False},
    "5b": {"num_layers": 42, "num_attention_heads": 48, "use_rotary_positional_embeddings": True},
    "1.5-5b": {
        "num_layers": 42,
        "num_attention_heads": 48,
        "use_rotary_positional_embeddings": True,
        "patch_size_t": 2,
        "patch_bias": False,
        "sample_height": 300,
        "sample_width": 300,
        "sample_frames": 81,
    },
}
"""Transformer configurations of the released CogVideoX, as far as they differ; the rest is diffusers' default."""


@contextlib.contextmanager
def _making(device: str, dtype: torch.dtype) -> Iterator[None]:
    """Modules made inside get this device and dtype."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)


MINIATURE: dict[str, Any] = {
    **{"num_layers": 3, "num_attention_heads": 2, "sample_height": 12, "sample_width": 12, "sample_frames": 9},
    **{"text_embed_dim": 64, "max_text_seq_length": 16},
}
"""What a released configuration is cut down to, to try a script out."""


def full_size(
    variant: str,
    device: str = "meta",
    dtype: torch.dtype = torch.bfloat16,
    compiled: bool = False,
    held: str = "stored",
    cut: dict[str, Any] | None = None,
) -> VideoModel:
    """One of `RELEASED` without its weights: nothing at all on the meta device, random ones elsewhere.

    It has neither VAE nor text encoder: for counting and timing the transformer. held: as `ModelSpec.weights` has it.
    cut: other numbers in its configuration.
    """
    named = str(dtype).removeprefix("torch.")
    spec = ModelSpec(path=f"random/{variant}", dtype=named, weights=held)
    with _making(device, dtype):
        transformer = CogVideoXTransformer3DModel(attention_head_dim=64, **RELEASED[variant] | (cut or {})).eval()
    weights.shrink(transformer, spec)
    scheduler = build.build_scheduler(build.VARIANTS[variant])
    pipe = CogVideoXPipeline(tokenizer=None, text_encoder=None, vae=None, transformer=transformer, scheduler=scheduler)
    pipe.vae_scale_factor_spatial = 8  # which diffusers reads from the VAE
    return VideoModel(pipe, spec.model_copy(update={"compile": "blocks" if compiled else "off"}))


def full_size_vae(device: str = "meta", dtype: torch.dtype = torch.float32) -> AutoencoderKLCogVideoX:
    """The VAE, which has the same layers in all released models, without its weights; its tiles are those of 1.0."""
    with _making(device, dtype):
        vae = AutoencoderKLCogVideoX(
            block_out_channels=(128, 256, 256, 512),
            down_block_types=("CogVideoXDownBlock3D",) * 4,
            up_block_types=("CogVideoXUpBlock3D",) * 4,
            latent_channels=16,
            layers_per_block=3,
        )
    return vae.eval().requires_grad_(False)


def full_size_text_encoder(dtype: torch.dtype = torch.bfloat16) -> T5EncoderModel:
    """The encoder of T5 v1.1 XXL, as in all released models, on the meta device."""
    sizes = {"d_model": 4096, "d_kv": 64, "d_ff": 10240, "num_layers": 24, "num_heads": 64, "vocab_size": 32128}
    with _making("meta", dtype):
        return T5EncoderModel(T5Config(**sizes, feed_forward_proj="gated-gelu"))
