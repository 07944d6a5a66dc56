"""The lists of clips on which masks, and objects put in and taken out, are judged."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

MASKS = "bfcedc40dfe45c1d504e53e3ce02a8b4514a89eb826aac1d83f6b05a44fff96d"
OBJECTS = "9328d187ae6f6a9816a2284973d78195a47a3762adb85724fd2c8ebcb1baf277"


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> ModuleType:
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "benchmarks"))
    return importlib.import_module(request.param)


@pytest.mark.parametrize("bench", ["masks"], indirect=True)
def test_the_list_of_local_edits_is_frozen(bench: ModuleType) -> None:
    """126 edits of 42 held-out clips, fixed before they were measured."""
    assert bench.list_hash() == MASKS
    assert sum(len(bench.listed(number)) for number in range(bench.CLIPS)) == 126


@pytest.mark.parametrize("bench", ["objects"], indirect=True)
def test_the_list_of_objects_is_frozen(bench: ModuleType) -> None:
    """24 held-out clips, with an object and without."""
    assert bench.list_hash() == OBJECTS and bench.CLIPS == 24
