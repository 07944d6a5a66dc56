"""The recipes that are searched: a few numbers of each, and the recipe and inversion that they stand for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from pydantic import ValidationError

from cogvideo_core.diffusion.editing import edit_evaluations
from cogvideo_core.diffusion.inversion import evaluations
from cogvideo_core.settings.specs import InversionSpec, RecipeSpec
from cogvideo_core.stages.gate import gate_evaluations

Params = Mapping[str, Any]
NAME = "tuned"
FINEST = 12  # parts that the transformer's depth is divided into, at most


@dataclass(frozen=True)
class Point:
    """A recipe with its number of steps: what a trial tries."""

    recipe: RecipeSpec
    steps: int

    def cost(self, inversion: InversionSpec, edits: int, layers: int) -> float:
        """Evaluations of one of a clip's `edits`, its share of the inversion included."""
        own = inversion.model_copy(update={"steps": self.steps})
        once = evaluations(own) + gate_evaluations(own)
        return (once + edit_evaluations(self.recipe, self.steps, edits, layers)) / edits


@dataclass(frozen=True)
class Space:
    """What may be chosen. `steps`: numbers of steps, each of which inverts the clips once; layers: of the transformer;
    most_cost: evaluations of an edit, where a clip has `edits`."""

    steps: tuple[int, ...]
    layers: int
    inversion: InversionSpec
    edits: int
    most_cost: float

    @property
    def depth(self) -> int:
        """Parts of the transformer's depth."""
        return min(self.layers, FINEST)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        return {
            "guidance_scale": FloatDistribution(1.5, 12.0, step=0.5),
            "guidance_start": FloatDistribution(0.0, 0.4, step=0.1),
            "guidance_length": FloatDistribution(0.2, 1.0, step=0.1),
            "reference_weight": FloatDistribution(0.05, 2.0, log=True),
            "reference_start": FloatDistribution(0.0, 0.5, step=0.1),
            "reference_length": FloatDistribution(0.2, 1.0, step=0.1),
            "layer_start": IntDistribution(0, self.depth - 1),
            "layer_length": IntDistribution(1, self.depth),
            "start_at": FloatDistribution(0.0, 0.5, step=0.05),
            "cache": CategoricalDistribution(["off", "safe", "bold"]),
            "steps": CategoricalDistribution(self.steps),
        }

    def point(self, params: Params) -> Point:
        """The recipe of these numbers; fields that are not searched are as in the default recipe. Raises ValueError for
        windows that no step would be in."""
        fields: dict[str, Any] = {name: params[name] for name in ("guidance_scale", "cache")}
        fields |= {"reference_weight": round(params["reference_weight"], 3), "start_at": round(params["start_at"], 3)}
        for name in ("guidance", "reference"):
            start, length = params[f"{name}_start"], params[f"{name}_length"]
            fields |= {f"{name}_start": round(start, 3), f"{name}_end": round(min(start + length, 1.0), 3)}
        end = min(params["layer_start"] + params["layer_length"], self.depth)
        fields |= {"layer_start": round(params["layer_start"] / self.depth, 4), "layer_end": round(end / self.depth, 4)}
        return Point(RecipeSpec(**fields | {"name": NAME}), int(params["steps"]))

    def usable(self, params: Params) -> bool:
        """Whether the numbers make a recipe, and one that is not too costly."""
        try:
            return self.cost(self.point(params)) <= self.most_cost
        except (ValidationError, ValueError):
            return False

    def cost(self, point: Point) -> float:
        return point.cost(self.inversion, self.edits, self.layers)


def same(params: Params, others: Sequence[Params], space: Space) -> bool:
    """Whether one of the others stands for the same recipe."""
    point = space.point(params)
    return any(space.point(other) == point for other in others)
