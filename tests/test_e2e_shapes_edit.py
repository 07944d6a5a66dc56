"""The shipped model on the ShapesEdit bench, with floors that a method which stopped working falls through."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("bench"), pytest.mark.timeout(900)]
BENCH = Path(__file__).parent / "benchmarks" / "shapes_edit.py"


@pytest.fixture(scope="module")
def rows() -> dict[str, dict[str, Any]]:
    """Four clips, five edits each, with the default recipe and without any reference."""
    command = [sys.executable, str(BENCH), "--limit", "4", "--recipe", "balanced", "--recipe", "text"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=800, check=True)
    return {row["recipe"]: row for row in json.loads(done.stdout.splitlines()[-1])["rows"]}


def test_the_default_recipe_edits(rows: dict[str, dict[str, Any]]) -> None:
    """Colours and shapes come out as asked, and backgrounds that are to stay do: four edits in five. The fifth asks for
    another pattern, which this model does not draw."""
    assert rows["balanced"]["colour"] >= 0.85
    assert rows["balanced"]["background"] >= 0.75
    assert rows["balanced"]["motion"] >= 0.9
    assert rows["balanced"]["shape"] >= 0.7
    assert rows["balanced"]["bg_psnr_below_vae"] <= 7


def test_the_reference_keeps_the_source(rows: dict[str, dict[str, Any]]) -> None:
    """Beside plain text to video, the default recipe keeps far more of the background and of the motion's place."""
    assert rows["balanced"]["bg_psnr"] >= rows["text"]["bg_psnr"] + 6
    assert rows["balanced"]["preserved_iou"] >= rows["text"]["preserved_iou"] + 0.1
    assert rows["balanced"]["score"] > rows["text"]["score"]
