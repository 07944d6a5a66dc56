"""A whole study: measured, written as JSON, and its page renewed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from cogvideo_core.errors import BadSpec
from cogvideo_core.models.model import load
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.study import page as pages
from cogvideo_core.study.bench import held_out
from cogvideo_core.study.causes import causes
from cogvideo_core.study.inversion import study

# Inverters that lost everywhere and were removed -> the last commit that held them.
LEFT = dict.fromkeys(("fixed_point_tolerance", "refined_grid_4", "refined_grid_10"), "b7ccdc1")


def kept_rows(file: Path, study_of: dict[str, Any], left: Mapping[str, str]) -> list[dict[str, Any]]:
    """Rows of removed inverters, from an earlier file of the same model, clips and steps, with their commits."""
    if not file.is_file():
        return []
    earlier = json.loads(file.read_text("utf-8"))
    if any(earlier.get(name) != study_of[name] for name in ("fingerprint", "clips", "steps")):
        return []
    return [row | {"commit": left[row["inverter"]]} for row in earlier["rows"] if row["inverter"] in left]


def inversion_study(model: str, clips: int, file: Path, page: Path | None, say: Callable[[str], None]) -> None:
    """Writes {"rows": [...], "causes": [...], ...}; `say` hears of each row as it is found."""
    if page is not None and not page.is_file():
        raise BadSpec(f"field page: {str(page)!r} is no file; give a page with marks for the tables")
    loaded = load(ModelSpec(path=model))
    if loaded.image_to_video:
        raise BadSpec(f"field model: {model!r} is an image-to-video model; the study knows text-to-video ones")
    bench = held_out(loaded, clips)
    found: dict[str, Any] = {"model": model, "clips": len(bench.x_0), "steps": bench.schedule.steps}
    found |= {"fingerprint": loaded.fingerprint, "first_turn": round(math.degrees(bench.schedule.thetas[1]), 1)}
    rows, kept = study(bench, say)
    found |= {"rows": rows + kept_rows(file, found, LEFT), "causes": causes(bench, kept, say)}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if page is not None:
        pages.write(page, found)
