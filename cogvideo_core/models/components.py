"""A model folder's components, checked by what they must contain and how they must fit, before a weight is read."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import diffusers
import transformers

from cogvideo_core.errors import ModelError
from cogvideo_core.models import quantised
from cogvideo_core.models.checkpoint_files import check_fields, check_weights, check_whole, read_json, unusable

LEAST = {
    "transformer": {
        "num_layers": 1,
        "num_attention_heads": 1,
        "attention_head_dim": 1,
        "in_channels": 1,
        "out_channels": 1,
        "patch_size": 1,
        "sample_frames": 1,
        "sample_height": 1,
        "sample_width": 1,
        "max_text_seq_length": 1,
        "text_embed_dim": 1,
    },
    "vae": {"latent_channels": 1, "in_channels": 1, "out_channels": 1},
    "text_encoder": {"d_model": 1, "vocab_size": 2, "num_layers": 1, "num_heads": 1, "d_kv": 1, "d_ff": 1},
}
CLASSES: dict[str, Any] = {
    "transformer": diffusers.CogVideoXTransformer3DModel,
    "vae": diffusers.AutoencoderKLCogVideoX,
}
SCHEDULERS = ("CogVideoXDDIMScheduler", "CogVideoXDPMScheduler", "DDIMScheduler")
VOCABULARIES = ("spiece.model", "tokenizer.json")
PROBES = ("a red circle moving right on a dark background", "a blue square moving left on a striped background")


def check_configs(folder: Path) -> None:
    """Checks all that needs no weights: sane configurations that fit each other, scheduler, tokenizer's files.

    Raises ModelError.
    """
    configs = {}
    for part, least in LEAST.items():
        path = folder / part / "config.json"
        configs[part] = read_json(path)
        check_fields(part.replace("_", " "), path, configs[part], least)
        wanted = CLASSES[part].__name__ if part in CLASSES else None
        if wanted and (found := configs[part].get("_class_name", wanted)) != wanted:
            raise unusable(path, f"is of a {found}, not of a {wanted}", "give a CogVideoX folder")
    if configs["text_encoder"].get("model_type", "t5") != "t5":
        raise unusable(folder / "text_encoder/config.json", "is no T5 encoder's", "give a CogVideoX folder")
    scale = configs["vae"].get("scaling_factor", 1.0)
    if not isinstance(scale, int | float) or not 0 < scale < 100:
        raise unusable(
            folder / "vae/config.json", f"has scaling_factor = {scale!r}", "download the original config.json"
        )
    _check_text_width(folder, configs)
    check_scheduler(folder / "scheduler" / "scheduler_config.json")
    check_tokenizer_files(folder / "tokenizer")


def _check_text_width(folder: Path, configs: Mapping[str, Mapping[str, Any]]) -> None:
    gives, takes = configs["text_encoder"].get("d_model", 512), configs["transformer"].get("text_embed_dim", 4096)
    if gives != takes:
        problem = f"gives embeddings {gives} wide, the transformer takes {takes}: they are of different models"
        raise unusable(folder / "text_encoder", problem, "take all components from one checkpoint")


def check_scheduler(path: Path) -> None:
    """Refuses a noise schedule that is not that of a CogVideoX. Raises ModelError."""
    config = read_json(path)
    name, kind = config.get("_class_name"), config.get("prediction_type", "epsilon")
    remedy = "download the checkpoint's own scheduler folder"
    if name not in SCHEDULERS:
        raise unusable(path, f"is of a {name}; supported are {', '.join(SCHEDULERS)}", remedy)
    if kind != "v_prediction":
        raise unusable(path, f"says prediction_type = {kind!r}, where CogVideoX predicts v_prediction", remedy)
    steps, shift = config.get("num_train_timesteps", 1000), config.get("snr_shift_scale", 1.0)
    start, end = config.get("beta_start", 0.00085), config.get("beta_end", 0.012)
    numbers = all(isinstance(value, int | float) for value in (steps, shift, start, end))
    if not numbers or not (0 < start <= end < 1 and shift > 0 and int(steps) == steps and steps >= 1):
        raise unusable(path, f"has an impossible noise schedule (betas {start} to {end}, {steps} steps)", remedy)


def check_tokenizer_files(part: Path) -> None:
    """Refuses a tokenizer without a vocabulary: the library would make an empty one. Raises ModelError."""
    present = [part / name for name in VOCABULARIES if (part / name).exists()]
    if not present:
        problem = f"has no vocabulary ({' or '.join(VOCABULARIES)}), without which every word would be unknown"
        raise unusable(part, problem, "download the tokenizer folder with all its files, spiece.model included")
    for file in present:
        check_whole(file)


def check_tokenizer(folder: Path) -> None:
    """Loads the tokenizer and refuses one that does not know words, or has more of them than the text encoder.

    Raises ModelError.
    """
    part = folder / "tokenizer"
    try:
        tokenizer: Any = transformers.T5Tokenizer.from_pretrained(part, local_files_only=True)
        ids = [tokenizer(text, verbose=False).input_ids for text in PROBES]
    except Exception as error:  # the tokenizers raise whatever a damaged file leads them to
        raise unusable(part, f"can't be loaded ({type(error).__name__})") from error
    known = [[token for token in one if token not in tokenizer.all_special_ids] for one in ids]
    if not all(known) or known[0] == known[1]:
        problem = "knows no English words: all prompts would mean the same"
        raise unusable(part, problem, "download the checkpoint's own tokenizer folder")
    size = read_json(folder / "text_encoder" / "config.json").get("vocab_size", 32128)
    if (largest := max(max(one) for one in ids) if len(tokenizer) <= size else len(tokenizer) - 1) >= size:
        problem = f"has tokens up to {largest}, the text encoder embeds {size}: they are of different models"
        raise unusable(part, problem, "take all components from one checkpoint")


def check_all_weights(folder: Path) -> None:
    """Checks all components' weight files, with the text encoder's, which is loaded last. Raises ModelError."""
    makers: dict[str, Any] = {
        part: lambda kind=kind, part=part: kind.from_config(kind.load_config(folder / part))
        for part, kind in CLASSES.items()
    }
    makers["text_encoder"] = lambda: transformers.T5EncoderModel(
        transformers.T5Config.from_pretrained(folder / "text_encoder")
    )
    for part, make in makers.items():
        eight_bits = part == "transformer" and quantised.kind_of(folder) != "stored"
        try:
            check_weights(folder / part, make, partial(quantised.joined, folder / part) if eight_bits else dict)
        except ModelError:
            raise
        except Exception as error:  # a configuration that no model can be made of
            raise unusable(folder / part / "config.json", f"makes no model ({type(error).__name__})") from error
