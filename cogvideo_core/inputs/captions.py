"""Folders with `videos.txt` and `prompts.txt`, as finetrainers reads them: their lines belong together one by one."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from cogvideo_core.errors import BadManifest
from cogvideo_core.inputs.columns import Values
from cogvideo_core.inputs.lines import lines
from cogvideo_core.inputs.manifests import BadRow, Row, checked
from cogvideo_core.storage.uris import resolve

VIDEOS, CAPTIONS = "videos.txt", "prompts.txt"


def has_captions(exists: Callable[[str], bool], folder: str) -> bool:
    """Whether a folder names its videos in one file and their captions in another."""
    return all(exists(f"{folder.rstrip('/')}/{name}") for name in (VIDEOS, CAPTIONS))


def caption_rows(
    folder: str, allow_outside: bool, targets: tuple[str, ...], need_targets: bool
) -> Iterator[Row | BadRow]:
    """A row for each line of the two files; `targets` are all clips' target prompts. Raises BadManifest."""
    if need_targets and not targets:
        problem = f"source {folder!r} holds {VIDEOS}, so its {CAPTIONS} describes the clips"
        raise BadManifest(f"{problem}; give the target prompts as prompts, a text file elsewhere")
    for name in (VIDEOS, CAPTIONS):
        resolve(name, folder, allow_outside)  # a link in a stranger's folder may point at any file of ours
    files = [f"{folder.rstrip('/')}/{name}" for name in (VIDEOS, CAPTIONS)]
    counts = [_count(file) for file in files]
    if counts[0] != counts[1]:
        problem = f"source {folder!r}: {VIDEOS} has {counts[0]} lines and {CAPTIONS} {counts[1]}"
        raise BadManifest(f"{problem}; write one caption for each video, in the same order")
    pairs = zip(lines(files[0]), lines(files[1]), strict=False)
    for _, ((place, video), (_, caption)) in zip(range(counts[0]), pairs, strict=False):
        fields: Values = {"clip": [video.strip()], "source_prompt": [caption.strip()]}
        yield checked(f"{place} of {VIDEOS}", fields, targets, need_targets)


def _count(uri: str) -> int:
    """Lines up to the last that is not blank."""
    return max((number for number, (_, line) in enumerate(lines(uri), 1) if line.strip()), default=0)
