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
from cogvideo_core.study.bench import STEPS, Bench, held_out
from cogvideo_core.study.causes import causes
from cogvideo_core.study.clips import own_bench
from cogvideo_core.study.combined import combined
from cogvideo_core.study.findings import READ, findings
from cogvideo_core.study.inversion import Kept, Row, study
from cogvideo_core.study.published import published

Study = dict[str, Any]
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


def known(file: Path, study_of: Mapping[str, Any]) -> Study:
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


def bench_for(model: VideoModel, clips: int, dataset: DatasetSpec | None, steps: int) -> tuple[Bench, dict[str, Any]]:
    """What is measured on: the user's own clips, or the held-out ones; and what tells it from other studies."""
    if dataset is None:
        return held_out(model, clips, steps), {}
    bench = own_bench(model, dataset, clips, steps)
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
    steps: int = STEPS
    resume: bool = False


def inversion_study(wanted: Wanted, say: Callable[[str], None]) -> Study:
    """Writes {"rows": [...], "causes": [...], ...} after each row; `say` hears of each as it is found."""
    check(wanted)
    model = load(wanted.model)
    bench, data = bench_for(model, wanted.clips, wanted.dataset, wanted.steps)
    about: Study = {"model": wanted.model.path, "clips": len(bench.x_0), "steps": bench.schedule.steps}
    about |= {"fingerprint": model.fingerprint, "first_turn": round(math.degrees(bench.schedule.thetas[1]), 1)} | data
    left = kept_rows(wanted.file, about, LEFT)
    found = (known(wanted.file, about) if wanted.resume else {}) | about
    measured(
        bench,
        bench.first(wanted.guided),
        found,
        say,
        lambda: write(wanted.file, found | {"rows": found["rows"] + left}),
    )
    found |= {"rows": found["rows"] + left, "findings": findings(found)}
    write(wanted.file, found)
    if wanted.page is not None:
        pages.write(wanted.page, found)
    return found


def measured(bench: Bench, some: Bench, found: Study, say: Callable[[str], None], keep: Callable[[], None]) -> None:
    """Fills in what is not found yet, on all clips and, with guidance, on some; `keep` hears after each part."""
    kept, rows = Kept(bench), {row["inverter"]: row for row in found.get("rows", []) if "commit" not in row}

    def new(row: Row) -> None:
        rows[row["inverter"]] = row
        found["rows"] = [*rows.values()]
        keep()

    found["rows"] = study(bench, kept, say, dict(rows), new)
    by_name = {row["cause"]: row for row in found.get("causes", []) if "by_clip" in row or row["cause"] not in READ}
    found["causes"] = causes(bench, kept, say, by_name)
    keep()
    together, before = found.get("combined") or [], found.get("published") or []
    if not together or len(together[0]["by_clip"]["ddim"]) < len(some.x_0):
        found["combined"] = combined(some, say)
        keep()

    def newer(rows: list[Row]) -> None:
        found["published"] = [*rows]
        keep()

    found["published"] = published(some, say, before, newer)


def check(wanted: Wanted) -> None:
    """Before anything is computed."""
    page = wanted.page
    if page is not None and not page.parent.is_dir():
        raise BadSpec(f"field page: the folder of {str(page)!r} is not there; make it first")
    if page is not None and page.is_file():
        pages.check(page)
