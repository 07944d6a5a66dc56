"""Pages that are made by a command are what the command makes today."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def refusals() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_refusals", ROOT / "docs" / "make_refusals.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_refusals_page_is_up_to_date(refusals: ModuleType) -> None:
    """`python docs/make_refusals.py` would write what stands there."""
    assert refusals.PAGE.read_text("utf-8") == refusals.page()


def test_the_refusals_page_has_what_is_raised(refusals: ModuleType) -> None:
    """Sentences that are raised at once, through a variable, and by a function that makes the error are all found."""
    text = refusals.page()
    for words in ("there is no such file", "is a git-LFS pointer"):
        assert words in text, words
    assert "| the file has zero bytes | fetch it again or remove it |" in text
