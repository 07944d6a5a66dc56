"""Figures of benchmarks: means and intervals over clips, the table, what is measured again, and benchmark.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import benchmark_layouts as layouts
import numpy as np
import pytest
from benchmark_runs import make_run, prepared
from PIL import Image

from cogvideo_core.benchmarks import frames, scoring
from cogvideo_core.benchmarks.cases import Case
from cogvideo_core.benchmarks.frames import read_mask
from cogvideo_core.benchmarks.layout import LaidOut, lay_out
from cogvideo_core.benchmarks.prepare import Prepared
from cogvideo_core.benchmarks.result import figure, lines, score, table_of
from cogvideo_core.benchmarks.scoring import Scored, sample_of, score_edits
from cogvideo_core.media import video
from cogvideo_core.settings.metric_specs import MetricSpec


def scored(clip: str, kind: str, value: float) -> Scored:
    return Scored(Case(f"{clip}{kind}{value}", clip, "", "t", kind, "p"), {"mse": value})


@pytest.fixture
def run(tmp_path: Path) -> tuple[Prepared, Path, LaidOut]:
    """FiVE's copy, run by a stand-in and laid out."""
    (folder := tmp_path / "data").mkdir()
    layouts.five(folder)
    found = prepared("five", folder, root := tmp_path / "out")
    make_run(found, root)
    return found, root, lay_out(found, str(root))


def test_a_figure_is_the_mean_over_edits() -> None:
    """Hand-worked: clips with one and three edits; each edit counts once."""
    found = figure([("a", 1.0), ("b", 2.0), ("b", 3.0), ("b", 6.0)])
    assert found.mean == pytest.approx(3.0) and (found.edits, found.clips) == (4, 2)


def test_an_interval_is_over_clips() -> None:
    """Edits of one clip are alike: ten times the same edits of two clips are no more certain than one of each."""
    few = figure([("a", 0.0), ("b", 1.0)])
    many = figure([(clip, value) for clip, value in (("a", 0.0), ("b", 1.0)) for _ in range(10)])
    assert (few.low, few.high) == (many.low, many.high) == (0.0, 1.0)
    assert figure([("a", 1.0)] * 5).low is None


def test_an_interval_is_that_of_an_independent_bootstrap() -> None:
    """With one edit a clip: percentiles of resampled means, by a plain loop of our own with other draws."""
    values = np.random.default_rng(3).normal(5, 2, 40)
    found = figure([(str(number), float(value)) for number, value in enumerate(values)])
    rng = np.random.default_rng(7)
    means = sorted(np.mean([values[rng.integers(40)] for _ in range(40)]) for _ in range(4000))
    assert found.low == pytest.approx(means[100], abs=0.1) and found.high == pytest.approx(means[3900], abs=0.1)


def test_the_table_has_all_edits_and_each_kind() -> None:
    """In the scale of the published tables (MSE times 10,000); one kind alone is not shown twice."""
    table = table_of([scored("a", "colour", 0.1), scored("b", "shape", 0.3)])
    assert list(table) == ["all", "colour", "shape"]
    assert table["all"]["mse"].mean == pytest.approx(2000) and table["shape"]["mse"].mean == pytest.approx(3000)
    assert list(table_of([scored("a", "colour", 0.1)])) == ["all"] and table_of([]) == {"all": {}}


def test_edits_are_compared_with_the_benchmarks_own_frames(run: tuple[Prepared, Path, LaidOut]) -> None:
    """As far as the edit goes, in the source's size, with its mask, prompts, and the answers that success gives."""
    found, _, _ = run
    sample = sample_of(found, found.cases[0], found.place / "results")
    own = np.asarray(Image.open(Path(found.cases[0].clip) / "00009.jpg").convert("RGB"))
    assert sample.source.shape == sample.edit.shape == (9, 48, 48, 3)
    assert (sample.source[8] == own).all()
    assert sample.mask is not None and sample.mask[:, :, :24].all() and not sample.mask[:, :, 24:].any()
    assert [question.answer for question in sample.questions] == ["no", "yes", "b"]
    assert (sample.source_prompt, sample.target_prompt) == (layouts.SOURCE, layouts.SQUARE)


def test_masks_of_labels_and_too_few_masks(tmp_path: Path) -> None:
    """DAVIS: any label is marked, whatever its colour; where there are fewer masks than frames, there is none."""
    (folder := tmp_path / "data").mkdir()
    layouts.davis(folder)
    labels = folder / "Annotations" / "480p" / "ball"
    mask = read_mask(labels, 9, (24, 24))
    assert mask is not None and mask[:, :, :12].all() and not mask[:, :, 12:].any()
    assert read_mask(labels, layouts.COUNT + 1, (24, 24)) is None


def test_psnr_outside_is_measured_by_hand(run: tuple[Prepared, Path, LaidOut]) -> None:
    """Of what lies on disk: the mask's inside black in both, FiVE's every eighth frame, mean over frames."""
    found, root, laid = run
    result = score(found, MetricSpec(), laid, str(root))
    expected = []
    for case in found.cases:
        edits = sorted((found.place / "results" / case.place).iterdir())[::8]
        for path, own in zip(edits, sorted(Path(case.clip).iterdir())[::8], strict=False):
            edit, source = (np.asarray(Image.open(each).convert("RGB")).astype(float) / 255 for each in (path, own))
            edit, source = (np.where(np.arange(48)[None, :, None] < 24, 0, each) for each in (edit, source))
            expected.append(-10 * np.log10(((edit - source) ** 2).mean()))
    assert len(expected) == 4
    assert result.table["all"]["psnr_unedit_part"].mean == pytest.approx(np.mean(expected), abs=1e-4)


def test_the_result_file_says_what_was_measured(run: tuple[Prepared, Path, LaidOut]) -> None:
    """Versions, hashes of model, recipe, data and edits, scores with intervals by kind, what failed and why, and what
    was not measured."""
    found, root, laid = run
    laid = laid._replace(failed={"edit9/0": "clip 'x': there is no such file"})
    result = score(found, MetricSpec(), laid, str(root))
    about = json.loads((found.place / "benchmark.json").read_text())
    assert result.file == found.place / "benchmark.json" and about["benchmark"] == "five"
    assert about["versions"]["torch"] and about["versions"]["python"]
    assert about["data"] == {"edits": 2, "clips": 2, "sha256": found.data_sha256}
    assert about["run"]["model_fingerprint"] == "m" and about["run"]["recipe_fingerprint"] == "one"
    assert len(about["run"]["edits_sha256"]) == 64
    assert about["edits"] == {"scored": 2, "failed": 1, "why": {"edit9/0": "clip 'x': there is no such file"}}
    assert about["scores"].keys() == {"all", "object (rigid)", "colour"}
    assert about["scores"]["all"]["psnr_unedit_part"].keys() == {"mean", "low", "high", "edits", "clips"}
    assert "five_acc" in about["metrics"]["unmeasured"] and about["metrics"]["settings"]["stride"] == 8
    assert about["metrics"]["own"]["psnr_unedit_part"] is True
    assert about["edits_may_use_masks"] is False


def test_what_was_measured_is_not_measured_again(
    run: tuple[Prepared, Path, LaidOut], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second score reads figures back, until an edit, a model or a prompt changes."""
    found, _, _ = run
    first = score_edits(found, None, MetricSpec())
    calls: list[Any] = []
    real = scoring.measured
    monkeypatch.setattr(scoring, "measured", lambda *given: calls.append(given) or real(*given))
    assert score_edits(found, None, MetricSpec()) == first and not calls
    score_edits(found, None, MetricSpec(frames=2))
    assert len(calls) == 2
    picture = found.place / "results" / found.cases[0].place / "00001.png"
    Image.fromarray(np.zeros((48, 48, 3), np.uint8)).save(picture)
    score_edits(found, None, MetricSpec(frames=2))
    assert len(calls) == 3


def test_another_methods_results_are_scored(run: tuple[Prepared, Path, LaidOut], tmp_path: Path) -> None:
    """A folder in the evaluator's layout, of other frames and size; what is missing there has failed."""
    found, _, _ = run
    (other := tmp_path / "theirs" / found.cases[0].place).mkdir(parents=True)
    for number in range(1, 5):
        Image.new("RGB", (96, 96), (number, 0, 0)).save(other / f"{number:05d}.jpg")
    result = score(found, MetricSpec(), results=tmp_path / "theirs")
    assert result.failed.keys() == {found.cases[1].id} and "not among the results" in result.failed[found.cases[1].id]
    assert result.file == found.place / "benchmark-theirs.json"
    assert json.loads(result.file.read_text())["run"] == {}
    assert result.table["all"]["psnr_unedit_part"].edits == 1


def test_a_damaged_picture_fails_its_edit_alone(run: tuple[Prepared, Path, LaidOut]) -> None:
    """Its sentence names the folder; the other edits have figures."""
    found, _, _ = run
    (found.place / "results" / found.cases[0].place / "00003.png").write_bytes(b"no picture")
    outcome = score_edits(found, None, MetricSpec())
    assert len(outcome.scored) == 1 and "00003.png" in outcome.failed[found.cases[0].id]


def test_no_more_is_read_than_memory_may_hold(
    run: tuple[Prepared, Path, LaidOut], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Results may come from anyone: of a longer folder or video the first frames are compared."""
    found, _, _ = run
    monkeypatch.setattr(frames, "MOST_BYTES", 4 * 48 * 48 * 3)
    assert len(sample_of(found, found.cases[0], found.place / "results").edit) == 4
    video.encode(np.zeros((9, 48, 48, 3), np.uint8), movie := found.place / "long.mp4", 8)
    assert len(frames.read_frames(movie)) == 4 and len(frames.read_frames(movie, 2)) == 2


def test_the_table_names_columns_as_the_benchmark_does(run: tuple[Prepared, Path, LaidOut]) -> None:
    """With factor and direction; a metric that is not the benchmark's own is marked, unmeasured ones are left out."""
    found, root, laid = run
    head, *rows = lines(found, score(found, MetricSpec(), laid, str(root)))
    assert head[:2] == ["edits", "n"] and "MSE outside ×10000 ↓" in head
    assert any("Motion fidelity" in name and "(ours)" in name for name in head)
    assert [row[:2] for row in rows] == [["all", "2"], ["object (rigid)", "1"], ["colour", "1"]]
    assert all(len(row) == len(head) for row in rows)
