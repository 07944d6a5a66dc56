"""Odd clips, rows and model folders give what is right, or one sentence; nothing is silently wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from odd_cases import REFUSED, RIGHT, Case, all_cases


@pytest.mark.parametrize("case", all_cases(), ids=lambda case: f"{case.section}-{case.name}")
def test_an_odd_input_is_right_or_refused(case: Case, tmp_path: Path) -> None:
    """Each odd input is used as it should be, or refused with one sentence where that is right."""
    assert case.judge(tmp_path) in (RIGHT, REFUSED), case.expected
