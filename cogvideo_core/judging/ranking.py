"""Which of the edits that compete for one prompt is the best: by the calibrated confidence, else by weighted scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cogvideo_core.judging.policy import Scores
from cogvideo_core.settings.judge_specs import JudgeSpec

COMPARED = {  # weight -> the scores that it weighs, of which more is better
    "weight_text": ("text_choice", "text_contrast", "text_similarity"),
    "weight_preserved": ("kept_db", "structure"),
    "weight_motion": ("motion_agreement",),
}


class Candidate(NamedTuple):
    """What a rank depends on."""

    rejected: bool
    confidence: float | None
    scores: Scores
    preferred: bool = False  # by a person


class Rank(NamedTuple):
    """The place among the candidates of a prompt, 1 for the best, and the figure behind it, from 0 to 1."""

    rank: int
    score: float


def ranked(candidates: Sequence[Candidate], spec: JudgeSpec) -> list[Rank]:
    """The rank of each candidate: what a person prefers comes first, then what passed, and of equals the earlier one.

    The figure is the confidence where all have one, else the share of the other candidates whose scores are lower,
    weighted: a rank needs no common unit of cosines, decibels and shares.
    """
    confidences = [one.confidence for one in candidates if one.confidence is not None]
    figures = confidences if len(confidences) == len(candidates) else beaten(candidates, spec)
    order = sorted(
        range(len(candidates)), key=lambda i: (not candidates[i].preferred, candidates[i].rejected, -figures[i])
    )
    places = {i: place for place, i in enumerate(order, 1)}
    return [Rank(places[i], round(figures[i], 4)) for i in range(len(candidates))]


def beaten(candidates: Sequence[Candidate], spec: JudgeSpec) -> list[float]:
    """The weighted share of the other candidates that each is above, ties by half; .5 where nothing was measured."""
    totals, weights = [0.0] * len(candidates), 0.0
    for name, scores in COMPARED.items():
        for score in scores:
            values = [one.scores.get(score) for one in candidates]
            if any(value is None for value in values):
                continue
            weight = float(getattr(spec, name)) / len(scores)
            weights += weight
            totals = [total + weight * share for total, share in zip(totals, _above(values), strict=True)]
    return [total / weights if weights else 0.5 for total in totals]


def _above(values: Sequence[float | None]) -> list[float]:
    known = [float(value) for value in values if value is not None]
    others = max(len(known) - 1, 1)
    alone = 0.5 if len(known) == 1 else 0.0
    return [
        alone + (sum(other < own for other in known) + (sum(other == own for other in known) - 1) / 2) / others
        for own in known
    ]


def groups_of(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> list[list[int]]:
    """The numbers of the rows that agree in these columns, group by group."""
    found: dict[tuple[object, ...], list[int]] = {}
    for number, row in enumerate(rows):
        found.setdefault(tuple(row[name] for name in names), []).append(number)
    return list(found.values())
