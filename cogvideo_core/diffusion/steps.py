"""Which steps an edit takes, which of them go through the transformer, and what they read and cost.

All of it follows from the recipe, the number of steps and the model's layers alone.
"""

from __future__ import annotations

from cogvideo_core.diffusion.guidance import guided_steps, window
from cogvideo_core.diffusion.masks import levels_held
from cogvideo_core.diffusion.skipping import whole_steps
from cogvideo_core.settings.specs import RecipeSpec


def first_step(recipe: RecipeSpec, steps: int) -> int:
    """The step an edit begins at: by `start_at`, or 0 for fresh noise. At least one step is always taken."""
    if recipe.start == "fresh":
        return 0
    return min(round(recipe.start_at * steps), steps - 1)


def taken_steps(recipe: RecipeSpec, steps: int) -> range:
    """All steps that an edit takes."""
    return range(first_step(recipe, steps), steps)


def levels_read(recipe: RecipeSpec, steps: int, layer_count: int, held: range = range(0)) -> list[int]:
    """The trajectory levels that `start_latents` and `edit` read, each once, in order of use.

    held: the steps after which masks put back what is outside.
    """
    first = first_step(recipe, steps)
    layers = window(recipe.layer_start, recipe.layer_end, layer_count)
    starts = {"inverted": [steps - first], "mixed": [0, steps - first]}.get(recipe.start, [0])
    clean = [0] if recipe.match_statistics else []
    whole = computed_steps(recipe, steps, layer_count)
    referenced = [steps - step for step in referenced_steps(recipe, steps, layers) if step in whole]
    used = sorted({*referenced, *levels_held(held, steps)}, reverse=True)
    return list(dict.fromkeys([*starts, *clean, *used]))


def referenced_steps(recipe: RecipeSpec, steps: int, layers: range) -> range:
    """The steps that have reference rows at all."""
    if recipe.reference_weight == 0 or len(layers) == 0:
        return range(0)
    return window(recipe.reference_start, recipe.reference_end, steps)


def computed_steps(recipe: RecipeSpec, steps: int, layer_count: int) -> set[int]:
    """The steps of an edit that go through the transformer; the recipe's cache skips others."""
    layers = window(recipe.layer_start, recipe.layer_end, layer_count)
    referenced, guided = referenced_steps(recipe, steps, layers), guided_steps(recipe, steps)
    # without guidance the prompted half goes on as before, so its end is no change
    entered = [guided.start, *([referenced.start, referenced.stop] if referenced else [])]
    return whole_steps(recipe, taken_steps(recipe, steps), steps, entered)


def joint_evaluations(recipe: RecipeSpec, schedule_steps: int, edits: int, layer_count: int, windows: int) -> int:
    """How many transformer rows one batch of `edits` edits of a long clip costs."""
    one = edit_evaluations(recipe, schedule_steps, edits, layer_count)
    later = edit_evaluations(recipe, schedule_steps, edits, layer_count, anchored=recipe.anchor != "none")
    return one + (windows - 1) * later


def edit_evaluations(
    recipe: RecipeSpec,
    schedule_steps: int,
    edits: int,
    layer_count: int,
    part: range | None = None,
    anchored: bool = False,
) -> int:
    """How many transformer rows one batch of `edits` edits costs, over all steps or those of a `part`; `anchored`: of a
    window that sees another one's."""
    layers = window(recipe.layer_start, recipe.layer_end, layer_count)
    referenced, guided = referenced_steps(recipe, schedule_steps, layers), guided_steps(recipe, schedule_steps)
    total = 0
    part = range(schedule_steps) if part is None else part
    for step in computed_steps(recipe, schedule_steps, layer_count).intersection(part):
        rows = (2 if step in guided else 1) * edits
        reference = {"edit": edits, "per_half": rows}.get(recipe.reference_prompt, 1)
        total += (rows + reference) * (2 if anchored else 1) if step in referenced else rows
    return total
