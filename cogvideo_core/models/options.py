"""Refuses what does not work with reference attention yet."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from cogvideo_core.errors import ModelError

NOT_CACHES = ("group_offloading", "layer_execution_tracker", "lazy_", "layerwise_casting", "peft_autocast")
"""Hooks of diffusers that change where weights lie and how they are stored, not what is computed."""


def check_transformer(transformer: Any, weights: str = "stored") -> None:
    """Refuses what would bypass our attention processors, or reuse an earlier call; and weights that are not held as
    `ModelSpec.weights` says. Raises ModelError."""
    modules = list(transformer.modules())
    if any(hasattr(m, "_orig_mod") or m._compiled_call_impl is not None for m in modules):
        raise ModelError(
            "field model: the transformer was compiled by hand with torch.compile, which is not supported yet; "
            "give it as it was loaded, and set model.compile"
        )
    if not weights.startswith("int8") and _quantised(transformer):
        raise ModelError(
            "field model: the transformer was quantised by hand, which is not supported yet; take the checkpoint in 16 "
            "or 32 bits, and set model.weights"
        )
    if _caches(modules) or transformer.is_cache_enabled:
        raise ModelError(
            "field model: a step cache is enabled on the transformer, which is not supported yet; "
            "call disable_cache() first"
        )


def _quantised(transformer: Any) -> bool:
    if getattr(transformer, "hf_quantizer", None) or "quantization_config" in transformer.config:
        return True
    return any(type(weight.data) is not Tensor or not weight.is_floating_point() for weight in transformer.parameters())


def _caches(modules: list[Any]) -> list[str]:
    """Names of diffusers' hooks that skip work."""
    registries = [module._diffusers_hook for module in modules if hasattr(module, "_diffusers_hook")]
    return [name for each in registries for name in each.hooks if not name.startswith(NOT_CACHES)]
