"""A whole study: measured, written as JSON, and its page renewed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from cogvideo_core.errors import BadSpec
from cogvideo_core.model import load
from cogvideo_core.specs import ModelSpec
from cogvideo_core.study import page as pages
from cogvideo_core.study.bench import held_out
from cogvideo_core.study.causes import causes
from cogvideo_core.study.inversion import study


def inversion_study(model: str, clips: int, file: Path, page: Path | None, say: Callable[[str], None]) -> None:
    """Writes {"rows": [...], "causes": [...], ...}; `say` hears of each row as it is found."""
    if page is not None and not page.is_file():
        raise BadSpec(f"field page: {str(page)!r} is no file; give a page with marks for the tables")
    loaded = load(ModelSpec(path=model))
    if loaded.image_to_video:
        raise BadSpec(f"field model: {model!r} is an image-to-video model; the study knows text-to-video ones")
    bench = held_out(loaded, clips)
    rows, kept = study(bench, say)
    found: dict[str, Any] = {"rows": rows, "causes": causes(bench, kept, say)}
    found |= {"model": model, "clips": len(bench.x_0), "steps": bench.schedule.steps, "fingerprint": loaded.fingerprint}
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    if page is not None:
        pages.write(page, found)
