"""Which models the metrics of the benchmarks are measured with."""

from __future__ import annotations

from pydantic import Field

from cogvideo_core.settings.fingerprints import Spec


class MetricSpec(Spec):
    """The models that benchmark metrics need. A metric whose model is not named is not measured."""

    clip: str = Field(
        "",
        title="CLIP",
        description="Folder or hub id of a CLIP model, openai/clip-vit-large-patch14 in the benchmarks. Empty: none.",
    )
    pickscore: str = Field(
        "",
        title="PickScore",
        description="Folder of a PickScore model, yuvalkirstain/PickScore_v1 with the processor files of "
        "laion/CLIP-ViT-H-14-laion2B-s32B-b79K beside it. Empty: none.",
    )
    dino: str = Field(
        "",
        title="DINO",
        description="Folder or hub id of a DINO model, facebook/dino-vitb8 in the benchmarks. Empty: none.",
    )
    lpips: str = Field(
        "",
        title="LPIPS",
        description="Folder with an LPIPS network as model.safetensors (AlexNet, VGG-16 or SqueezeNet, which the "
        "benchmarks use). Empty: none.",
    )
    niqe: str = Field(
        "",
        title="NIQE",
        description="Folder with niqe_modelparameters.mat; needs the extra niqe (pyiqa). Empty: none.",
    )
    vlm: str = Field(
        "",
        title="Question model's address",
        description="OpenAI-compatible endpoint, http://host:8000/v1, that answers the questions of FiVE-Acc. Its key "
        "is read from COGVIDEO_EDIT_VLM_KEY. Empty: nobody is asked.",
        pattern=r"^$|^https?://[^\s@?#]+$",
    )
    vlm_model: str = Field("", title="Question model", description="The model's name at that endpoint.")
    vlm_timeout_s: float = Field(60, title="Question time-out", gt=0, le=3600, description="Seconds for one answer.")
    vlm_frames: int = Field(
        4, title="Question stills", ge=1, le=64, description="Of each edit that the model is shown."
    )
    stride: int = Field(
        1,
        title="Stride",
        ge=1,
        le=1000,
        description="Metrics of single frames look at every n-th frame; 8 in FiVE-Bench, 1 in the other benchmarks.",
    )
    frames: int = Field(
        0,
        title="Frames",
        ge=0,
        le=10_000,
        description="Most frames, evenly spread, that metrics of single frames look at. 0: all.",
    )
