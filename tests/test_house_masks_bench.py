"""The list of clips on which masks are judged."""

from __future__ import annotations

import importlib.util
from pathlib import Path

LIST_HASH = "bfcedc40dfe45c1d504e53e3ce02a8b4514a89eb826aac1d83f6b05a44fff96d"
BENCH = Path(__file__).parent / "benchmarks" / "masks.py"


def test_the_list_of_local_edits_is_frozen() -> None:
    """126 edits of 42 held-out clips, fixed before any setting of masks was chosen."""
    spec = importlib.util.spec_from_file_location("masks_bench", BENCH)
    assert spec and spec.loader
    bench = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(bench)
    assert bench.list_hash() == LIST_HASH
    assert sum(len(bench.listed(number)) for number in range(bench.CLIPS)) == 126
