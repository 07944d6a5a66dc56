"""Weights in 8 bits, of the transformer's blocks and the text encoder: half of the memory of 16 bits, for some of the
precision.

- int8: stored in 8 bits with a scale a row, multiplied in the model's own precision (torchao, weight-only);
- int8_dynamic: activations are rounded to 8 bits as well, a scale a token, and multiplied as integers (torchao);
- float8: stored as float8_e4m3fn, cast to the model's own precision before use (diffusers' layerwise casting).

docs/recipes.md says what each costs in quality.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from cogvideo_core.errors import ModelError
from cogvideo_core.settings.specs import ModelSpec

MISSING = "field model.{field}: {kind!r} needs the package torchao; install cogvideo-edit[int8], or use {other}"


def shrink(transformer: Any, spec: ModelSpec) -> None:
    """Holds the transformer's weights as `ModelSpec.weights` says. Raises ModelError where a package is missing."""
    if spec.weights == "float8":
        transformer.enable_layerwise_casting(torch.float8_e4m3fn, compute_dtype=getattr(torch, spec.dtype))
    elif spec.weights != "stored":
        quantization = _torchao(field="weights", kind=spec.weights, other="float8 or stored")
        configs: dict[str, Any] = {
            "int8": quantization.Int8WeightOnlyConfig,
            "int8_dynamic": quantization.Int8DynamicActivationInt8WeightConfig,
        }
        quantization.quantize_(transformer, configs[spec.weights](), _of_blocks)


def shrink_text_encoder(encoder: nn.Module) -> None:
    """Holds all of its linear layers in 8 bits; its embeddings stay. Raises ModelError where torchao is missing."""
    quantization = _torchao(field="text_weights", kind="int8", other="stored")
    quantization.quantize_(encoder, quantization.Int8WeightOnlyConfig())


def _torchao(**said: str) -> Any:
    try:
        from torchao import quantization
    except ImportError as error:
        raise ModelError(MISSING.format(**said)) from error
    return quantization


def _of_blocks(module: nn.Module, name: str) -> bool:
    """Which layers are held in 8 bits: all products of the blocks, which are nearly all weights; none around them."""
    return isinstance(module, nn.Linear) and name.startswith("transformer_blocks.")
