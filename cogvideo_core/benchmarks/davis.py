"""DAVIS (2016, 2017) with prompts of your own.

Frames lie in `JPEGImages/480p/<name>/`, masks in `Annotations/480p/<name>/`.

DAVIS has no prompts and no evaluator of edits. A prompts file (CSV, JSON or JSON Lines) names them: clip,
source_prompt, target_prompt, and id, edit_type, if wanted. Laid out: `JPEGImages/480p/<name>/<id>/00000.png`.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cogvideo_core.benchmarks.cases import Benchmark, Case, Column, Form, csv_rows
from cogvideo_core.benchmarks.reading import Entry, entries, text_file
from cogvideo_core.errors import BadManifest

SIZES = ("480p", "Full-Resolution", "1080p")
KINDS = (".csv", ".json", ".jsonl")


def read(folder: Path, prompts: str) -> list[Case]:
    """Raises BadManifest."""
    if not prompts:
        raise BadManifest("DAVIS has no prompts: give --prompts FILE with clip, source_prompt, target_prompt")
    file = Path(prompts).absolute()
    size = next((size for size in SIZES if (folder / "JPEGImages" / size).is_dir()), "")
    if not (folder / "JPEGImages").is_dir():
        raise BadManifest(f"folder {str(folder)!r} has no JPEGImages; give the folder that DAVIS was unpacked to")
    numbers: dict[str, int] = {}
    return [_case(folder, size, entry, numbers) for entry in entries(file, _rows(file), "row")]


def _rows(file: Path) -> list[Any]:
    kind = file.suffix.lower()
    if kind not in KINDS:
        raise BadManifest(f"file {str(file)!r} is no prompts file; give one that ends in {', '.join(KINDS)}")
    text = text_file(file.parent, file.name)
    try:
        if kind == ".csv":
            return csv_rows(text)
        found = json.loads(text) if kind == ".json" else [json.loads(line) for line in text.splitlines() if line]
        return found if isinstance(found, list) else []
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:120]
        raise BadManifest(f"file {str(file)!r} is no JSON ({why}); correct it") from error


def _case(folder: Path, size: str, entry: Entry, numbers: dict[str, int]) -> Case:
    """A case; edits without an id are numbered by clip."""
    name = entry.name("clip")
    within = f"{size}/{name}" if size else name
    number = numbers[name] = numbers.get(name, -1) + 1
    given = entry.fields.get("id")
    own = entry.name("id") if given not in (None, "") else str(number)
    mask = entry.path(folder, f"Annotations/{within}", "clip")
    return Case(
        f"{name}/{own}",
        entry.clip(folder, (f"JPEGImages/{within}",), "clip"),
        entry.text("source_prompt", needed=False),
        entry.text("target_prompt"),
        entry.label("edit_type", needed=False) or "all",
        f"JPEGImages/{within}/{own}",
        mask=str(mask) if mask.is_dir() else "",
        instruction=entry.text("instruction", needed=False),
    )


DAVIS = Benchmark(
    "davis",
    "DAVIS with your own prompts",
    "50 clips (2016) and more (2017), with masks; prompts and edits are yours",
    "sequences: CC BY 4.0 where not said otherwise, as the package says; code: BSD",
    read,
    Form("png"),
    (
        Column("clip_t", own=False),
        Column("clip_f", own=False),
        Column("pick_score", own=False),
        Column("psnr_unedit_part", own=False),
        Column("ssim_unedit_part", own=False),
        Column("lpips_unedit_part", own=False),
        Column("structure_distance", own=False),
        Column("warp_error", own=False),
        Column("motion_fidelity_score", own=False),
    ),
    takes_prompts=True,
)
