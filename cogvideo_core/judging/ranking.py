"""Which of the edits that compete for one prompt is the best: by the calibrated confidence, else by weighted scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from cogvideo_core.judging.policy import Scores
from cogvideo_core.settings.judge_specs import JudgeSpec

COMPARED = {  # weight -> the scores that it weighs, of which more is better
    "weight_text": ("text_choice", "text_contrast", "text_similarity", "vlm_yes", "vlm_choice"),
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
        known = [score for score in scores if all(one.scores.get(score) is not None for one in candidates)]
        weights += getattr(spec, name) if known else 0.0
        for score in known:
            shares, weight = _above([one.scores[score] or 0.0 for one in candidates]), getattr(spec, name) / len(known)
            totals = [total + weight * share for total, share in zip(totals, shares, strict=True)]
    return [total / weights if weights else 0.5 for total in totals]


def _above(values: Sequence[float]) -> list[float]:
    if len(values) == 1:
        return [0.5]
    others = len(values) - 1
    return [(sum(v < own for v in values) + (sum(v == own for v in values) - 1) / 2) / others for own in values]


def groups_of(rows: Sequence[Mapping[str, object]], names: Sequence[str]) -> list[list[int]]:
    """The numbers of the rows that agree in these columns, group by group."""
    found: dict[tuple[object, ...], list[int]] = {}
    for number, row in enumerate(rows):
        found.setdefault(tuple(row[name] for name in names), []).append(number)
    return list(found.values())
