"""Scores laid-out edits by a benchmark's metrics, edit by edit; what was measured before is not measured again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cogvideo_core.benchmarks.cases import Case
from cogvideo_core.benchmarks.frames import read_frames, read_mask, resized
from cogvideo_core.benchmarks.layout import RESULTS, source_path
from cogvideo_core.benchmarks.prepare import Prepared, replace
from cogvideo_core.errors import ClipError
from cogvideo_core.judging.metrics.measure import measured
from cogvideo_core.judging.metrics.samples import Question, Sample
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.metric_specs import MetricSpec

SCORES = "scores.jsonl"
Scores = dict[str, float]
ANSWERS = {"source_yes_no": "no", "target_yes_no": "yes", "multiple_choice": "b"}  # of an edit that succeeds, in FiVE


class Scored(NamedTuple):
    """An edit and its figures."""

    case: Case
    scores: Scores


class Outcome(NamedTuple):
    """Figures by edit, and case id -> why an edit has none."""

    scored: list[Scored]
    failed: dict[str, str]


def score_edits(
    prepared: Prepared, results: Path | None, spec: MetricSpec, step: Callable[[], None] = lambda: None
) -> Outcome:
    """Measures the edit of every case that lies in `results`, by default the run's own.

    Raises BadSpec, ModelError, EndpointUnreachable.
    """
    names = [column.metric for column in prepared.benchmark.columns]
    known = _known(prepared.place) if results is None else {}
    scored, failed, lines = list[Scored](), dict[str, str](), dict[str, Scores]()
    for case in prepared.cases:
        try:
            sample = sample_of(prepared, case, results or prepared.place / RESULTS)
            key = fingerprint([digest(sample), names, spec.as_json()])
            lines[key] = known[key] if key in known else measured(names, spec, [sample])[0]
            scored.append(Scored(case, lines[key]))
        except ClipError as error:
            failed[case.id] = str(error)
        step()
    if results is None:
        rows = (json.dumps({"key": key, "scores": scores}) + "\n" for key, scores in lines.items())
        replace(prepared.place / SCORES, "".join(rows).encode())
    return Outcome(scored, failed)


def sample_of(prepared: Prepared, case: Case, results: Path) -> Sample:
    """The frames of an edit and of its source, in the source's size, as far as both go. Raises ClipError."""
    if not (place := results / case.place).exists():
        raise ClipError(case.id, "it is not among the results", "run the benchmark, or lay the edit out", "edit")
    edit = read_frames(place)
    source = read_frames(_source(prepared, case, results), len(edit))
    count, size = min(len(edit), len(source)), source.shape[1:3]
    mask = read_mask(Path(case.mask), count, size) if case.mask else None
    questions = tuple(_question(kind, text) for kind, text in case.questions)
    prompts = (case.source_prompt, case.target_prompt)
    return Sample(source[:count], resized(edit[:count], size), mask, *prompts, questions, case.id)


def _source(prepared: Prepared, case: Case, results: Path) -> Path:
    """The frames an edit is compared with: those laid out with it, else the benchmark's own."""
    beside = results / case.source_place if case.source_place else source_path(prepared.place, case)
    return beside if beside is not None and beside.exists() else Path(case.clip)


def _question(kind: str, text: str) -> Question:
    return Question("multiple_choice" if kind == "multiple_choice" else "yes_no", text, (), ANSWERS[kind])


def digest(sample: Sample) -> str:
    """sha256 of all that a sample consists of."""
    found = hashlib.sha256(json.dumps([sample.source_prompt, sample.target_prompt, sample.questions]).encode())
    for frames in (sample.source, sample.edit, sample.mask):
        found.update(b"none" if frames is None else repr(frames.shape).encode() + np.ascontiguousarray(frames).data)
    return found.hexdigest()


def _known(place: Path) -> dict[str, Scores]:
    try:
        return dict(_lines((place / SCORES).read_text("utf-8").splitlines()))
    except (OSError, ValueError, KeyError, TypeError):
        return {}


def _lines(lines: Sequence[str]) -> Iterator[tuple[str, Scores]]:
    for line in lines:
        row = json.loads(line)
        yield row["key"], {str(name): float(value) for name, value in row["scores"].items()}
