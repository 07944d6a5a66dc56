"""A benchmark there and back: prepared, run by a stand-in without a model, laid out, read as its evaluator does."""

from __future__ import annotations

import json
from pathlib import Path

import benchmark_layouts as layouts
import numpy as np
import pytest
from benchmark_layouts import BLUE, COUNT, SQUARE
from benchmark_runs import FIRST, FPS, FRAMES, READERS, SHAPES, level, make_run, prepared

from cogvideo_core.benchmarks.layout import lay_out
from cogvideo_core.benchmarks.prepare import Chosen, Prepared, fitting, prepared_of
from cogvideo_core.errors import BadManifest, BadSpec

NAMES = list(READERS)


def made(name: str, tmp_path: Path, chosen: Chosen = Chosen()) -> tuple[Path, Path, Prepared]:  # noqa: B008 - frozen
    """(the benchmark's folder, the run's root, what was prepared)."""
    folder, root = tmp_path / "data", tmp_path / "out"
    folder.mkdir()
    prompts = layouts.LAYOUTS[name](folder)
    return folder, root, prepared(name, folder, root, chosen._replace(prompts=prompts))


@pytest.mark.parametrize("name", NAMES)
def test_there_and_back(name: str, tmp_path: Path) -> None:
    """Every edit lies where the evaluator reads it, with its frames in their order, in the size that it expects."""
    folder, root, found = made(name, tmp_path)
    make_run(found, root)
    laid = lay_out(found, str(root))
    assert laid.failed == {} and laid.written == len(found.cases)
    results = found.place / "results"
    read = READERS[name](results, folder)
    assert read.keys() == {case.id for case in found.cases}
    for case in found.cases:
        edit = read[case.id].astype(float)
        assert edit.shape == (FRAMES, *SHAPES[name], 3)
        told = [level(case.target_prompt, frame) for frame in range(FRAMES)]
        assert np.abs(edit[..., 0].mean((1, 2)) - told).max() < 4
        assert np.abs(edit[..., 1].mean() - 100) < 4
        if name in FIRST:
            assert sorted(path.name for path in (results / case.place).iterdir())[0] == FIRST[name]


@pytest.mark.parametrize("name", NAMES)
def test_rows_carry_what_the_benchmark_says(name: str, tmp_path: Path) -> None:
    """Ids, kinds and questions are the row's own columns; frames of a folder come at the model's rate; masks serve
    edits only where that is asked for."""
    _, _, found = made(name, tmp_path, Chosen(masks=name == "five"))
    rows = [json.loads(line) for line in found.manifest.read_text().splitlines()]
    assert [row["benchmark_id"] for row in rows] == [case.id for case in found.cases]
    assert [row["edit_type"] for row in rows] == [case.edit_type for case in found.cases]
    assert {row.get("fps") for row in rows} <= {str(FPS), None}
    assert all(("fps" in row) == Path(row["clip"]).is_dir() for row in rows)
    assert all(("mask" in row) == (name == "five") for row in rows)
    if name == "five":
        assert rows[0]["question_target_yes_no"] == "Is there a square in the video?"
        assert rows[0]["benchmark_mask"] == "bmasks/0001_ball" and rows[0]["mask"].endswith("/data/bmasks/0001_ball")


def test_what_lies_there_is_not_written_again(tmp_path: Path) -> None:
    """The second time nothing is decoded; an edit of another recipe takes the place of the first one."""
    _, root, found = made("five", tmp_path)
    make_run(found, root)
    lay_out(found, str(root))
    place = found.place / "results" / found.cases[0].place
    assert lay_out(found, str(root)).written == 0
    (place / "00004.png").unlink()
    assert lay_out(found, str(root)).written == 1 and (place / "00004.png").is_file()
    before = (place / "00001.png").stat().st_mtime_ns
    make_run(found, root, recipe="two")
    laid = lay_out(found, str(root))
    assert laid.written == 2 and {row["recipe"] for row in laid.rows.values()} == {"two"}
    assert (place / "00001.png").stat().st_mtime_ns > before


def test_no_edit_of_an_earlier_run_stays(tmp_path: Path) -> None:
    """Where the last run made no edit, the earlier one's is removed, counted as failed, and not in the lists."""
    _, root, found = made("v2vbench", tmp_path)
    make_run(found, root)
    lay_out(found, str(root))
    make_run(found, root, recipe="two", without=BLUE)
    laid = lay_out(found, str(root))
    results = found.place / "results"
    assert laid.failed.keys() == {"ball/1", "dot/1"}
    assert not (results / "edited_videos" / "ball" / "1").exists()
    assert (results / "edited_videos" / "ball" / "0").exists()
    assert "data: []" in (results / "config.yaml").read_text()


def test_a_list_never_names_what_does_not_lie_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a process ends while it lays another recipe's edits out, going back to the first recipe lays out anew."""
    from cogvideo_core.benchmarks import layout

    _, root, found = made("five", tmp_path)
    make_run(found, root)
    lay_out(found, str(root))
    make_run(found, root, recipe="two")
    real, calls = layout.write_frames, list[object]()
    monkeypatch.setattr(
        layout, "write_frames", lambda *given: calls.append(given) or real(*given) or 1 / (len(calls) - 1)
    )
    with pytest.raises(ZeroDivisionError):
        lay_out(found, str(root))
    monkeypatch.setattr(layout, "write_frames", real)
    make_run(found, root)
    assert lay_out(found, str(root)).written == 2


def test_an_edit_that_was_asked_for_twice_is_laid_out_twice(tmp_path: Path) -> None:
    """The run makes equal edits of one clip once; the evaluator looks for each of them."""
    (folder := tmp_path / "data").mkdir()
    layouts.five(folder)
    file = folder / "edit_prompt" / "edit1_FiVE.json"
    item = json.loads(file.read_text())[0]
    file.write_text(json.dumps([item, item | {"save_dir": "again"}]))
    found = prepared("five", folder, root := tmp_path / "out")
    make_run(found, root)
    assert lay_out(found, str(root)).failed == {}
    assert (found.place / "results" / "0001_ball" / "again" / "00001.png").is_file()


def test_kinds_and_clips_can_be_chosen(tmp_path: Path) -> None:
    """By name and from the first on; a wrong name is answered with the right ones."""
    _, _, found = made("tgve", tmp_path, Chosen(types=("style", "object"), limit=1))
    assert [case.id for case in found.cases] == ["DAVIS_480p/ball/style", "DAVIS_480p/ball/object"]
    with pytest.raises(BadSpec, match="there is no type 'styel'; there are style, object"):
        prepared("tgve", tmp_path / "data", tmp_path / "out", Chosen(types=("styel",)))


def test_the_frames_fit_the_shortest_clip() -> None:
    """8k+1 frames that every clip has, never more than the model's own; at least 9."""
    assert [fitting(49, [lengths]) for lengths in (200, 49, 48, 32, 24, 17, 9, 4)] == [49, 49, 41, 25, 17, 17, 9, 9]
    assert fitting(49, [100, 32]) == 25 and fitting(9, []) == 9


def test_a_folder_without_clips_is_refused(tmp_path: Path) -> None:
    """One missing clip fails in the run; where all are missing, the folder is the wrong one."""
    (folder := tmp_path / "data").mkdir()
    layouts.editverse(folder)
    (folder / "videos" / "ball.mp4").unlink()
    assert len(prepared("editverse", folder, tmp_path / "out").cases) == 2
    (folder / "videos" / "dot.mp4").unlink()
    with pytest.raises(BadManifest, match="none of its 2 clips exists"):
        prepared("editverse", folder, tmp_path / "out")


def test_what_was_prepared_is_found_again(tmp_path: Path) -> None:
    """By the root alone; with several benchmarks under it the name decides."""
    folder, root, found = made("davis", tmp_path)
    again = prepared_of(str(root))
    assert again.cases == found.cases and again.data_sha256 == found.data_sha256
    (other := tmp_path / "other").mkdir()
    layouts.five(other)
    prepared("five", other, root)
    with pytest.raises(BadSpec, match="there are davis, five; name one with --name"):
        prepared_of(str(root))
    assert prepared_of(str(root), "five").benchmark.name == "five"
    with pytest.raises(BadSpec, match="run one first"):
        prepared_of(str(folder))


def test_the_data_hash_knows_words_and_not_places(tmp_path: Path) -> None:
    """The same list in another folder has the same hash, a changed prompt another."""
    hashes = []
    for name in ("a", "b"):
        (folder := tmp_path / name / "data").mkdir(parents=True)
        layouts.five(folder)
        hashes.append(prepared("five", folder, tmp_path / name / "out").data_sha256)
    file = folder / "edit_prompt" / "edit1_FiVE.json"
    file.write_text(file.read_text().replace("moving right", "moving left"))
    assert hashes[0] == hashes[1] != prepared("five", folder, tmp_path / "out").data_sha256


def test_settings_that_move_pixels_are_refused(tmp_path: Path) -> None:
    """A cut or padded edit lies elsewhere than its clip; a remote root has no folder for evaluators."""
    from cogvideo_core.benchmarks.prepare import check_settings
    from cogvideo_core.benchmarks.registry import BENCHMARKS
    from cogvideo_core.settings.specs import DatasetSpec, OutputSpec

    five = BENCHMARKS["five"]
    with pytest.raises(BadSpec, match=r"dataset\.fit: crop"):
        check_settings(five, OutputSpec(), Chosen(), DatasetSpec())
    with pytest.raises(BadSpec, match="is remote"):
        check_settings(five, OutputSpec(root="s3://bucket/x"), Chosen(), DatasetSpec(fit="stretch"))
    with pytest.raises(BadSpec, match="leave out --prompts"):
        check_settings(five, OutputSpec(), Chosen(prompts="x.csv"), DatasetSpec(fit="stretch"))


def test_clips_are_those_of_the_layout(tmp_path: Path) -> None:
    """The copies that these tests are made on have clips of 12 frames, two of them, and prompts that differ."""
    (folder := tmp_path / "data").mkdir()
    layouts.ivebench(folder)
    assert len(list((folder / "ball").iterdir())) == COUNT and SQUARE != BLUE
