"""A whole study: measured, written as JSON, and its page renewed."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cogvideo_core.errors import BadSpec
from cogvideo_core.models.model import VideoModel, load
from cogvideo_core.settings.specs import DatasetSpec, ModelSpec
from cogvideo_core.study import page as pages
from cogvideo_core.study.bench import Bench, held_out
from cogvideo_core.study.causes import causes
from cogvideo_core.study.clips import own_bench
from cogvideo_core.study.combined import combined
from cogvideo_core.study.findings import READ, findings
from cogvideo_core.study.inversion import Kept, study
from cogvideo_core.study.published import published

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


def known(file: Path, study_of: Mapping[str, Any]) -> dict[str, Any]:
    """What the file holds of the same model, clips and steps; {} where it is of others, or no file."""
    if not file.is_file():
        return {}
    earlier: dict[str, Any] = json.loads(file.read_text("utf-8"))
    same = all(earlier.get(name) == study_of.get(name) for name in ("fingerprint", "clips", "steps", "data"))
    return earlier if same else {}


def write(file: Path, found: Mapping[str, Any]) -> None:
    """The whole file at once: a study that is killed leaves what it had found."""
    file.parent.mkdir(parents=True, exist_ok=True)
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    temporary.write_text(json.dumps(found, indent=1) + "\n", "utf-8")
    temporary.replace(file)


def bench_for(model: VideoModel, clips: int, dataset: DatasetSpec | None) -> tuple[Bench, dict[str, Any]]:
    """What is measured on: the user's own clips, or the held-out ones; and what tells it from other studies."""
    if dataset is None:
        return held_out(model, clips), {}
    bench = own_bench(model, dataset, clips)
    data = hashlib.sha256(bench.frames.tobytes() + bench.source.float().cpu().numpy().tobytes()).hexdigest()
    return bench, {"data": data}


@dataclass(frozen=True)
class Wanted:
    """A study that was asked for.

    guided: how many of the clips are sampled with guidance, at twice the price. resume: keep what the file has of the
    same model, clips and steps.
    """

    model: ModelSpec
    clips: int
    file: Path
    page: Path | None = None
    dataset: DatasetSpec | None = None
    guided: int = 8
    resume: bool = False


def inversion_study(wanted: Wanted, say: Callable[[str], None]) -> dict[str, Any]:
    """Writes {"rows": [...], "causes": [...], ...} after each row; `say` hears of each as it is found."""
    check(wanted)
    model = load(wanted.model)
    bench, data = bench_for(model, wanted.clips, wanted.dataset)
    about: dict[str, Any] = {"model": wanted.model.path, "clips": len(bench.x_0), "steps": bench.schedule.steps}
    about |= {"fingerprint": model.fingerprint, "first_turn": round(math.degrees(bench.schedule.thetas[1]), 1)} | data
    before, left = known(wanted.file, about), kept_rows(wanted.file, about, LEFT)
    earlier = before if wanted.resume else {}
    rows, kept = {row["inverter"]: row for row in earlier.get("rows", []) if "commit" not in row}, Kept(bench)
    found = about | {
        "rows": study(bench, kept, say, rows, lambda new: write(wanted.file, about | {"rows": new + left}))
    }
    found["rows"] += left
    some = bench.first(wanted.guided)
    causes_known = {
        row["cause"]: row for row in earlier.get("causes", []) if "by_clip" in row or row["cause"] not in READ
    }
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "causes": lambda: causes(bench, kept, say, causes_known),
        "combined": lambda: combined(some, say),
        "published": lambda: published(some, say),
    }
    found["guided_clips"] = len(some.x_0)
    for name, measure in parts.items():
        again = name == "causes" or earlier.get("guided_clips") != found["guided_clips"]
        found[name] = measure() if again or name not in earlier else earlier[name]
        write(wanted.file, found)
    found["findings"] = findings(found)
    write(wanted.file, found)
    if wanted.page is not None:
        pages.write(wanted.page, found)
    return found


def check(wanted: Wanted) -> None:
    """Before anything is computed."""
    page = wanted.page
    if page is not None and not page.parent.is_dir():
        raise BadSpec(f"field page: the folder of {str(page)!r} is not there; make it first")
    if page is not None and page.is_file():
        pages.check(page)
