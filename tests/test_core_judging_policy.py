"""Verdicts from scores: limits in words, presets, and the calibration that labels give."""

import json
from pathlib import Path

import numpy as np
import pytest

from cogvideo_core.errors import BadSpec
from cogvideo_core.judging import policy
from cogvideo_core.settings.judge_specs import JudgeSpec

GOOD = {"text_similarity": 0.7, "text_choice": 0.9, "delta_e": 2.0, "motion_agreement": 0.8}


@pytest.mark.parametrize("field", policy.LIMITS)
def test_each_limit_rejects_and_says_why(field: str) -> None:
    """A score on the wrong side of its limit rejects with a sentence that has both numbers; on the right side not."""
    score, below = policy.LIMITS[field], field.startswith("least")
    spec = JudgeSpec.none().model_copy(update={field: 0.5})
    wrong, right = ({score: 0.4}, {score: 0.6}) if below else ({score: 0.6}, {score: 0.4})
    assert policy.decide(right, spec, None).verdict == "accepted"
    decided = policy.decide(wrong, spec, None)
    assert decided.verdict == "rejected" and len(decided.reasons) == 1
    assert f"{wrong[score]:g}" in decided.reasons[0] and "0.5" in decided.reasons[0]


def test_what_was_not_measured_decides_nothing() -> None:
    """Without the score that a limit asks for, an edit is unjudged and not rejected."""
    assert policy.decide({}, JudgeSpec(text="shapes"), None) == ("unjudged", [], None)
    assert policy.decide(GOOD, JudgeSpec.none(), None).verdict == "unjudged"


def test_presets_and_auto() -> None:
    """A preset fills limits that are left alone; without a text judge its limits are off; a limit given stays."""
    assert JudgeSpec().least_text_choice == 0.5 and JudgeSpec(preset="strict").least_text_choice == 0.8
    assert JudgeSpec(preset="strict", least_text_choice=0.3).least_text_choice == 0.3
    assert JudgeSpec().resolved("shapes").text == "shapes"
    alone = JudgeSpec(most_colour_shift=5).resolved("some/model")
    assert (alone.text, alone.preset, alone.least_text_choice, alone.most_colour_shift) == ("none", "off", 0.0, 5)
    assert not alone.measures and policy.decide({"text_choice": 0.1}, alone, None).verdict == "unjudged"
    assert JudgeSpec(least_text_choice=0.9, keep="all").scoring == JudgeSpec().scoring


@pytest.mark.parametrize("line", ["red", "red / ", "red / red"])
def test_a_contrast_is_several_words(line: str) -> None:
    """One word, an empty one or twice the same is refused with what to write."""
    with pytest.raises(ValueError, match="write distinct words with / between them"):
        JudgeSpec(contrasts=[line])


def drawn(count: int, seed: int = 0) -> tuple[list[dict[str, float]], list[bool]]:
    """Edits that are good where the prompt is shown and the background is near."""
    rng = np.random.default_rng(seed)
    rows = [
        {"text_contrast": c, "text_similarity": 0.5, "kept_db": k}
        for c, k in zip(rng.uniform(0, 1, count), rng.uniform(20, 40, count), strict=True)
    ]
    return rows, [row["text_contrast"] > 0.5 and row["kept_db"] > 30 for row in rows]


@pytest.mark.parametrize(("count", "least"), [(60, 0.9), (400, 0.97)])
def test_a_fit_tells_good_from_bad(count: int, least: float) -> None:
    """On other edits than those labelled; with many labels also where two scores must be good together."""
    made = policy.fit(*drawn(count))
    rows, good = drawn(500, seed=1)
    assert policy.auc(np.array([made.confidence(row) for row in rows]), np.array(good)) >= least
    assert 0 < made.limits["balanced"] <= made.limits["strict"] <= 1


def test_a_missing_score_counts_as_its_centre() -> None:
    """Its terms are left out of the sum."""
    made = policy.Calibration({"kept_db": 2.0}, {"kept_db": 30.0}, {"kept_db": 1.0}, 0.0)
    assert made.confidence({}) == 0.5 == made.confidence({"kept_db": 30.0}) < made.confidence({"kept_db": 31.0})


def test_a_low_confidence_names_its_main_cause() -> None:
    """The reason names the score that an average one in its place would help most."""
    made = policy.fit(*drawn(400))
    row = {"text_contrast": 0.05, "text_similarity": 0.5, "kept_db": 38.0}
    (reason,) = policy.decide(row, JudgeSpec.none().model_copy(update={"least_confidence": 0.5}), made).reasons
    assert reason.startswith("confidence 0.0") and reason.endswith("most of all for text contrast")


def test_too_few_labels_are_refused() -> None:
    """The sentence says how many of each there are."""
    rows, _ = drawn(20)
    with pytest.raises(BadSpec, match="3 accepted and 17 rejected"):
        policy.fit(rows, [i < 3 for i in range(20)])


def test_a_calibration_survives_its_file(tmp_path: Path) -> None:
    """What is written is what is read."""
    made = policy.fit(*drawn(60))
    (tmp_path / "c.json").write_text(json.dumps(made.as_json()))
    assert policy.read_calibration(tmp_path / "c.json") == made


BROKEN = {
    "no file": None,
    "no JSON": "{",
    "a list": "[]",
    "no bias": '{"weights": {}, "centres": {}, "scales": {}, "limits": {}}',
    "unknown part": '{"weights": {"a*b": 1}, "centres": {"a": 0}, "scales": {"a": 1}, "limits": {}, "bias": 0}',
    "no scale": '{"weights": {"a": 1}, "centres": {"a": 0}, "scales": {"a": 0}, "limits": {}, "bias": 0}',
    "text": '{"weights": {"a": "x"}, "centres": {"a": 0}, "scales": {"a": 1}, "limits": {}, "bias": 0}',
}


@pytest.mark.parametrize("content", BROKEN.values(), ids=BROKEN)
def test_a_broken_calibration_is_refused(content: str | None, tmp_path: Path) -> None:
    """One sentence that names the setting and the file."""
    if content is not None:
        (tmp_path / "c.json").write_text(content)
    with pytest.raises(BadSpec, match=r"field judge.calibration: '.*c.json' can't be used"):
        policy.read_calibration(tmp_path / "c.json")


@pytest.mark.parametrize(("precision", "limit"), [(1.0, 0.8), (0.75, 0.6), (0.5, 0.5)])
def test_the_limit_is_the_lowest_with_that_precision(precision: float, limit: float) -> None:
    """By hand: confidences 0.9, 0.8, 0.7, 0.6, 0.5 of good, good, bad, good, bad edits."""
    confidence, good = np.array([0.9, 0.8, 0.7, 0.6, 0.5]), np.array([True, True, False, True, False])
    assert policy.limit_for(confidence, good, precision) == limit
