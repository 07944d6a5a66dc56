"""torch.compile of the transformer's blocks: one compiled block serves all layers and all numbers of rows.

Graphs are made for: one row alone, several rows, rows that see a reference, and that with a strength for each edit or
without the reference's text. Nothing else of a call makes another one, and no graph is made for a layer of its own.
"""

from __future__ import annotations

import os
import shutil
from typing import Any

import torch
from torch import nn

from cogvideo_core.diffusion.attention import torch_choice
from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.specs import ModelSpec

BACKEND = "inductor"  # torch's own; tests take one that needs no C++ compiler
COMPILERS = ("c++", "g++", "clang++")
ROWS = ("hidden_states", "encoder_hidden_states", "temb")  # inputs of a block whose first axis is the rows


def check_compiler(spec: ModelSpec) -> None:
    """Raises BadSpec where blocks are to be compiled and there is no C++ compiler, or by settings that rule it out."""
    if spec.compile == "off":
        return
    if spec.offload in ("sequential", "blocks"):
        raise BadSpec(f"field model.compile: blocks can't be combined with offload={spec.offload}; use model or none")
    if spec.attention == "sage":
        raise BadSpec("field model.compile: blocks can't be combined with attention=sage; use another kernel")
    named = os.environ.get("CXX")
    if BACKEND == "inductor" and not any(shutil.which(name) for name in ([named] if named else COMPILERS)):
        raise BadSpec("field model.compile: blocks needs a C++ compiler; install one (Debian: g++), or set it to off")


def compile_blocks(transformer: Any) -> None:
    """Compiles each block's forward, once per loaded model; hooks of the blocks stay outside of it."""
    for block in transformer.transformer_blocks:
        block.register_forward_pre_hook(of_any_rows, with_kwargs=True)
        block.forward = torch.compile(block.forward, backend=BACKEND, dynamic=False)


def of_any_rows(block: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Marks the number of rows as one that varies; the first block's inputs, which are views, get strides like the
    others'."""
    told = kwargs | {name: kwargs[name].contiguous() for name in ROWS}
    for name in ROWS:
        torch._dynamo.maybe_mark_dynamic(told[name], 0)
    seen = (kwargs["attention_kwargs"] or {}).get("seen")
    if seen is not None and seen.log_weight.ndim:
        torch._dynamo.maybe_mark_dynamic(seen.log_weight, 0)
    return args, told


def fixed_kernel(spec: ModelSpec, transformer: Any, device: torch.device) -> str:
    """The attention kernel by name: on CUDA, torch's choice can't be asked for inside a compiled block."""
    if spec.attention != "auto" or spec.compile == "off" or device.type != "cuda":
        return spec.attention
    width = transformer.config.attention_head_dim
    probe = torch.zeros(1, transformer.config.num_attention_heads, 256, width, device=device, dtype=transformer.dtype)
    return torch_choice(probe, probe, probe)
