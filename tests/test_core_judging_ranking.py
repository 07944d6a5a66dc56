"""The rank of each candidate of a prompt: from confidences or from scores, with a person's word first."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvideo_core.judging.ranking import Candidate, groups_of, ranked
from cogvideo_core.settings.judge_specs import JudgeSpec

SPEC = JudgeSpec(text="shapes")


def places(*candidates: Candidate, spec: JudgeSpec = SPEC) -> list[int]:
    return [rank.rank for rank in ranked(candidates, spec)]


def test_confidence_ranks_those_that_passed_first() -> None:
    """A rejected candidate stands below every one that passed, however confident the judge was."""
    assert places(Candidate(False, 0.4, {}), Candidate(True, 0.9, {}), Candidate(False, 0.6, {})) == [2, 3, 1]


def test_what_a_person_prefers_is_first() -> None:
    """Also where the judge rejected it."""
    assert places(Candidate(False, 0.9, {}), Candidate(True, 0.1, {}, preferred=True)) == [2, 1]


def test_without_confidences_scores_are_weighed() -> None:
    """By hand: text 2 of 4 parts, preserved 1, motion 1; each candidate beats the other in what it is better at."""
    bold = Candidate(False, None, {"text_similarity": 0.3, "kept_db": 20.0, "motion_agreement": 0.5})
    tame = Candidate(False, None, {"text_similarity": 0.2, "kept_db": 30.0, "motion_agreement": 0.5})
    text, preserved, motion = 2.0, 1.0, 1.0  # of what was measured in each part
    total = text + preserved + motion
    found = ranked([bold, tame], SPEC)
    assert [rank.rank for rank in found] == [1, 2]
    assert found[0].score == pytest.approx((text + motion / 2) / total, abs=1e-4)
    assert places(bold, tame, spec=JudgeSpec(text="shapes", weight_text=0.1)) == [2, 1]


def test_nothing_measured_keeps_the_order() -> None:
    """Unjudged candidates rank as they were planned, each with one half."""
    found = ranked([Candidate(False, None, {})] * 3, SPEC)
    assert [(rank.rank, rank.score) for rank in found] == [(1, 0.5), (2, 0.5), (3, 0.5)]


@given(st.lists(st.builds(Candidate, st.booleans(), st.none() | st.floats(0, 1), st.just({})), min_size=1, max_size=9))
def test_ranks_are_a_permutation(candidates: list[Candidate]) -> None:
    """Of any candidates each place is given once, and every figure is a share."""
    found = ranked(candidates, SPEC)
    assert sorted(rank.rank for rank in found) == list(range(1, len(candidates) + 1))
    assert all(0 <= rank.score <= 1 for rank in found)


def test_groups_keep_the_order_of_their_first_rows() -> None:
    """Rows that agree in the named columns are one group."""
    rows = [{"a": 1, "b": 2}, {"a": 2, "b": 2}, {"a": 1, "b": 2}]
    assert groups_of(rows, ["a", "b"]) == [[0, 2], [1]]
