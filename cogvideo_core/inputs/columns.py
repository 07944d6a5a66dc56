"""Which columns of a manifest mean what, whatever kind of file it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from cogvideo_core.errors import BadManifest, ClipError, EditError, one_line
from cogvideo_core.storage.uris import printable

ALIASES = {
    "clip": ("clip", "file_name", "video", "uri"),
    "source_prompt": ("source_prompt", "caption"),
    "target_prompts": ("target_prompts", "target_prompt"),
    "first_frame_uri": ("first_frame_uri",),
    "mask": ("mask",),
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
INSIDE = "inside"  # the `Inside` of a clip that lies in another file; never a column's
Values = dict[str, list[Any]]
"""field -> values of its columns: several where a manifest has several columns for it."""
Given = tuple[str, Values | EditError]
"""(place in the file, a row's values or why there are none)."""


class Inside(NamedTuple):
    """A clip that lies in another file: its address (`inside.address`), bytes (0: unknown) and the file's stamp."""

    uri: str
    size: int
    stamp: str


class Pairs(list[tuple[str, Any]]):
    """A JSON object as (name, value) pairs, so that a repeated name is noticed."""


def fits(name: str, field: str) -> bool:
    return name.strip().lower() in ALIASES[field]


def is_known(name: str) -> bool:
    return name.strip().lower() in KNOWN


def columns_of(uri: str, header: Sequence[str]) -> dict[str, list[int]]:
    """The column indices of each known field, under any of its names in any case. Raises BadManifest when there is
    no clip column."""
    columns = {field: [at for at, name in enumerate(header) if fits(name, field)] for field in ALIASES}
    if not columns["clip"]:
        found = one_line(printable(", ".join(name.strip() for name in header)))[:200]
        raise BadManifest(
            f"manifest {uri!r} has no column clip (found: {found}); name it clip, file_name, video or uri"
        )
    return columns


def object_fields(place: str, value: Any) -> Values | EditError:
    """The fields of a JSON object, read as Pairs. A clip may be `datasets`' struct {"path": ..., "bytes": ...}."""
    if not isinstance(value, Pairs):
        return ClipError(place, "it is no JSON object", "write {...} with clip in it", field="row")
    found: Values = {field: [v for name, v in value if fits(name, field)] for field in ALIASES}
    try:
        found["clip"] = [_path_of(place, clip) for clip in found["clip"]]
    except ClipError as error:
        return error
    return found | {OWN: [pair for pair in value if not is_known(pair[0])]}


def _path_of(place: str, clip: Any) -> Any:
    if not isinstance(clip, Pairs):
        return clip
    parts = dict(clip)
    if not parts.get("path") and parts.get("bytes"):
        problem = "its clip holds the video's bytes and no path"
        raise ClipError(place, problem, "write the rows as Parquet, or the videos as files", field="row")
    return parts.get("path")


def own_of(names: Iterable[str], values: Iterable[Any]) -> list[tuple[str, Any]]:
    """(name, value) of the columns that are the user's own."""
    return [(name, value) for name, value in zip(names, values, strict=True) if not is_known(name)]
