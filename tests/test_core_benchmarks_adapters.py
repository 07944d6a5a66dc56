"""Adapters of benchmarks: published layouts become cases and manifest rows, and hostile ones one sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import benchmark_layouts as layouts
import pytest
import yaml
from benchmark_layouts import BLUE, SOURCE, SQUARE

from cogvideo_core.benchmarks.cases import Case, Form, unique
from cogvideo_core.benchmarks.registry import BENCHMARKS, benchmark_of
from cogvideo_core.errors import BadManifest, BadSpec
from cogvideo_core.judging.metrics.table import METRICS

WANTED = {  # id: clip, source prompt, target prompt, kind, place
    "tgve": {
        "DAVIS_480p/ball/style": (
            *("DAVIS_480p/480p_frames/ball", SOURCE, "a red circle, sketched", "style"),
            "DAVIS_480p/ball/style",
        ),
        "videvo_480p/dot/multiple": (
            *("videvo_480p/480p_videos/dot.mp4", SOURCE, "a blue square on stripes", "multiple"),
            "videvo_480p/dot/multiple",
        ),
    },
    "v2vbench": {
        "ball/0": ("frames/ball", SOURCE, SQUARE, "object", "edited_videos/ball/0"),
        "dot/1": ("frames/dot", SOURCE, BLUE, "attribute", "edited_videos/dot/1"),
    },
    "five": {
        "edit1/0": ("images/0001_ball", SOURCE, SQUARE, "object (rigid)", "0001_ball/1_square"),
        "edit3/0": ("images/0002_dot", SOURCE, BLUE, "colour", "0002_dot/3_blue"),
    },
    "editverse": {
        "0": ("videos/ball.mp4", SOURCE, SQUARE, "change object", "0/generate.mp4"),
        "7": ("videos/dot.mp4", SOURCE, BLUE, "stylization", "7/generate.mp4"),
    },
    "ivebench": {
        "0": ("ball", SOURCE, SQUARE, "subject", "target_videos/ball"),
        "1": ("dot", SOURCE, BLUE, "attribute", "target_videos/dot"),
    },
    "davis": {
        "ball/square": ("JPEGImages/480p/ball", SOURCE, SQUARE, "all", "JPEGImages/480p/ball/square"),
        "dot/0": ("JPEGImages/480p/dot", SOURCE, BLUE, "all", "JPEGImages/480p/dot/0"),
    },
}
COUNTS = {"tgve": 8, "v2vbench": 4, "five": 2, "editverse": 2, "ivebench": 2, "davis": 2}


def read(name: str, folder: Path) -> dict[str, Case]:
    """The cases of a made copy of a benchmark, by id."""
    folder.mkdir()
    prompts = layouts.LAYOUTS[name](folder)
    return {case.id: case for case in BENCHMARKS[name].read(folder.resolve(), prompts)}


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_published_layout_becomes_cases(name: str, tmp_path: Path) -> None:
    """Clips, prompts, kinds and places are those of the layout, and every edit that it asks for is there."""
    folder = tmp_path / "data"
    found = read(name, folder)
    assert len(found) == COUNTS[name]
    for key, (clip, *rest) in WANTED[name].items():
        case = found[key]
        assert Path(case.clip) == (folder / clip).resolve()
        assert [case.source_prompt, case.target_prompt, case.edit_type, case.place] == rest


def test_five_brings_masks_and_questions(tmp_path: Path) -> None:
    """The folder of masks, and the three questions with the lines of their answers; an item may have none."""
    found = read("five", tmp_path / "data")
    assert Path(found["edit1/0"].mask).name == "0001_ball"
    assert dict(found["edit1/0"].questions) == {
        "source_yes_no": "Is there a circle in the video?",
        "target_yes_no": "Is there a square in the video?",
        "multiple_choice": "What is in the video?\na) A circle\nb) A square",
    }
    assert found["edit3/0"].questions == ()


def test_instructions_lose_their_tags_and_other_sources_are_told(tmp_path: Path) -> None:
    """EditVerse: `<video1>` is no word of an instruction; an edit that wants an image as well says so."""
    found = read("editverse", tmp_path / "data")
    assert found["0"].instruction == "Make it a square"
    assert dict(found["7"].more) == {"direction": "horizontal", "other_sources": "<image1>"}
    assert found["0"].source_place == "0/video1.mp4"


def test_tgve_is_read_from_a_yaml_file_for_each_clip(tmp_path: Path) -> None:
    """As the benchmark's repository has them, beside the data or in its own folders."""
    layouts.frames(
        tmp_path / "data" / "loveu-tgve-2023" / "DAVIS_480p" / "480p_frames" / "ball", layouts.clip(0), "jpg"
    )
    config = tmp_path / "configs" / "loveu-tgve-2023" / "DAVIS_480p" / "ball.yaml"
    config.parent.mkdir(parents=True)
    prompts = {"style": "a sketch", "object": SQUARE, "background": "a red circle at night", "multiple": BLUE}
    train = {"prompt": SOURCE, "video_path": "/nowhere"}
    config.write_text(yaml.safe_dump({"train_data": train, "validation_data": {"prompts": prompts}}))
    found = BENCHMARKS["tgve"].read(tmp_path.resolve(), "")
    assert [(case.edit_type, case.target_prompt) for case in found] == list(prompts.items())
    assert Path(found[0].clip).is_dir()


def five_item(folder: Path, **changed: object) -> str:
    """Changes the first item of FiVE's first list; returns the file's name."""
    file = folder / "edit_prompt" / "edit1_FiVE.json"
    item = json.loads(file.read_text())[0] | changed
    file.write_text(json.dumps([{name: value for name, value in item.items() if value is not None}]))
    return file.name


HOSTILE: dict[str, tuple[str, Callable[[Path], str], str]] = {
    "a clip that climbs out": ("five", lambda f: five_item(f, video_name="../../etc"), "field video_name"),
    "a place that climbs out": ("five", lambda f: five_item(f, save_dir="../../../x"), "field save_dir"),
    "an absolute place": ("five", lambda f: five_item(f, save_dir="a//b"), "field save_dir"),
    "no target prompt": ("five", lambda f: five_item(f, target_prompt=None), "field target_prompt"),
    "a prompt that is a list": ("five", lambda f: five_item(f, target_prompt=["x"]), "field target_prompt"),
    "a prompt without end": ("five", lambda f: five_item(f, target_prompt="x" * 3000), "field target_prompt"),
    "a question that is an object": ("five", lambda f: five_item(f, source_yes_no_question={"a": 1}), "source_yes_no"),
    "control characters": ("five", lambda f: five_item(f, source_prompt="a\x00b"), "field source_prompt"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_a_field_that_cannot_be_used_is_one_sentence(case: str, tmp_path: Path) -> None:
    """It names the file and the field, and says what to do."""
    name, change, field = HOSTILE[case]
    (folder := tmp_path / "data").mkdir()
    layouts.LAYOUTS[name](folder)
    file = change(folder)
    with pytest.raises(BadManifest) as caught:
        BENCHMARKS[name].read(folder.resolve(), "")
    sentence = str(caught.value)
    assert file in sentence and field in sentence and "; " in sentence and "\n" not in sentence


BOMB = "a0: &a0 [x, x]\n" + "".join(f"a{n}: &a{n} [*a{n - 1}, *a{n - 1}]\n" for n in range(1, 60)) + "data: *a59\n"


@pytest.mark.parametrize(
    ("name", "file", "text"),
    [
        ("v2vbench", "config.yaml", "data: !!python/object/apply:os.system ['true']"),
        ("v2vbench", "config.yaml", "data: [{video_id: a/../b, edit: [{prompt: x}]}]"),
        ("v2vbench", "config.yaml", "data: 3"),
        ("v2vbench", "config.yaml", BOMB),
        ("v2vbench", "config.yaml", "data: [{video_id: ball, edit: none}]"),
        ("editverse", "test.json", "["),
        ("editverse", "test.json", '{"../x": {"<video1>": "videos/ball.mp4", "target_prompt": "x"}}'),
        ("editverse", "test.json", '{"0": {"<video1>": "/etc/passwd", "target_prompt": "x"}}'),
        ("editverse", "test.json", '{"0": {"<video1>": "../../x.mp4", "target_prompt": "x"}}'),
        ("editverse", "test.json", "[" * 100_000),
        ("ivebench", "IVEBench_short.json", '[{"src_video_name": "../a.mp4", "id": 1, "target_prompt": "x"}]'),
        ("ivebench", "IVEBench_short.json", '[{"src_video_name": "ball", "id": [1], "target_prompt": "x"}]'),
        ("tgve", "LOVEU-TGVE-2023_Dataset.csv", "Video name,Our GT caption\nball,x\n"),
        ("davis", "../prompts.csv", "clip,target_prompt\n../ball,x\n"),
        ("davis", "../prompts.csv", "clip,target_prompt\nball,\n"),
    ],
)
def test_a_list_that_cannot_be_used_is_one_sentence(name: str, file: str, text: str, tmp_path: Path) -> None:
    """Broken, too deep, with objects of Python, or with names that lead out: the file is named, and nothing is run."""
    (folder := tmp_path / "data").mkdir()
    prompts = layouts.LAYOUTS[name](folder)
    (folder / file).write_text(text)
    with pytest.raises(BadManifest) as caught:
        BENCHMARKS[name].read(folder.resolve(), prompts)
    assert Path(file).name in str(caught.value) and "\n" not in str(caught.value)


def test_a_link_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    """A clip's folder that is a link to somewhere else is not read."""
    (folder := tmp_path / "data").mkdir()
    layouts.five(folder)
    (tmp_path / "secret").mkdir()
    (folder / "images" / "0003_out").symlink_to(tmp_path / "secret")
    five_item(folder, video_name="0003_out")
    with pytest.raises(BadManifest, match=r"field video_name.*leads out of"):
        BENCHMARKS["five"].read(folder.resolve(), "")


def test_a_huge_list_is_not_read(tmp_path: Path) -> None:
    """The limit is checked before the file is opened."""
    (folder := tmp_path / "data").mkdir()
    layouts.v2vbench(folder)
    with open(folder / "config.yaml", "ab") as file:
        file.truncate(9_000_000)
    with pytest.raises(BadManifest, match="more than 8 MB"):
        BENCHMARKS["v2vbench"].read(folder.resolve(), "")


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_wrong_folder_is_one_sentence(name: str, tmp_path: Path) -> None:
    """It says what was looked for."""
    with pytest.raises(BadManifest):
        BENCHMARKS[name].read(tmp_path, "")


def test_an_unknown_benchmark_gets_the_nearest_name() -> None:
    """A typing error is answered with what was meant."""
    with pytest.raises(BadSpec, match="did you mean tgve"):
        benchmark_of("tgvee")


def test_entries_with_one_place_are_left_out() -> None:
    """An evaluator sees one of them; the first stays."""
    case = Case("a", "c", "", "x", "all", "p")
    kept, left_out = unique([case, case._replace(id="b"), case._replace(id="d", place="q")])
    assert [each.id for each in kept] == ["a", "d"] and [each.id for each in left_out] == ["b"]


def test_frame_numbers_sort_as_numbers_do() -> None:
    """Also where a form's digits do not suffice."""
    names = Form("png", digits=2).names(120)
    assert names == sorted(names) and names[0] == "000.png" and Form("png", digits=2).names(9)[0] == "00.png"


def test_a_case_survives_json() -> None:
    """What is written for later scoring is what was prepared."""
    case = Case("a", "c", "s", "t", "all", "p", questions=(("target_yes_no", "?"),), more=(("x", "y"),))
    assert Case.from_json(json.loads(json.dumps(case.as_json()))) == case


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_column_is_a_metric(name: str) -> None:
    """No table has a column that nothing can fill."""
    assert {column.metric for column in BENCHMARKS[name].columns} <= METRICS.keys()
