"""Named recipes, and the inversions that those of them want that do not take the default one."""

from __future__ import annotations

from cogvideo_core.specs import InversionSpec, RecipeSpec

PRESETS: dict[str, RecipeSpec] = {
    "balanced": RecipeSpec(),
    "faithful": RecipeSpec(name="faithful", reference_weight=2.0),
    "bold": RecipeSpec(name="bold", reference_end=0.4),
    "fast": RecipeSpec(name="fast", reference_end=0.6, guidance_end=0.6),
    "seed": RecipeSpec(name="seed", reference_prompt="per_half", reference_end=1.0, start="fresh"),
    "text": RecipeSpec(name="text", reference_end=0.0, reference_weight=0.0, start="fresh"),
}
PRESET_INVERSIONS: dict[str, InversionSpec] = {
    "fast": InversionSpec(first_iterations=5),
    "seed": InversionSpec(method="ddim", prompt="empty", gate="off"),  # as the first public script inverts
    "text": InversionSpec(method="none"),  # plain generation looks at no trajectory
}
