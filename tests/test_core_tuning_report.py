"""What a search leaves under a root: a recipe file that works, a page that is safe, and a JSON with the figures."""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import test_core_tuning_search as made_up
import yaml

from cogvideo_core.settings.presets import PRESETS
from cogvideo_core.settings.recipe_files import read_recipe
from cogvideo_core.tuning import report
from cogvideo_core.tuning.preparing import Prepared
from cogvideo_core.tuning.search import Found

HOSTILE = "<script>alert(1)</script>"


class Written(NamedTuple):
    root: Path
    told: dict[str, Any]
    found: Found


def written(root: Path, trials: int) -> Written:
    search = made_up.search(f"memory://report/{uuid.uuid4().hex}", made_up.Made())
    search.spec = search.spec.model_copy(update={"trials": trials})
    found = search.run()
    records = [{"clip": f"{n}{HOSTILE}.mp4", "target_prompts": [HOSTILE]} for n in range(8)]
    ready = Prepared({20: records}, 6, 2, [f"clip {HOSTILE!r} can't be used"])
    return Written(root, report.write(str(root), search, found, ready), found)


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory) -> Written:
    return written(tmp_path_factory.mktemp("root"), 9)


def test_the_recipe_file_is_the_pick(done: Written) -> None:
    """Read back, it is the trial's recipe, with its number of steps for the inversion."""
    read = read_recipe(done.root / "tune" / "recipe.yaml")
    assert done.found.pick is not None
    assert read.recipe == done.found.pick.point.recipe and read.recipe.name == "tuned"
    assert read.inversion["steps"] == done.found.pick.steps


def test_the_json_has_the_figures(done: Written) -> None:
    """Counts add up, the front is not dominated, intervals hold their means, the curve covers all layers."""
    told = json.loads((done.root / "tune" / "tune.json").read_text())
    assert told == json.loads(json.dumps(done.told))
    counts = told["counts"]
    assert counts["trials"] == 9 == counts["complete"] + counts["pruned"] + counts["failed"]
    assert told["pick"]["number"] in [one["number"] for one in told["front"]]
    for part in ("tuning", "held_out"):
        mean, low, high = told["pick_minus_preset"][part]["text"]
        assert low <= mean <= high
    assert [one["layers"] for one in told["layers"]] == [[0, 2], [3, 5]]
    assert [one["text"] for one in told["layers"]] == pytest.approx([-0.003, -0.003])
    assert told["confirmed"] == "yes"
    assert [one["part"] for one in told["clips"]] == ["tuning"] * 6 + ["held out"] * 2


def test_the_page_is_whole_and_safe(done: Written) -> None:
    """It shows pick, front, sheets and layers, in one file without scripts, and escapes what people wrote."""
    page = (done.root / "tune" / "index.html").read_text()
    assert HOSTILE not in page and "&lt;script&gt;" in page and "<script" not in page
    for words in ("The pick is", "held-out clips", "Pareto front", "Contact sheets", "Which layers", "All trials"):
        assert words in page, words
    assert not re.findall(r'(?:src|href)="(?!data:image/)', page)
    assert page.count("data:image/jpeg") == 4 * (1 + len(done.told["front"]))
    for name in ("front.png", "layers.png"):
        assert (done.root / "tune" / name).read_bytes().startswith(b"\x89PNG")


def test_without_a_better_recipe_the_preset_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file then holds the preset, and the page says so."""
    monkeypatch.setattr("cogvideo_core.tuning.search.picked", lambda *_: None)
    one = written(tmp_path, 1)
    assert one.told["pick"] is None and one.told["pick_minus_preset"] is None
    text = (tmp_path / "tune" / "recipe.yaml").read_text()
    assert yaml.safe_load(text)["recipe"] == PRESETS["balanced"].as_json() and "this is the preset" in text
    assert "so it stays" in (tmp_path / "tune" / "index.html").read_text()
