"""The findings of the study of inversion as questions that its own figures answer, on whatever model it was run."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from cogvideo_core.study.bench import interval

Row = dict[str, Any]
Study = dict[str, Any]


class Finding(NamedTuple):
    """A claim; what decides it: a difference in dB by clip, which should be above `least`; what to expect elsewhere."""

    claim: str
    difference: Callable[[Study], np.ndarray]
    least: float
    expected: str


def recon(study: Study, name: str) -> np.ndarray:
    """dB by clip of an inverter's row."""
    return np.array(next(row["by_clip"] for row in study["rows"] if row["inverter"] == name))


def after(study: Study, name: str) -> np.ndarray:
    """dB by clip of a cause's row."""
    return np.array(next(row["by_clip"] for row in study["causes"] if row["cause"] == name))


def together(study: Study, name: str, what: str = "") -> np.ndarray:
    """dB by clip of an inverter with this combination of mismatches; with all at once, which is the last row."""
    row = next((row for row in study["combined"] if row["what"] == what), study["combined"][-1])
    return np.array(row["by_clip"][name])


def solved_over(*names: str) -> Callable[[Study], np.ndarray]:
    """By how much `multistep_15` is better than the best of these rows, clip by clip."""
    return lambda study: recon(study, "multistep_15") - np.max([recon(study, name) for name in names], axis=0)


READ = {"rounding to bfloat16", "zero-SNR end left out"}  # causes of which a finding takes the figures by clip
ORDERS = ("k_rnr_inverted_2", "k_rnr_inverted_3", "k_rnr_inverted_6", "k_rnr_inverted_10_adaptive")
FINDINGS = (
    Finding(
        "Solving the implicit step reconstructs better than DDIM inversion.",
        solved_over("ddim"),
        0.0,
        "Yes: it follows from the sampler's own step, for any model whose velocity depends on where it is asked.",
    ),
    Finding(
        "One evaluation a level is enough behind the first level: `multistep_15` is no worse than `fixed_point_5`.",
        solved_over("fixed_point_5"),
        -0.5,
        "Probably: needs a velocity that changes smoothly from level to level; bfloat16 sets a floor to both.",
    ),
    Finding(
        "15 iterations solve the first level: 30, and 3 on each other, gain less than 20 dB.",
        lambda study: 20 - (recon(study, "multistep_30_3") - recon(study, "multistep_15")),
        0.0,
        "Unknown: the angle is the same, the model's curvature near clean latents is not.",
    ),
    Finding(
        "Rescaling DDIM's x_T to deviation 1 does not repair it.",
        solved_over("ddim_rescaled"),
        0.0,
        "Yes: its amplitude is one symptom; the directions are wrong too.",
    ),
    Finding(
        "K-RNR of DDIM's noise, of any order, reconstructs worse than the solved step.",
        solved_over(*ORDERS),
        0.0,
        "Yes: it puts the clip's colours and layout into the start, not its detail.",
    ),
    Finding(
        "Steps placed by their error gain less than solving the step on even ones.",
        solved_over("ddim_trdi", "ddim_by_error"),
        0.0,
        "Yes: a grid makes the error of the wrong velocity smaller; the solved step does not make it.",
    ),
    Finding(
        "Rounding states to bfloat16 costs less than DDIM inversion.",
        lambda study: after(study, "rounding to bfloat16") - recon(study, "ddim"),
        0.0,
        "Probably: weights and activations in bfloat16 add noise that this row does not have.",
    ),
    Finding(
        "The zero-SNR end is not to blame: leaving it out changes DDIM inversion by less than 0.5 dB.",
        lambda study: 0.5 - np.abs(after(study, "zero-SNR end left out") - recon(study, "ddim")),
        0.0,
        "Yes: in angles nothing is divided by zero there, and the last turn is the smallest.",
    ),
    Finding(
        "Sampling at guidance 6 what was inverted at 1 costs more than DDIM inversion does.",
        lambda study: together(study, "ddim", "none of them") - together(study, "solved", "guidance 6 down"),
        0.0,
        "Yes: guidance moves the velocity at every step, however well the start was found.",
    ),
    Finding(
        'With guidance, "" and another grid together, the inverter matters less than 3 dB.',
        lambda study: 3 - np.abs(together(study, "solved") - together(study, "ddim")),
        0.0,
        "Yes: the mismatch decides. So a comparison of inverters at guidance 6 compares something else.",
    ),
)


def findings(study: Study) -> list[Row]:
    """What this study's figures say to each: the difference, its interval, and whether the claim holds.

    "yes": the whole interval of the mean is above the claim's bound; "no": all of it is below; else "open".
    """
    found = []
    for finding in FINDINGS:
        values = finding.difference(study)
        mean, (low, high) = float(values.mean()), interval(values)
        holds = "yes" if low > finding.least else "no" if high < finding.least else "open"
        row: Row = {"claim": finding.claim, "least": finding.least, "expected": finding.expected, "holds": holds}
        found.append(row | {"margin_db": round(mean, 2), "margin_low": round(low, 2), "margin_high": round(high, 2)})
    return found
