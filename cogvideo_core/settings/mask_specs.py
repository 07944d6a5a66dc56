"""Where an edit may change its clip, as data; the mask itself comes with a manifest's row."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from cogvideo_core.settings.fingerprints import Spec

Fraction01 = Annotated[float, Field(ge=0, le=1)]


class MaskSpec(Spec):
    """What is kept outside of an edit's mask, and how. Edits without a mask are not affected."""

    use: Literal["given", "auto", "none"] = Field(
        "given",
        title="Masks",
        description="given: those of the manifest's column mask; auto: also finds one for rows without; none: ignores "
        "the column.",
    )
    preserve: Literal["both", "latents", "attention"] = Field(
        "both",
        title="Preserve by",
        description="latents: what is outside follows the stored inversion, so that it stays as the VAE has it; "
        "attention: it sees the reference at its full weight; or both.",
    )
    grow_px: int = Field(4, title="Grow", ge=0, le=512, description="Pixels by which the mask is widened.")
    feather_px: int = Field(
        4,
        title="Feather",
        ge=0,
        le=512,
        description="Pixels of soft border around the grown mask: they join the edit the later, the further out.",
    )
    invert: bool = Field(False, title="Invert", description="A given mask marks what is kept, not what is edited.")
    start: Fraction01 = Field(0.0, title="Hold from", description="Of latents: fraction of the steps.")
    end: Fraction01 = Field(1.0, title="Hold until", description="Of latents: fraction of the steps.")
    paste: bool = Field(
        False,
        title="Paste the source",
        description="Puts the source's own pixels outside the feathered mask, and fits the edit's colours to them.",
    )
    threshold: float = Field(
        0.35,
        title="Threshold",
        gt=0,
        lt=1,
        description="Of masks that are found: how much the prompts' predictions must differ. Lower is wider.",
    )

    detector: str = Field(
        "",
        title="Detector",
        description="Folder or hub id of a detector that takes words (Grounding DINO, OWLv2): for masks `find WORDS`.",
    )
    segmenter: str = Field(
        "",
        title="Segmenter",
        description="Folder or hub id of SAM 2: outlines and follows what the detector finds, and what masks "
        "`track x y` and `track x y w h` point at.",
    )
    least_score: float = Field(
        0.3, title="Least score", ge=0, le=1, description="Of the detector; what it is less sure of is left out."
    )

    @property
    def holds(self) -> bool:
        """Whether latents outside follow the stored inversion in some of the steps."""
        return self.preserve != "attention" and self.start < self.end

    def steering(self, auto: bool) -> dict[str, Any]:
        """The fields that change the bytes of an edit with a mask."""
        # what the models find is part of the mask's own key
        unused = {"use", "detector", "segmenter", "least_score", "invert" if auto else "threshold"}
        unused |= set() if self.holds else {"start", "end"}
        return {name: value for name, value in self.as_json().items() if name not in unused}

    @model_validator(mode="after")
    def _window(self) -> MaskSpec:
        if self.start > self.end:
            raise ValueError(f"start ({self.start}) must not be greater than end ({self.end})")
        return self
