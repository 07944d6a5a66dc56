"""The verdict on an edit, from its scores alone: limits in words, and a calibrated probability of being good.

Scores are measured once; a verdict is made anew from them whenever limits or calibration change.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from scipy.optimize import minimize

from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.judge_specs import JudgeSpec

Scores = Mapping[str, float | None]
LIMITS = {  # setting -> the score that it limits, from below or from above
    "least_text_choice": "text_choice",
    "least_text_similarity": "text_similarity",
    "least_text_gain": "text_gain",
    "least_text_direction": "text_direction",
    "least_structure": "structure",
    "least_motion_agreement": "motion_agreement",
    "least_preserved": "preserved",
    "least_sharpness": "sharpness",
    "most_colour_shift": "delta_e",
    "most_flicker": "flicker",
}
WORDS = {"delta_e": "colour shift"}
PRECISION = {"balanced": 0.95, "strict": 0.98}  # that a calibration's limits aim at
RIDGE = 1.0  # of the fit, on standardised scores


class Verdict(NamedTuple):
    """accepted, rejected, or unjudged where nothing that is asked for was measured; and why it was rejected."""

    verdict: Literal["accepted", "rejected", "unjudged"]
    reasons: list[str]
    confidence: float | None


@dataclass(frozen=True)
class Calibration:
    """What turns scores into a probability: 1 / (1 + exp(-(bias + Σ weight · (score - centre)))).

    A score that an edit lacks counts as its centre. limits: the least confidence of each preset.
    """

    weights: dict[str, float]
    centres: dict[str, float]
    bias: float
    limits: dict[str, float] = field(default_factory=dict)

    def confidence(self, scores: Scores) -> float:
        """The probability that an edit with these scores is good."""
        found = features(scores)
        total = self.bias + sum(
            weight * (found[name] - self.centres[name]) for name, weight in self.weights.items() if name in found
        )
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, total))))

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def features(scores: Scores) -> dict[str, float]:
    """The scores that are there; gains as the size of their logarithm, for they are best near 1."""
    found = {name: float(value) for name, value in scores.items() if value is not None and math.isfinite(value)}
    for name in [name for name in found if name.endswith("_gain") and name != "text_gain"]:
        found[name] = abs(math.log(max(found[name], 1e-3)))
    return found


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
            word = WORDS.get(score, score.replace("_", " "))
            reasons.append(f"{word} {value:.3g} is {'below' if below else 'above'} {limit:g}")
    least = spec.least_confidence or (calibration.limits.get(spec.preset, 0.0) if calibration else 0.0)
    if confidence is not None and least:
        asked += 1
        if confidence < least:
            reasons.append(f"confidence {confidence:.2f} is below {least:.2f}")
    verdict: Any = ("rejected" if reasons else "accepted") if asked else "unjudged"
    return Verdict(verdict, reasons, None if confidence is None else round(confidence, 4))


def fit(rows: Sequence[Scores], good: Sequence[bool]) -> Calibration:
    """The calibration of labelled edits: a logistic regression with a ridge, and each preset's limit, chosen on
    confidences that were predicted from the other folds. Raises BadSpec unless there are edits of both kinds."""
    labels = np.array(good, float)
    if min(labels.sum(), (1 - labels).sum()) < 5:
        raise BadSpec(
            f"field labels: {int(labels.sum())} accepted and {int((1 - labels).sum())} rejected edits were found; "
            "label at least 5 of each"
        )
    folds = np.arange(len(labels)) % 5
    apart = np.zeros(len(labels))
    for fold in range(5):
        inside = folds != fold
        if len(set(labels[inside])) < 2:
            inside = np.ones(len(labels), bool)
        part = _fitted([row for row, use in zip(rows, inside, strict=True) if use], labels[inside])
        for i in np.flatnonzero(folds == fold):
            apart[i] = part.confidence(rows[int(i)])
    limits = {preset: limit_for(apart, labels > 0, wanted) for preset, wanted in PRECISION.items()}
    whole = _fitted(rows, labels)
    return Calibration(whole.weights, whole.centres, whole.bias, limits)


def _fitted(rows: Sequence[Scores], labels: np.ndarray) -> Calibration:
    """By standardised scores; only those that most edits have."""
    found = [features(row) for row in rows]
    names = sorted({name for row in found for name in row})
    names = [name for name in names if sum(name in row for row in found) >= len(found) / 2]
    centres = {name: float(np.mean([row[name] for row in found if name in row])) for name in names}
    x = np.array([[row.get(name, centres[name]) - centres[name] for name in names] for row in found])
    scale = np.maximum(x.std(0), 1e-6)
    x = x / scale

    def loss(w: np.ndarray) -> tuple[float, np.ndarray]:
        z = x @ w[1:] + w[0]
        p = 1 / (1 + np.exp(-np.clip(z, -60, 60)))
        value = np.logaddexp(0, z).sum() - labels @ z + RIDGE * (w[1:] @ w[1:]) / 2
        return float(value), np.concatenate([[np.sum(p - labels)], x.T @ (p - labels) + RIDGE * w[1:]])

    w = minimize(loss, np.zeros(len(names) + 1), jac=True, method="L-BFGS-B").x
    weights = {name: round(float(value / s), 6) for name, value, s in zip(names, w[1:], scale, strict=True)}
    return Calibration(weights, {name: round(value, 6) for name, value in centres.items()}, round(float(w[0]), 6))


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
        numbers = {
            name: {str(k): float(v) for k, v in found[name].items()} for name in ("weights", "centres", "limits")
        }
        made = Calibration(numbers["weights"], numbers["centres"], float(found["bias"]), numbers["limits"])
        if made.weights.keys() != made.centres.keys():
            raise ValueError("weights and centres are of different scores")
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = " ".join(str(error).split())[:100]
        raise BadSpec(
            f"field judge.calibration: {str(path)!r} can't be used ({type(error).__name__}: {why}); "
            "write it with cogvideo-edit calibrate, or use auto"
        ) from error
    return made
