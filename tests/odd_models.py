"""Odd and damaged model folders and LoRA files."""

from __future__ import annotations

import atexit
import io
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import odd_loras
import sentencepiece
import torch
from diffusers import CogVideoXPipeline
from odd_cases import REFUSED, RIGHT, Case, one_sentence
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import T5Config, T5EncoderModel

from cogvideo_core.errors import ModelError
from cogvideo_core.models import model
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.shapes.build import MAX_TEXT_TOKENS, build_pipeline
from cogvideo_core.stages.failures import kind_of

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 123456\n"
PROMPTS = ("a red circle moving right on a dark background", "a blue square moving left on a striped background")
WORDS = [
    "a",
    "red",
    "blue",
    "green",
    "circle",
    "square",
    "triangle",
    "moving",
    "right",
    "left",
    "up",
    "down",
    "on",
    "the",
    "dark",
    "light",
    "striped",
    "background",
]
Damage = Callable[[Path], None]


@cache
def plain() -> Path:
    """A tiny pipeline as diffusers saves it, one weight file a component."""
    folder = Path(tempfile.mkdtemp(prefix="cogvideo-odd-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    build_pipeline("5b").save_pretrained(folder / "m")
    return folder / "m"


@cache
def published() -> Path:
    """The same in the layout of the released checkpoints: bfloat16, a sharded transformer and text encoder with index
    files, and a sentencepiece tokenizer without tokenizer.json."""
    folder = plain().parent / "published"
    pipe = CogVideoXPipeline.from_pretrained(plain(), dtype=torch.bfloat16)
    pipe.save_pretrained(folder)
    wider = T5Config.from_pretrained(
        folder / "text_encoder", vocab_size=48
    )  # as many as the new tokenizer has, or more
    parts = {"transformer": (pipe.transformer, "200KB"), "text_encoder": (T5EncoderModel(wider).bfloat16(), "60KB")}
    for part, (module, size) in parts.items():
        for file in (folder / part).glob("*.safetensors"):
            file.unlink()
        module.save_pretrained(folder / part, max_shard_size=size)
    spiece(folder)
    return folder


def spiece(folder: Path) -> None:
    """A sentencepiece model, trained on a few sentences, in place of the tokenizer."""
    sink = io.BytesIO()
    sentences = (" ".join([*WORDS[i:], *WORDS[:i]]) for i in range(len(WORDS)))
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=sentences,
        model_writer=sink,
        vocab_size=40,
        hard_vocab_limit=False,
        model_type="unigram",
        pad_id=0,
        eos_id=1,
        unk_id=2,
        bos_id=-1,
        minloglevel=2,
    )
    part = folder / "tokenizer"
    shutil.rmtree(part)
    part.mkdir()
    (part / "spiece.model").write_bytes(sink.getvalue())
    about = {"tokenizer_class": "T5Tokenizer", "extra_ids": 0, "model_max_length": MAX_TEXT_TOKENS}
    (part / "tokenizer_config.json").write_text(json.dumps(about))


def change(file: str, **fields: Any) -> Damage:
    """Other values in a JSON file; None takes a field away."""

    def damage(folder: Path) -> None:
        values = json.loads((folder / file).read_text()) | fields
        (folder / file).write_text(json.dumps({name: value for name, value in values.items() if value is not None}))

    return damage


def write(file: str, data: bytes) -> Damage:
    return lambda folder: (folder / file).write_bytes(data) and None


def remove(pattern: str) -> Damage:
    def damage(folder: Path) -> None:
        found = sorted(folder.glob(pattern))
        assert found, pattern
        for path in found:
            shutil.rmtree(path) if path.is_dir() else path.unlink()

    return damage


def cut(pattern: str, share: float) -> Damage:
    def damage(folder: Path) -> None:
        file = sorted(folder.glob(pattern))[-1]
        file.write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])

    return damage


def rename(pattern: str, old: str, new: str) -> Damage:
    def damage(folder: Path) -> None:
        for file in sorted(folder.glob(pattern)):
            file.rename(file.with_name(file.name.replace(old, new)))

    return damage


def tensors(file: str, edit: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]) -> Damage:
    return lambda folder: save_file(edit(load_file(folder / file)), folder / file, {"format": "pt"})


def without_one(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: held[name] for name in sorted(held)[1:]}


def transposed(held: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    name = next(name for name, values in sorted(held.items()) if values.dim() == 2 and len(set(values.shape)) == 2)
    return held | {name: held[name].T.contiguous()}


def huge_header(folder: Path) -> None:
    (folder / "vae" / "diffusion_pytorch_model.safetensors").write_bytes((2**60).to_bytes(8, "little") + b"{}")


def unlisted_tensor(folder: Path) -> None:
    index = next((folder / "transformer").glob("*.index.json"))
    listed = json.loads(index.read_text())
    listed["weight_map"]["no.such.tensor"] = next(iter(listed["weight_map"].values()))
    index.write_text(json.dumps(listed))


def climbing_index(folder: Path) -> None:
    index = next((folder / "transformer").glob("*.index.json"))
    listed = json.loads(index.read_text())
    listed["weight_map"] = dict.fromkeys(listed["weight_map"], "../vae/diffusion_pytorch_model.safetensors")
    index.write_text(json.dumps(listed))


def other_encoder(**fields: int) -> Damage:
    def damage(folder: Path) -> None:
        about = json.loads((folder / "text_encoder" / "config.json").read_text()) | fields
        T5EncoderModel(T5Config(**about)).save_pretrained(folder / "text_encoder")

    return damage


def pickled(folder: Path) -> None:
    remove("transformer/*.safetensors")(folder)
    torch.save({}, folder / "transformer" / "diffusion_pytorch_model.bin")


TRANSFORMER, VAE = ("transformer/diffusion_pytorch_model.safetensors", "vae/diffusion_pytorch_model.safetensors")
TEXT = "text_encoder/model.safetensors"
REFUSE: dict[str, tuple[Callable[[], Path], Damage, str]] = {
    "no-tokenizer": (plain, remove("tokenizer"), "tokenizer"),
    "no-vocabulary": (plain, remove("tokenizer/tokenizer.json"), "no vocabulary"),
    "no-spiece": (published, remove("tokenizer/spiece.model"), "spiece.model"),
    "spiece-lfs": (published, write("tokenizer/spiece.model", LFS), "git-LFS pointer"),
    "spiece-empty": (published, write("tokenizer/spiece.model", b""), "empty"),
    "spiece-garbage": (published, write("tokenizer/spiece.model", b"\x07" * 5000), "tokenizer"),
    "tokenizer-garbage": (plain, write("tokenizer/tokenizer.json", b"{"), "tokenizer"),
    "tokenizer-of-unknown-words": (plain, odd_loras.wordless, "knows no English words"),
    "tokenizer-too-large": (plain, other_encoder(vocab_size=5), "embeds 5"),
    "no-scheduler": (plain, remove("scheduler"), "scheduler_config.json"),
    "scheduler-epsilon": (plain, change("scheduler/scheduler_config.json", prediction_type="epsilon"), "v_prediction"),
    "scheduler-unsaid": (plain, change("scheduler/scheduler_config.json", prediction_type=None), "v_prediction"),
    "scheduler-euler": (
        plain,
        change("scheduler/scheduler_config.json", _class_name="EulerDiscreteScheduler"),
        "Euler",
    ),
    "scheduler-betas": (plain, change("scheduler/scheduler_config.json", beta_end=12), "impossible noise schedule"),
    "encoder-width": (plain, other_encoder(d_model=32), "32 wide, the transformer takes 64"),
    "encoder-bert": (plain, change("text_encoder/config.json", model_type="bert"), "T5"),
    "no-encoder": (plain, remove("text_encoder"), "text_encoder"),
    "encoder-lfs": (plain, write(TEXT, LFS), "git-LFS pointer"),
    "encoder-cut": (plain, cut(TEXT, 0.5), "cut off"),
    "encoder-tensor-gone": (plain, tensors(TEXT, without_one), "which its configuration asks for"),
    "encoder-shard-gone": (published, remove("text_encoder/*-00002-of-*.safetensors"), "is missing"),
    "transformer-lfs": (plain, write(TRANSFORMER, LFS), "git-LFS pointer"),
    "transformer-empty": (plain, write(TRANSFORMER, b""), "empty"),
    "transformer-garbage": (plain, write(TRANSFORMER, b"no weights at all"), "cut off or no safetensors"),
    "transformer-cut": (plain, cut(TRANSFORMER, 0.7), "cut off"),
    "transformer-header-cut": (plain, cut(TRANSFORMER, 0.001), "cut off"),
    "transformer-tensor-gone": (plain, tensors(TRANSFORMER, without_one), "which its configuration asks for"),
    "transformer-shape": (plain, tensors(TRANSFORMER, transposed), "of shape"),
    "transformer-deeper": (plain, change("transformer/config.json", num_layers=3), "which its configuration asks for"),
    "transformer-layers-text": (plain, change("transformer/config.json", num_layers="two"), "num_layers"),
    "transformer-class": (plain, change("transformer/config.json", _class_name="WanTransformer3DModel"), "Wan"),
    "shard-gone": (published, remove("transformer/*-00002-of-*.safetensors"), "is missing"),
    "shard-cut": (published, cut("transformer/*-of-*.safetensors", 0.5), "cut off"),
    "shard-lfs": (
        published,
        lambda folder: write(str(sorted((folder / "transformer").glob("*-of-*"))[0].relative_to(folder)), LFS)(folder),
        "git-LFS pointer",
    ),
    "index-gone": (published, remove("transformer/*.index.json"), "without their index"),
    "index-empty": (
        published,
        lambda folder: write(str(next((folder / "transformer").glob("*.index.json")).relative_to(folder)), b"{}")(
            folder
        ),
        "names no shards",
    ),
    "index-of-more": (published, unlisted_tensor, "no.such.tensor"),
    "index-climbs": (published, climbing_index, "no safetensors file of this folder"),
    "variant-only": (plain, rename("transformer/*.safetensors", "model.", "model.fp16."), "variant"),
    "pickles": (plain, pickled, "pickled"),
    "vae-header-huge": (plain, huge_header, "cut off or no safetensors"),
    "vae-config-list": (plain, write("vae/config.json", b"[1]"), "no JSON object"),
    "vae-config-cut": (plain, cut("vae/config.json", 0.5), "can't be read"),
    "vae-config-lfs": (plain, write("vae/config.json", LFS), "git-LFS pointer"),
    "vae-scaling": (plain, change("vae/config.json", scaling_factor=0), "scaling_factor"),
    "vae-channels": (plain, change("vae/config.json", latent_channels=4), "channels"),
    "index-no-json": (plain, write("model_index.json", b"\xff\xfe"), "model_index.json"),
    "index-list": (plain, write("model_index.json", b"[]"), "no JSON object"),
    "other-pipeline": (plain, change("model_index.json", _class_name="WanPipeline"), "WanPipeline"),
    "quantised": (
        plain,
        change("transformer/config.json", quantization_config={"quant_method": "torchao"}),
        "quantised",
    ),
}
ACCEPT: dict[str, tuple[Callable[[], Path], Damage]] = {
    "as-saved": (plain, lambda folder: None),
    "published-layout": (published, lambda folder: None),
    "extra-files": (plain, write("transformer/notes.txt", b"hello")),
    "variant-beside": (
        plain,
        lambda folder: (
            shutil.copy(folder / TRANSFORMER, folder / "transformer/diffusion_pytorch_model.fp16.safetensors") and None
        ),
    ),
    "older-config": (plain, change("transformer/config.json", _diffusers_version=None, sample_frames=9)),
}


def refused(make: Callable[[], Path], damage: Damage, words: str) -> Callable[[Path], str]:
    """A damaged copy must be refused by a ModelError that says so, and is not tried again."""

    def judge(folder: Path) -> str:
        damage(copied(make(), folder))
        try:
            loaded = model.load(ModelSpec(path=str(folder / "m")))
            loaded.embed(PROMPTS)
        except Exception as error:
            if not isinstance(error, ModelError):
                return f"{type(error).__name__}: {error}"
            if kind_of(error) != ("model", False) or words not in str(error):
                return f"refused otherwise than by {words!r}: {error}"
            return one_sentence(str(error)) or REFUSED
        return "loaded"

    return judge


def accepted(make: Callable[[], Path], damage: Damage) -> Callable[[Path], str]:
    """A whole copy must load, hold the files' weights, and give other embeddings for other prompts."""

    def judge(folder: Path) -> str:
        path = copied(make(), folder)
        damage(path)
        loaded = model.load(ModelSpec(path=str(path)))
        a, b = loaded.embed(PROMPTS)
        if torch.equal(a, b):
            return "two prompts, one embedding"
        held = loaded.transformer.state_dict()
        for file in sorted((path / "transformer").glob("*.safetensors")):
            with safe_open(file, "pt") as stored:
                if any(not torch.equal(held[name], stored.get_tensor(name).float()) for name in stored.keys()):  # noqa: SIM118
                    return f"other weights than in {file.name}"
        return RIGHT

    return judge


def copied(source: Path, folder: Path) -> Path:
    return Path(shutil.copytree(source, folder / "m"))


def cases() -> list[Case]:
    folders = [
        Case("models", f"folder-{name}", f"refused: {words}", refused(make, damage, words))
        for name, (make, damage, words) in REFUSE.items()
    ]
    folders += [
        Case("models", f"folder-{name}", "loads, with the files' weights", accepted(make, damage))
        for name, (make, damage) in ACCEPT.items()
    ]
    return folders + odd_loras.cases()
