"""The verdict on an edit, from its scores alone: limits in words, and a calibrated probability of being good.

Scores are measured once; a verdict is made anew from them whenever limits or calibration change.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import combinations_with_replacement
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.optimize import minimize

from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.judge_specs import JudgeSpec

Scores = Mapping[str, float | None]
Terms = dict[str, float]
LIMITS = {  # setting -> the score that it limits, from below or from above
    "least_text_choice": "text_choice",
    "least_text_contrast": "text_contrast",
    "least_text_similarity": "text_similarity",
    "least_text_gain": "text_gain",
    "least_text_direction": "text_direction",
    "least_vlm_yes": "vlm_yes",
    "least_vlm_choice": "vlm_choice",
    "least_structure": "structure",
    "least_motion_agreement": "motion_agreement",
    "least_preserved": "preserved",
    "least_sharpness": "sharpness",
    "most_colour_shift": "delta_e",
    "most_flicker": "flicker",
}
_BY_TEXT = ("similarity", "gain", "choice", "contrast", "direction", "steady")
JUDGED = (  # the scores that judges give; the others are measured when an edit is made
    *(f"text_{name}" for name in _BY_TEXT),
    *("vlm_yes", "vlm_choice", "image_similarity", "structure", "motion_agreement", "warp_error", "kept_db"),
)
FITTED = (  # the scores that a calibration looks at
    *("text_contrast", "text_choice", "text_similarity", "structure", "motion_agreement"),
    *("kept_db", "ssim", "delta_e"),
)
PROBABILITIES = ("text_contrast", "text_choice")
MANY = 200  # labels, from which on products of scores are looked at as well
WORDS = {"delta_e": "colour shift", "kept_db": "change of what should have stayed"}
PRECISION = {"balanced": 0.9, "strict": 0.95}  # that a calibration's limits aim at
LEAST = 5  # labels of each kind
LOST = 0.015  # most of the good edits that are given up early, where the limits are chosen
RIDGE = 1.0  # of the fit, on standardised scores


class Verdict(NamedTuple):
    """accepted, rejected, or unjudged where nothing that is asked for was measured; and why it was rejected."""

    verdict: Literal["accepted", "rejected", "unjudged"]
    reasons: list[str]
    confidence: float | None


@dataclass(frozen=True)
class Calibration:
    """What turns scores into a probability: 1 / (1 + exp(-(bias + Σ weight · term))).

    A term is a score, standardised (less its centre, over its scale, within ±3), or a product of two, as "a*b". A score
    that an edit lacks counts as its centre. limits: the least confidence of each preset. early: for the clean estimates
    after a share of the steps ("0.4"), each with the limit "stop", below which an edit is given up.
    """

    weights: dict[str, float]
    centres: dict[str, float]
    scales: dict[str, float]
    bias: float
    limits: dict[str, float] = field(default_factory=dict)
    early: dict[str, Calibration] = field(default_factory=dict)

    def confidence(self, scores: Scores) -> float:
        """The probability that an edit with these scores is good."""
        found = standardised(features(scores), self.centres, self.scales)
        total = self.bias + sum(weight * term(found, name) for name, weight in self.weights.items())
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, total))))

    def least_of(self, scores: Scores) -> str:
        """The score that lowers the confidence most, against an average one in its place; "" where none does."""
        own = self.confidence(scores)
        gains = {name: self.confidence({**scores, name: None}) - own for name in features(scores)}
        name = max(gains, key=lambda name: gains[name], default="")
        return name if name and gains[name] > 0 else ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def features(scores: Scores) -> dict[str, float]:
    """The scores that a calibration looks at, where they are there; probabilities as log odds."""
    found = {name: scores.get(name) for name in FITTED}
    known = {name: float(value) for name, value in found.items() if value is not None and math.isfinite(value)}
    return {name: _log_odds(value) if name in PROBABILITIES else value for name, value in known.items()}


def _log_odds(probability: float) -> float:
    within = min(max(probability, 1e-4), 1 - 1e-4)
    return math.log(within / (1 - within))


def standardised(found: Mapping[str, float], centres: Mapping[str, float], scales: Mapping[str, float]) -> Terms:
    """Each named feature less its centre, over its scale, within ±3; 0 where it is missing."""
    return {
        name: max(-3.0, min(3.0, (found.get(name, centre) - centre) / scales[name])) for name, centre in centres.items()
    }


def term(found: Mapping[str, float], name: str) -> float:
    """A standardised feature, or a product of two: "a*b"."""
    return math.prod(found[part] for part in name.split("*"))


def decide(scores: Scores, spec: JudgeSpec, calibration: Calibration | None) -> Verdict:
    """The verdict of a spec whose `auto` is resolved."""
    confidence = calibration.confidence(scores) if calibration and "text_similarity" in scores else None
    reasons, asked = [], 0
    for name, score in LIMITS.items():
        limit, value = getattr(spec, name), scores.get(score)
        if limit == JudgeSpec.model_fields[name].default or value is None:
            continue
        asked += 1
        below = name.startswith("least")
        if value < limit if below else value > limit:
            reasons.append(f"{_word(score)} {value:.3g} is {'below' if below else 'above'} {limit:g}")
    least = spec.least_confidence or (calibration.limits.get(spec.preset, 0.0) if calibration else 0.0)
    if confidence is not None and least:
        asked += 1
        if confidence < least:
            worst = calibration.least_of(scores) if calibration else ""
            most = f", most of all for {_word(worst)}" if worst else ""
            reasons.append(f"confidence {confidence:.2f} is below {least:.2f}{most}")
    verdict: Any = ("rejected" if reasons else "accepted") if asked else "unjudged"
    return Verdict(verdict, reasons, None if confidence is None else round(confidence, 4))


def _word(score: str) -> str:
    return WORDS.get(score, score.replace("_", " "))


def fit(rows: Sequence[Scores], good: Sequence[bool]) -> Calibration:
    """The calibration of labelled edits: a logistic regression with a ridge, and each preset's limit, chosen on
    confidences that were predicted from the other folds. Raises BadSpec unless there are edits of both kinds."""
    labels, apart = np.array(good, float), predicted_apart(rows, good)
    limits = {preset: limit_for(apart, labels > 0, wanted) for preset, wanted in PRECISION.items()}
    return replace(_fitted(rows, labels), limits=limits)


def fit_early(looks: Mapping[str, Sequence[Scores | None]], good: Sequence[bool]) -> dict[str, Calibration]:
    """The calibration of each look at the clean estimates, by the share of the steps; None where an edit had not begun.

    The limits are set one look after the other, on the edits that are left, so that all looks together give up at
    most `LOST` of the good ones. Raises BadSpec unless there are edits of both kinds.
    """
    truth, left = np.array(good, bool), np.ones(len(good), bool)
    found, most = {}, LOST * truth.sum() / max(len(looks), 1)
    for share, rows in sorted(looks.items(), key=lambda look: float(look[0])):
        seen = np.array([row is not None for row in rows])
        known = [row for row in rows if row is not None]
        apart = np.ones(len(truth))
        apart[seen] = predicted_apart(known, truth[seen])
        losses = np.sort(apart[truth & left & seen])
        limit = float(losses[min(int(most), len(losses) - 1)]) if len(losses) else 0.0
        left &= apart >= limit
        found[share] = replace(_fitted(known, truth[seen].astype(float)), limits={"stop": round(limit, 5)})
    return found


def predicted_apart(rows: Sequence[Scores], good: Sequence[bool]) -> np.ndarray:
    """The confidence in each labelled edit, by a fit to those of the other folds. Raises BadSpec."""
    labels = np.array(good, float)
    if min(labels.sum(), (1 - labels).sum()) < LEAST:
        raise BadSpec(
            f"field labels: {int(labels.sum())} accepted and {int((1 - labels).sum())} rejected edits were found; "
            f"label at least {LEAST} of each"
        )
    folds = np.arange(len(labels)) * 5 // len(labels)  # in blocks: edits of one clip stand together
    apart = np.zeros(len(labels))
    for fold in range(5):
        inside = folds != fold
        if len(set(labels[inside])) < 2:
            inside = np.ones(len(labels), bool)
        part = _fitted([row for row, use in zip(rows, inside, strict=True) if use], labels[inside])
        for i in np.flatnonzero(folds == fold):
            apart[i] = part.confidence(rows[int(i)])
    return apart


def _fitted(rows: Sequence[Scores], labels: np.ndarray) -> Calibration:
    """By the scores that most edits have; with their products where there are labels enough to tell them apart."""
    found = [features(row) for row in rows]
    names = [name for name in FITTED if sum(name in row for row in found) >= len(found) / 2]
    centres = {name: round(float(np.mean([row[name] for row in found if name in row])), 6) for name in names}
    spreads = {name: float(np.std([row[name] for row in found if name in row])) for name in names}
    scales = {name: round(max(spread, 1e-6), 6) for name, spread in spreads.items()}
    terms = list(names)
    if len(labels) >= MANY:
        terms += [f"{one}*{other}" for one, other in combinations_with_replacement(names, 2)]
    each = [standardised(row, centres, scales) for row in found]
    x = np.array([[term(row, name) for name in terms] for row in each])

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ w[1:] + w[0]
        p = 1 / (1 + np.exp(-np.clip(z, -60, 60)))
        value = np.logaddexp(0, z).sum() - labels @ z + RIDGE * (w[1:] @ w[1:]) / 2
        return float(value), np.concatenate([[np.sum(p - labels)], x.T @ (p - labels) + RIDGE * w[1:]])

    w = minimize(loss, np.zeros(len(terms) + 1), jac=True, method="L-BFGS-B").x
    weights = {name: round(float(value), 6) for name, value in zip(terms, w[1:], strict=True)}
    return Calibration(weights, centres, scales, round(float(w[0]), 6))


def limit_for(confidence: np.ndarray, good: np.ndarray, precision: float) -> float:
    """The lowest limit at and above which this share of the edits is good; 1 where there is none."""
    order = np.argsort(-confidence)
    shares = np.cumsum(good[order]) / np.arange(1, len(order) + 1)
    reached = np.flatnonzero(shares >= precision)
    return round(float(confidence[order][reached[-1]]), 4) if len(reached) else 1.0


def auc(confidence: np.ndarray, good: np.ndarray) -> float:
    """Probability that a good edit's confidence is above a bad one's; ties count half."""
    above = confidence[good][:, None] - confidence[~good][None]
    return float((above > 0).mean() + (above == 0).mean() / 2)


def read_calibration(path: Path) -> Calibration:
    """A file that `calibrate` has written. Raises BadSpec."""
    try:
        found = json.loads(path.read_text("utf-8"))
        early = {f"{float(share):g}": _calibration(each) for share, each in found.get("early", {}).items()}
        return replace(_calibration(found), early=early)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = " ".join(str(error).split())[:100]
        raise BadSpec(
            f"field judge.calibration: {str(path)!r} can't be used ({type(error).__name__}: {why}); "
            "write it with cogvideo-edit calibrate, or use auto"
        ) from error


def _calibration(found: Mapping[str, Any]) -> Calibration:
    weights, centres, scales, limits = (
        {str(k): float(v) for k, v in found[name].items()} for name in ("weights", "centres", "scales", "limits")
    )
    if not centres.keys() == scales.keys() >= {part for name in weights for part in name.split("*")}:
        raise ValueError("weights, centres and scales are of different scores")
    if min(scales.values(), default=1.0) <= 0:
        raise ValueError("a scale is not above 0")
    return Calibration(weights, centres, scales, float(found["bias"]), limits)
