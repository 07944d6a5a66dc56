"""What to do, as data: frozen groups of settings that are the flows' parameters, the UI's form and part of every key.

One level deep, no optional fields ("" and 0 mean "none" or "the model's own"), so that Prefect's form shows them well.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from cogvideo_core.settings.edit_specs import InversionSpec as InversionSpec
from cogvideo_core.settings.edit_specs import RecipeSpec as RecipeSpec
from cogvideo_core.settings.fingerprints import Spec as Spec
from cogvideo_core.settings.fingerprints import canonical as canonical
from cogvideo_core.settings.fingerprints import fingerprint as fingerprint

Fraction01 = Annotated[float, Field(ge=0, le=1)]


class DatasetSpec(Spec):
    """Which clips, which prompts, and how frames are taken from them."""

    source: str = Field(
        "out/demo/input/manifest.jsonl",
        title="Source",
        description="Folder of videos, or a manifest (CSV, JSON, JSONL, Parquet) with columns clip, source_prompt, "
        "target_prompts and others (docs/manifests.md); tars, frames, data sets (docs/sources.md). Any fsspec URL.",
        min_length=1,
    )
    prompts: str = Field(
        "",
        title="Prompts file",
        description="For a folder: text file with one target prompt a line, applied to every clip, or JSONL with "
        "clip, source_prompt, target_prompts. Empty: the manifest's own.",
    )
    limit: int = Field(
        0, title="First clips", ge=0, description="Take only so many clips, from the first on. 0: all of them."
    )
    window: Literal["first", "middle", "all", "whole"] = Field(
        "first",
        title="Window",
        description="Which part of a longer clip is edited. all: window by window, each by itself; whole: the clip as "
        "one, in windows that overlap.",
    )
    overlap: int = Field(
        0,
        title="Overlap",
        ge=0,
        le=60,
        description="Of window=whole: latent frames, of four frames each, that neighbouring windows share at least. "
        "0: a sixth of a window.",
    )
    fit: Literal["crop", "pad", "stretch"] = Field(
        "crop", title="Fit", description="How a clip of another aspect ratio becomes the model's size."
    )
    deinterlace: Literal["auto", "off"] = Field(
        "auto",
        title="Deinterlace",
        description="auto: clips whose flags and frames say that they are interlaced. off: none.",
    )
    tone_map: Literal["auto", "off"] = Field(
        "auto", title="Tone mapping", description="auto: HDR clips (PQ, HLG) become SDR. off: they stay pale."
    )
    frames_fps: float = Field(
        24,
        title="Rate of frame folders",
        gt=0,
        le=1000,
        description="Frames a second of clips that are folders of numbered pictures and have no fps in their manifest.",
    )
    frames: int = Field(0, title="Frames", ge=0, le=241, description="Per window, 8k+1. 0: the model's own.")
    height: int = Field(0, title="Height", ge=0, le=2160, description="Pixels. 0: the model's own.")
    width: int = Field(0, title="Width", ge=0, le=3840, description="Pixels. 0: the model's own.")
    max_seconds: float = Field(600, title="Longest clip", gt=0, description="Seconds; longer clips are refused.")
    max_pixels: int = Field(
        3840 * 2160, title="Largest frame", ge=256, description="Pixels a frame; larger clips are refused."
    )
    max_megabytes: int = Field(4096, title="Largest file", ge=1, description="Megabytes; larger files are refused.")
    max_damage: Fraction01 = Field(
        0.05,
        title="Most damage",
        description="Share of a window's frames that the decoder had to mend or could not make; beyond, the clip is "
        "refused.",
    )
    timeout_s: float = Field(300, title="Time-out", gt=0, description="Seconds that reading one clip may take.")
    allow_outside: bool = Field(
        False,
        title="Allow clips outside",
        description="Permit local clip paths and symlinks outside the source folder.",
    )

    @model_validator(mode="after")
    def _frames_rule(self) -> DatasetSpec:
        if self.frames and self.frames % 8 != 1:
            below = max(1, (self.frames - 1) // 8) * 8 + 1
            raise ValueError(f"frames must be 8k+1 (9, 17, 25, 49, 81 ...), not {self.frames}; use {below}")
        return self

    @property
    def sized(self) -> bool:
        """Whether frames, height or width are not the model's own."""
        return bool(self.frames or self.height or self.width)


class ModelSpec(Spec):
    """Which CogVideoX, and how it is held in memory."""

    path: str = Field(
        "shapes",
        title="Model",
        min_length=1,
        description="A diffusers folder, a hub id (THUDM/CogVideoX-5b), or shapes: the small model that comes along.",
    )
    revision: str = Field("", title="Revision", description="Of a hub id. Empty: its default.")
    lora: str = Field(
        "",
        title="LoRA",
        description="A safetensors file, a folder with one, or a hub id; several with commas between, each with *0.5 "
        "for a strength of its own. Empty: none. Pickles are refused.",
    )
    lora_scale: float = Field(1.0, title="LoRA scale", ge=-4, le=4, description="Strength of the LoRA.")
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto",
        title="Precision",
        description="Of transformer and text encoder; the denoised state stays float32. auto: on a GPU as the weights "
        "are stored, on a CPU float32.",
    )
    weights: Literal["stored", "int8", "int8_dynamic", "float8"] = Field(
        "stored",
        title="Weights",
        description="Of the transformer's blocks: as stored, or in 8 bits, which takes half of the memory of 16. "
        "int8_dynamic rounds activations too; int8 and int8_dynamic need the package torchao.",
    )
    fit: Literal["off", "auto"] = Field(
        "off",
        title="Fit to the card",
        description="auto: where memory is too small for these settings, takes weights in 8 bits, then CPU offload; "
        "where it has room for both at once, lets the VAE decode beside the transformer.",
    )
    text_device: Literal["auto", "cpu"] = Field(
        "auto",
        title="Text encoder on",
        description="auto: the model's device, or the CPU where that has no room; cpu: always, so that all of a GPU is "
        "left to the rest.",
    )
    text_weights: Literal["stored", "int8"] = Field(
        "stored",
        title="Text encoder's weights",
        description="As stored, or in 8 bits, which takes half of the memory of 16 and needs the package torchao.",
    )
    vae_dtype: Literal["float32", "bfloat16", "float16"] = Field(
        "float32", title="VAE precision", description="float32 avoids colour shift."
    )
    device: str = Field("auto", title="Device", description="auto, cpu, cuda, cuda:1 ...", pattern=r"^[a-z]+(:\d+)?$")
    offload: Literal["none", "model", "blocks", "sequential"] = Field(
        "none",
        title="CPU offload",
        description="Trade speed for GPU memory. model: a component at a time; blocks: a transformer block at a time, "
        "the next one copied meanwhile; sequential: a layer at a time, slowest.",
    )
    compile: Literal["off", "blocks"] = Field(
        "off",
        title="Compile",
        description="blocks: torch.compile of the transformer's blocks; faster from the second call on, needs a C++ "
        "compiler. Results differ by rounding.",
    )
    attention: Literal["auto", "cudnn", "flash", "efficient", "sage"] = Field(
        "auto",
        title="Attention kernel",
        description="On a GPU; auto: torch's own choice. sage: 8 bits, needs the package sageattention.",
    )
    vae_tiling: Literal["auto", "on", "off"] = Field(
        "auto",
        title="VAE tiling",
        description="Less memory; seams are possible. auto: on where a whole frame has no room beside the transformer.",
    )
    vae_overlap: Literal["off", "on"] = Field(
        "off",
        title="VAE beside",
        description="on: the VAE decodes finished edits on a CUDA stream of its own while the next batch is denoised. "
        "Takes the memory of both at once.",
    )
    vae_slicing: bool = Field(False, title="VAE slicing", description="One clip at a time through the VAE.")
    vae_fallback: Literal["tiles", "bfloat16", "none"] = Field(
        "tiles",
        title="VAE out of memory",
        description="What is tried when the VAE runs out of memory: tiles; after them bfloat16 as well; or nothing.",
    )

    @field_validator("vae_tiling", mode="before")
    @classmethod
    def _of_switch(cls, given: Any) -> Any:
        """Accepts true and false of earlier versions' settings."""
        return {True: "on", False: "off"}[given] if isinstance(given, bool) else given


class OutputSpec(Spec):
    """Where results go and what is kept."""

    root: str = Field("out/demo", title="Output", min_length=1, description="Folder or fsspec URL of the run.")
    audio: Literal["copy", "none"] = Field("copy", title="Audio", description="Copy the window's audio, or drop it.")
    crf: int = Field(12, title="Quality", ge=0, le=40, description="x264 constant rate factor; lower is better.")
    keep_trajectories: Literal["all", "until_edited", "none"] = Field(
        "all", title="Keep trajectories", description="A trajectory is a cache: keep it to add prompts later."
    )
    verify: Literal["none", "size", "full"] = Field(
        "size", title="Verify", description="How committed files are checked before they are trusted."
    )
    scores: bool = Field(
        True, title="Measure edits", description="Colour shift, sharpness and flicker of what an edit should preserve."
    )
    gallery: bool = Field(True, title="Gallery", description="Write index.html.")
    videos: Literal["copy", "link"] = Field(
        "copy",
        title="Videos",
        description="How they get into dataset/: copied, or hard-linked where the disk can, which takes no space. "
        "Never write to linked ones: they are the stored files.",
    )


class EngineSpec(Spec):
    """How the work is spread and when a run counts as failed."""

    engine: Literal["threads", "dask"] = Field(
        "threads", title="Engine", description="Threads of this process, or the workers of a Dask cluster."
    )
    dask_address: str = Field(
        "", title="Dask address", description="Of a running scheduler, tcp://host:8786. Empty: a cluster of its own."
    )
    dask_workers: int = Field(
        0, title="Dask workers", ge=0, le=64, description="Of a cluster of its own. 0: one a GPU, or one without GPUs."
    )
    concurrency_limit: str = Field(
        "",
        title="Concurrency limit",
        description="Name of a Prefect global concurrency limit; each task that runs the model holds one slot of it.",
    )
    clips_per_batch: int = Field(1, title="Clips per batch", ge=1, le=1024, description="Clips a task run.")
    batches_per_wave: int = Field(
        330, title="Batches per wave", ge=1, le=333, description="Of a flow run; a batch is three task runs."
    )
    edits_per_batch: int = Field(
        0, title="Edits per batch", ge=0, le=64, description="Edits a transformer call. 0: as memory allows, up to 16."
    )
    batches_in_flight: int = Field(
        0, title="Batches in flight", ge=0, le=256, description="Submitted at a time. 0: two a worker."
    )
    min_success_ratio: Fraction01 = Field(
        0.5, title="Least success", description="The run fails when a smaller share of the clips succeeds."
    )
    give_up_after: int = Field(
        10,
        title="Give up after",
        ge=0,
        le=1000,
        description="A run ends early when its first clips, so many, all fail for the same reason, and that is not the "
        "clips' own. 0: never.",
    )
    retries: int = Field(2, title="Retries", ge=0, le=10, description="Of errors that may pass by themselves.")
    park_after: int = Field(
        9, title="Park after", ge=1, le=1000, description="Attempts, over all runs; then a clip is left alone."
    )
