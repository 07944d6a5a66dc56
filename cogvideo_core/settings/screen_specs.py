"""The screen's settings: what is looked for in source clips before a model sees them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from cogvideo_core.settings.fingerprints import Spec
from cogvideo_core.settings.recipes import filled

USUAL: dict[str, Any] = {"least_luma": 20.0, "most_black": 0.2, "most_frozen": 0.5, "least_moving": 0.005}
LIMITS = (*USUAL, "most_text")
LOOKED_FOR = ("cuts", "cut_ratio", "cut_change", "most_minutes")  # fields that what is measured depends on


class ScreenSpec(Spec):
    """How source clips are screened before any model work: for cuts, black, dark and still windows, and duplicates."""

    cuts: Literal["avoid", "ignore"] = Field(
        "avoid",
        title="Cuts",
        description="avoid: a window lies between two cuts and shows one scene. ignore: cuts are not looked for.",
    )
    cut_ratio: float = Field(
        3.0,
        title="Cut ratio",
        ge=1,
        le=100,
        description="How many times more a frame must differ from the one before than its neighbours do from theirs.",
    )
    cut_change: float = Field(
        15.0,
        title="Cut change",
        gt=0,
        le=255,
        description="How much it must differ at least: mean of hue, saturation and brightness, in levels of 255.",
    )
    most_minutes: float = Field(
        10.0, title="Minutes looked at", gt=0, le=600, description="Of a clip; windows lie in this part of it."
    )
    preset: Literal["off", "usual"] = Field(
        "off",
        title="Limits",
        description="usual: gives the four limits below that are left at 0 usual values. off: they stay as they are.",
    )
    least_luma: float = Field(
        0.0, title="Least brightness", ge=0, le=255, description="Mean luma of the window, of 255. 0: any."
    )
    most_black: float = Field(
        0.0, title="Most black", ge=0, le=1, description="Share of the window's frames that are black. 0: any."
    )
    most_frozen: float = Field(
        0.0,
        title="Most frozen",
        ge=0,
        le=1,
        description="Longest run of frames that repeat the one before, as a share of the window. 0: any.",
    )
    least_moving: float = Field(
        0.0,
        title="Least moving",
        ge=0,
        le=1,
        description="Share of the picture that changes visibly during the window. 0: any.",
    )
    most_text: float = Field(
        0.0,
        title="Most text",
        ge=0,
        le=1,
        description="Share of the picture that is text, as Text detector sees it. 0: any.",
    )
    text_model: str = Field(
        "", title="Text detector", description="Path of its ONNX file, a network of the kind DBNet, for Most text."
    )
    duplicates: Literal["off", "exact", "near"] = Field(
        "off",
        title="Duplicates",
        description="Files that show an earlier clip again. exact: the same bytes. near: re-encoded or resized too. "
        "The plan then opens every clip.",
    )
    most_distance: float = Field(
        6.0,
        title="Duplicate distance",
        ge=0,
        le=32,
        description="Bits of 64 in which the perceptual hashes of near duplicates differ at most, on average.",
    )
    action: Literal["mark", "drop"] = Field(
        "mark",
        title="Action",
        description="mark: what the limits and duplicates find stands in the tables. drop: such a clip is not edited.",
    )

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, given: Any) -> Any:
        if not isinstance(given, dict) or given.get("preset") != "usual":
            return given
        return filled(given, USUAL, dict.fromkeys(USUAL, 0.0))

    @model_validator(mode="after")
    def _with_detector(self) -> ScreenSpec:
        if self.most_text and not self.text_model:
            raise ValueError("most_text needs text_model, the ONNX file of a text detector")
        return self

    @property
    def limits(self) -> dict[str, float]:
        """The limits that are set, by field."""
        return {name: getattr(self, name) for name in LIMITS if getattr(self, name)}

    @property
    def looks(self) -> bool:
        """Whether frames are looked at for anything."""
        return self.cuts == "avoid" or bool(self.limits) or self.duplicates == "near"

    @classmethod
    def none(cls) -> ScreenSpec:
        """Nothing is looked for."""
        return cls(cuts="ignore")
