"""The table and the result file of a benchmark: means with intervals over clips, by kind of edit."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable, Iterable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cogvideo_core.benchmarks.cases import Column
from cogvideo_core.benchmarks.layout import LaidOut
from cogvideo_core.benchmarks.prepare import Prepared, replace
from cogvideo_core.benchmarks.scoring import Outcome, Scored, score_edits
from cogvideo_core.dataset.tables import kept_settings
from cogvideo_core.judging.metrics.table import METRICS
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.metric_specs import MetricSpec
from cogvideo_core.storage.uris import plain_name, unsigned

FORMAT, FILE = 1, "benchmark.json"
ALL = "all"
DRAWS = 2000
PACKAGES = ("cogvideo-edit", "torch", "diffusers", "transformers", "numpy", "prefect")
RUN_FIELDS = ("model", "model_fingerprint", "recipe", "recipe_fingerprint", "frames", "height", "width", "fps")
Json = dict[str, Any]


class Figure(NamedTuple):
    """A mean over edits, in the scale of published tables, with a 95 % interval over clips (None for one clip)."""

    mean: float
    low: float | None
    high: float | None
    edits: int
    clips: int


Table = dict[str, dict[str, Figure]]
"""kind of edit -> metric -> figure"""


def table_of(scored: Sequence[Scored]) -> Table:
    """Figures over all edits and by their kinds, in the order in which those come."""
    groups = {ALL: list(scored)}
    for each in scored:
        if each.case.edit_type != ALL:
            groups.setdefault(each.case.edit_type, []).append(each)
    if len(groups) == 2:  # one kind is all
        groups = {ALL: groups[ALL]}
    return {kind: figures(members) for kind, members in groups.items()}


def figures(scored: Iterable[Scored]) -> dict[str, Figure]:
    """The figure of each metric that some of the edits have."""
    values: dict[str, list[tuple[str, float]]] = {}
    for each in scored:
        for name, value in each.scores.items():
            values.setdefault(name, []).append((each.case.clip, value * METRICS[name].scale))
    return {name: figure(pairs) for name, pairs in values.items()}


def figure(pairs: Sequence[tuple[str, float]]) -> Figure:
    """Of (clip, value) pairs. Edits of one clip are alike, so clips are drawn for the interval, each with its edits."""
    clips = sorted({clip for clip, _ in pairs})
    sums, counts = np.zeros(len(clips)), np.zeros(len(clips))
    for clip, value in pairs:
        sums[clips.index(clip)] += value
        counts[clips.index(clip)] += 1
    mean = float(sums.sum() / counts.sum())
    if len(clips) < 2:
        return Figure(mean, None, None, len(pairs), len(clips))
    drawn = np.random.default_rng(0).integers(len(clips), size=(DRAWS, len(clips)))
    low, high = np.percentile(sums[drawn].sum(1) / counts[drawn].sum(1), (2.5, 97.5))
    return Figure(mean, float(low), float(high), len(pairs), len(clips))


class Result(NamedTuple):
    """What a benchmark came to."""

    table: Table
    failed: dict[str, str]  # case id -> why it has no figures
    unmeasured: list[str]  # metrics of the benchmark that were not measured
    file: Path


def score(
    prepared: Prepared,
    spec: MetricSpec,
    laid: LaidOut | None = None,
    root: str = "",
    results: Path | None = None,
    step: Callable[[], None] = lambda: None,
) -> Result:
    """Scores the laid-out edits and writes benchmark.json, or benchmark-<folder>.json for the results of others, beside
    the run's own results. Raises BadSpec, ModelError, EndpointUnreachable."""
    if spec.stride == 1 and prepared.benchmark.stride > 1:
        spec = spec.model_copy(update={"stride": prepared.benchmark.stride})
    outcome = score_edits(prepared, results, spec, step)
    failed = outcome.failed | (laid.failed if laid else {})
    table = table_of(outcome.scored)
    unmeasured = [each.metric for each in prepared.benchmark.columns if each.metric not in table[ALL]]
    name = FILE if results is None else f"benchmark-{plain_name(results.name)}.json"
    result = Result(table, failed, unmeasured, prepared.place / name)
    about = _about(prepared, spec, outcome, result) | _about_run(laid, root)
    replace(result.file, (json.dumps(about, indent=1, sort_keys=True) + "\n").encode())
    return result


def lines(prepared: Prepared, result: Result) -> list[list[str]]:
    """The table as text: a header, then a line for each kind of edit, in the order of the benchmark's columns."""
    shown = [column for column in prepared.benchmark.columns if column.metric in result.table[ALL]]
    head = ["edits", "n", *(_headed(column) for column in shown)]
    rows = [
        [kind, str(max((found.edits for found in group.values()), default=0))]
        + [_cell(group.get(column.metric)) for column in shown]
        for kind, group in result.table.items()
    ]
    return [head, *rows]


def _headed(column: Column) -> str:
    metric = METRICS[column.metric]
    factor = "" if metric.scale == 1 else f" ×{metric.scale:g}"
    return f"{metric.title}{factor}{'' if column.own else ' (ours)'} {'↑' if metric.better == 'higher' else '↓'}"


def _cell(found: Figure | None) -> str:
    if found is None:
        return ""
    interval = "" if found.low is None else f" [{found.low:.4g}, {found.high:.4g}]"
    return f"{found.mean:.4g}{interval}"


def _about(prepared: Prepared, spec: MetricSpec, outcome: Outcome, result: Result) -> Json:
    clips = {case.clip for case in prepared.cases}
    scores = {kind: {name: found._asdict() for name, found in group.items()} for kind, group in result.table.items()}
    return {
        "format": FORMAT,
        "benchmark": prepared.benchmark.name,
        "versions": {"python": platform.python_version()} | {name: _version(name) for name in PACKAGES},
        "data": {"edits": len(prepared.cases), "clips": len(clips), "sha256": prepared.data_sha256},
        "notes": prepared.notes,
        "edits_may_use_masks": prepared.masks,
        "edits": {"scored": len(outcome.scored), "failed": len(result.failed), "why": result.failed},
        "metrics": {"settings": spec.as_json(), "unmeasured": result.unmeasured} | {"own": _own(prepared)},
        "scores": scores,
    }


def _own(prepared: Prepared) -> dict[str, bool]:
    """Whether a metric is measured as the benchmark defines it."""
    return {column.metric: column.own for column in prepared.benchmark.columns}


def _about_run(laid: LaidOut | None, root: str) -> Json:
    """Model, recipe and settings of the edits; nothing of results that others have made."""
    if laid is None or not laid.rows:
        return {"run": {}}
    settings = kept_settings(root, {})
    told = {name: sorted({row[name] for row in laid.rows.values()}) for name in RUN_FIELDS}
    plain = {name: values[0] if len(values) == 1 else values for name, values in told.items()}
    edits = fingerprint(sorted(row["edit_key"] for row in laid.rows.values()))
    return {"run": plain | {"edits_sha256": edits, "settings": json.loads(unsigned(json.dumps(settings)))}}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""
