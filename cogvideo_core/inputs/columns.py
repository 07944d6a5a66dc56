"""Which columns of a manifest mean what, whatever kind of file it is."""

from __future__ import annotations

from typing import Any

ALIASES = {
    "clip": ("clip", "file_name", "video", "uri"),
    "source_prompt": ("source_prompt", "caption"),
    "target_prompts": ("target_prompts", "target_prompt"),
    "first_frame_uri": ("first_frame_uri",),
    "recipe": ("recipe",),
    "seed": ("seed",),
    "strength": ("strength",),
    "negative_prompt": ("negative_prompt",),
    "start": ("start",),
    "end": ("end",),
    "edits": ("edits",),
}
KNOWN = {name for names in ALIASES.values() for name in names}
OWN = "own"  # (name, value) of the other columns
Values = dict[str, list[Any]]
"""field -> values of its columns: several where a manifest has several columns for it."""


class Pairs(list[tuple[str, Any]]):
    """A JSON object as (name, value) pairs, so that a repeated name is noticed."""
