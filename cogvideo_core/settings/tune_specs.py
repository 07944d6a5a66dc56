"""The settings of a search for a recipe: how long, on which clips, and what is looked for."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from cogvideo_core.settings.fingerprints import Spec

UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
LEAST_BUDGET_S = 10.0
LEAST_TUNING, LEAST_HELD_OUT = 3, 2  # clips
FIRST_RUNG = 3  # clips that every trial sees


def seconds_of(budget: str) -> float:
    """Seconds of "2h", "90m" or "1h30m". Raises ValueError."""
    text = budget.strip().lower().replace(" ", "")
    parts = re.findall(r"(\d+(?:\.\d+)?)([dhms])", text)
    if not text or "".join(number + unit for number, unit in parts) != text:
        raise ValueError(f"budget {budget[:40]!r} is no time; write it as 2h, 90m or 1h30m")
    total = sum(float(number) * UNITS_S[unit] for number, unit in parts)
    if total < LEAST_BUDGET_S:
        raise ValueError(f"budget {budget!r} is shorter than {LEAST_BUDGET_S:g} seconds; give minutes or hours")
    return total


class TuneSpec(Spec):
    """How a recipe is searched for on your own model and clips."""

    budget: str = Field(
        "2h",
        title="Budget",
        description="Time for the search, trials of earlier calls included: 2h, 90m, 1h30m.",
    )
    trials: int = Field(0, title="Most trials", ge=0, le=10_000, description="Recipes that are tried. 0: any number.")
    clips: int = Field(
        12, title="Clips", ge=LEAST_TUNING, le=256, description="That recipes are compared on, spread over the source."
    )
    held_out: int = Field(
        6,
        title="Held-out clips",
        ge=LEAST_HELD_OUT,
        le=256,
        description="Other clips, on which the pick is compared once with the preset it is to replace.",
    )
    prompts: int = Field(3, title="Prompts", ge=1, le=64, description="Of each clip, at most.")
    against: Literal["balanced", "faithful", "bold", "fast"] = Field(
        "balanced", title="Against", description="The preset that the pick is to replace."
    )
    steps: list[int] = Field(
        [12, 20],
        title="Steps",
        min_length=1,
        max_length=6,
        description="Numbers of steps that may be chosen; each inverts the clips once.",
    )
    most_cost: float = Field(
        1.5, title="Most cost", gt=0, le=20, description="Evaluations of an edit, in those of the preset."
    )
    give_db: float = Field(
        0.0,
        title="Give, in dB",
        ge=0,
        le=20,
        description="By how much less a recipe may preserve than the preset, for edits that show their prompts more.",
    )
    seed: int = Field(0, title="Seed", ge=0, le=2**31 - 1, description="Of the choice of clips and of the search.")
    first_random: int = Field(
        10, title="Random trials", ge=1, le=1000, description="Drawn evenly, before the search learns from results."
    )
    layer_groups: int = Field(
        6,
        title="Layer groups",
        ge=0,
        le=64,
        description="Of the layer study, which takes the reference away from one group after the other. 0: none.",
    )
    layer_clips: int = Field(2, title="Clips of the layer study", ge=1, le=64, description="The first of the clips.")

    @field_validator("budget")
    @classmethod
    def _time(cls, given: str) -> str:
        seconds_of(given)
        return given

    @model_validator(mode="after")
    def _distinct(self) -> TuneSpec:
        if len(set(self.steps)) != len(self.steps) or not all(2 <= steps <= 1000 for steps in self.steps):
            raise ValueError("steps must be distinct and in 2 .. 1000")
        return self

    @property
    def budget_s(self) -> float:
        return seconds_of(self.budget)
