"""Odd LoRA files: as tools publish them, and as they must not be taken."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from odd_cases import REFUSED, RIGHT, Case, one_sentence
from safetensors.torch import load_file, save_file
from torch import Tensor

from cogvideo_core.errors import BadSpec, ModelError
from cogvideo_core.models import model
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.shapes.build import MAX_TEXT_TOKENS

Q, OUT = "transformer_blocks.0.attn1.to_q", "transformer_blocks.1.attn1.to_out.0"
RANK, WIDTH, ALPHA = 2, 64, 6.0
Tensors = dict[str, Tensor]
Changes = dict[str, np.ndarray]


def wordless(folder: Path) -> None:
    """A tokenizer of other words than English ones."""
    from transformers import T5Tokenizer

    special = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    words = [(f"▁{word}", -1.0) for word in ("кот", "дом", "лес")]
    tokenizer = T5Tokenizer(vocab=special + words, extra_ids=0, model_max_length=MAX_TEXT_TOKENS)
    tokenizer.save_pretrained(folder / "tokenizer")


def parts(module: str, seed: int, rank: int = RANK, width: int = WIDTH) -> tuple[Tensor, Tensor]:
    """down [rank,width] and up [width,rank] of a module."""
    draw = torch.Generator().manual_seed(seed + len(module))
    return torch.randn(rank, width, generator=draw) / 8, torch.randn(width, rank, generator=draw) / 8


def lora(
    down: str = "transformer.{}.lora_A.weight",
    up: str = "transformer.{}.lora_B.weight",
    flat: bool = False,
    alpha: str = "",
    rank: int = RANK,
    width: int = WIDTH,
    seed: int = 0,
) -> Tensors:
    """A LoRA of two modules under these names; `alpha` names a tensor with ALPHA in it."""
    tensors: Tensors = {}
    for module in (Q, OUT):
        name = module.replace(".", "_") if flat else module
        tensors[down.format(name)], tensors[up.format(name)] = parts(module, seed, rank, width)
        if alpha:
            tensors[alpha.format(name)] = torch.tensor(ALPHA)
    return tensors


def changes(factor: float = 1.0, rank: int = RANK, seed: int = 0) -> Changes:
    """What such a LoRA adds to each weight, by numpy: factor · up · down."""
    found = {}
    for module in (Q, OUT):
        down, up = parts(module, seed, rank)
        found[module] = factor * up.numpy().astype(np.float64) @ down.numpy().astype(np.float64)
    return found


def dora(plain: Changes) -> tuple[Tensors, Changes]:
    """A DoRA of one module, and the weight that its paper's formula gives: m (W + B A) / its rows' norms."""
    down, up = parts(Q, 0)
    magnitude = torch.linspace(0.5, 2, WIDTH)
    weight = plain[Q] + changes()[Q]
    wanted = magnitude.numpy()[:, None] * weight / np.linalg.norm(weight, axis=1, keepdims=True)
    names = [f"transformer.{Q}.{end}.weight" for end in ("lora_A", "lora_B", "lora_magnitude_vector")]
    return dict(zip(names, (down, up, magnitude), strict=True)), {Q: wanted - plain[Q]}


def plain_weights(path: Path) -> Changes:
    (file,) = (path / "transformer").glob("*.safetensors")
    return {name.removesuffix(".weight"): values.double().numpy() for name, values in load_file(file).items()}


def merged(
    tensors: Callable[[Changes], tuple[Tensors, Changes]], about: dict[str, Any] | None = None, scale: float = 1.0
) -> Callable[[Path], str]:
    """Loads, and each weight of the transformer is the plain one plus what was worked out by hand."""

    def judge(folder: Path) -> str:
        path = base()
        before = plain_weights(path)
        weights, wanted = tensors(before)
        told = {"lora_adapter_metadata": json.dumps(about)} if about else {}
        save_file(weights, folder / "lora.safetensors", {"format": "pt"} | told)
        return compared(
            ModelSpec(path=str(path), lora=str(folder / "lora.safetensors"), lora_scale=scale), before, wanted
        )

    return judge


def compared(spec: ModelSpec, before: Changes, wanted: Changes) -> str:
    held = model.load(spec).transformer.state_dict()
    for name, values in before.items():
        right = values + wanted.get(name, 0)
        got = held.get(f"{name}.weight", held.get(name)).double().numpy()
        if np.abs(got - right).max() > 1e-5:
            return f"{name} differs by {np.abs(got - right).max():.2g}"
    return RIGHT


def several(folder: Path) -> str:
    """Two files, one at half its strength, times the common scale."""
    before = plain_weights(base())
    for name, seed in (("a", 0), ("b", 5)):
        save_file(lora(seed=seed), folder / f"{name}.safetensors")
    spec = ModelSpec(path=str(base()), lora=f"{folder}/a.safetensors, {folder}/b.safetensors*0.5", lora_scale=0.5)
    first, second = changes(0.5), changes(0.25, seed=5)
    return compared(spec, before, {name: first[name] + second[name] for name in first})


def refused(tensors: Tensors, words: str, spelling: str = "{}", raw: bytes = b"") -> Callable[[Path], str]:
    """Must be refused by one sentence that holds these words."""

    def judge(folder: Path) -> str:
        file = folder / "lora.safetensors"
        save_file(tensors, file, {"format": "pt"})
        if raw:
            file.write_bytes(raw)
        try:
            model.load(ModelSpec(path=str(base()), lora=spelling.format(file)))
        except (ModelError, BadSpec) as error:
            wrong = "" if words in str(error) else f"refused otherwise than by {words!r}: {error}"
            return wrong or one_sentence(str(error)) or REFUSED
        return "loaded"

    return judge


def base() -> Path:
    import odd_models

    return odd_models.plain()


def as_is(**names: Any) -> Callable[[Changes], tuple[Tensors, Changes]]:
    factor = ALPHA / names.get("rank", RANK) if names.get("alpha") else 1.0
    return lambda plain: (lora(**names), changes(factor, names.get("rank", RANK)))


def said(factor: float) -> Callable[[Changes], tuple[Tensors, Changes]]:
    return lambda plain: (lora(), changes(factor))


def cases() -> list[Case]:
    a, b = "{}.lora_A.weight", "{}.lora_B.weight"
    good, halved = lora(), {name: values for name, values in lora().items() if "lora_B" not in name}
    zero = {name: values * (0 if "lora_B" in name else 1) for name, values in good.items()}
    nan = {name: values * torch.nan for name, values in good.items()}
    judged: dict[str, Callable[[Path], str]] = {
        "diffusers": merged(as_is()),
        "scaled": merged(lambda plain: (lora(), changes(-0.75)), scale=-0.75),
        "adapter-name": merged(
            as_is(down="transformer.{}.lora_A.default.weight", up="transformer.{}.lora_B.default.weight")
        ),
        "peft-prefix": merged(as_is(down="base_model.model." + a, up="base_model.model." + b)),
        "peft-prefix-and-name": merged(
            as_is(
                down="base_model.model.transformer.{}.lora_A.x.weight",
                up="base_model.model.transformer.{}.lora_B.x.weight",
            )
        ),
        "no-prefix": merged(as_is(down=a, up=b)),
        "module-prefix": merged(as_is(down="transformer.module." + a, up="transformer.module." + b)),
        "diffusion-model-prefix": merged(as_is(down="diffusion_model." + a, up="diffusion_model." + b)),
        "down-up-alpha": merged(as_is(down="{}.lora_down.weight", up="{}.lora_up.weight", alpha="{}.alpha")),
        "old-diffusers": merged(as_is(down="transformer.{}.lora.down.weight", up="transformer.{}.lora.up.weight")),
        "kohya-unet": merged(
            as_is(
                down="lora_unet__{}.lora_down.weight",
                up="lora_unet__{}.lora_up.weight",
                flat=True,
                alpha="lora_unet__{}.alpha",
            )
        ),
        "kohya-transformer": merged(
            as_is(down="lora_transformer_{}.lora_down.weight", up="lora_transformer_{}.lora_up.weight", flat=True)
        ),
        "other-rank": merged(as_is(rank=5)),
        "alpha-said": merged(said(4.0), {"transformer.lora_alpha": 8, "transformer.r": RANK}),
        "alpha-of-rslora": merged(said(8 / RANK**0.5), {"transformer.lora_alpha": 8, "transformer.use_rslora": True}),
        "alpha-of-a-module": merged(
            lambda plain: (lora(), {Q: changes(1.0)[Q], OUT: changes(3.0)[OUT]}),
            {"transformer.lora_alpha": RANK, "transformer.alpha_pattern": {"to_out.0": 6}},
        ),
        "dora": merged(dora),
        "several": several,
        "half": refused(halved, "only half of its tensors"),
        "half-of-dora": refused(
            {k: v for k, v in good.items() if "lora_A" in k}
            | {f"transformer.{Q}.lora_magnitude_vector": torch.ones(WIDTH)},
            "only half",
        ),
        "zero": refused(zero, "would change no weight"),
        "not-a-number": refused(nan, "no finite numbers"),
        "text-encoder": refused(
            good | {"text_encoder.encoder.block.0.lora_A.weight": torch.ones(2, 2)}, "not the training"
        ),
        "kohya-text-encoder": refused(good | {"lora_te1_x.lora_down.weight": torch.ones(2, 2)}, "not the training"),
        "sat": refused({"transformer.layers.0.attention.query_key_value.matrix_A.0": torch.ones(2, 2)}, "SAT"),
        "other-model": refused(
            lora(down="transformer.blocks.9." + a, up="transformer.blocks.9." + b), "no module of this"
        ),
        "other-width": refused(lora(width=128), "weights of 128x128, where this transformer has 64x64"),
        "unknown-names": refused({f"transformer.{Q}.hada_w1_a": torch.ones(2, 2)}, "no LoRA's tensor that is known"),
        "twice": refused(good | {f"{Q}.lora_A.weight": good[f"transformer.{Q}.lora_A.weight"].clone()}, "two tensors"),
        "empty": refused({}, "no tensors"),
        "garbage": refused(good, "can't be read", raw=b"no safetensors"),
        "scale-no-number": refused(good, "no number after *", "{}*strong"),
        "scale-too-large": refused(good, "outside -4 .. 4", "{}*9"),
        "second-missing": refused(good, "no hub id", "{},/nowhere/b.safetensors"),
    }
    return [Case("models", f"lora-{name}", "merged as by hand, or refused", judge) for name, judge in judged.items()]
