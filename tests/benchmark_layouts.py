"""Small copies of the benchmarks' published layouts, with clips and words of our own.

Each was written from the layouts' descriptions, not from the adapters: two clips of moving shapes, and two edits where
the benchmark has one of a clip.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml
from PIL import Image

from cogvideo_core.media import video
from cogvideo_core.shapes import world

SOURCE, SQUARE, BLUE = "a red circle moving right", "a red square moving right", "a blue circle moving right"


COUNT = 12  # frames of each clip


def clip(number: int) -> np.ndarray:
    """Frames uint8 [12,48,48,3] of a moving shape, which stands still at last."""
    made = world.render([edit.scene for edit in world.bench_edits(number + 1)][-1])
    return np.concatenate([made, made[-1:].repeat(COUNT - len(made), 0)])


def frames(folder: Path, pictures: np.ndarray, ending: str, first: int = 0, digits: int = 5) -> None:
    folder.mkdir(parents=True)
    for number, picture in enumerate(pictures, first):
        Image.fromarray(picture).save(folder / f"{number:0{digits}d}.{ending}", quality=95)


def mask() -> np.ndarray:
    """White in the left half: uint8 [12,48,48]."""
    made = np.zeros((COUNT, 48, 48), np.uint8)
    made[:, :, :24] = 255
    return made


def tgve(folder: Path) -> str:
    """A CSV with three headings; frames of DAVIS, an mp4 of videvo; four prompts each."""
    frames(folder / "DAVIS_480p" / "480p_frames" / "ball", clip(0), "jpg")
    (folder / "videvo_480p" / "480p_videos").mkdir(parents=True)
    video.encode(clip(1), folder / "videvo_480p" / "480p_videos" / "dot.mp4", 8)
    head = ["Video name", "Our GT caption", "Style Change Caption", "Object Change Caption"]
    head += ["Background Change Caption", "Multiple Changes Caption", "Source"]
    words = [SOURCE, "a red circle, sketched", SQUARE, "a red circle on stripes", "a blue square on stripes", "own"]
    rows = [["DAVIS Videos:"], ["ball", *words], [], ["Youtube Videos:"], [], ["Videvo Videos:"], ["dot", *words]]
    with open(folder / "LOVEU-TGVE-2023_Dataset.csv", "w", newline="") as file:
        csv.writer(file).writerows([head, *rows])
    return ""


def v2vbench(folder: Path) -> str:
    """config.yaml with a list, frames from 00.png on."""
    frames(folder / "frames" / "ball", clip(0), "png", digits=2)
    frames(folder / "frames" / "dot", clip(1), "png", digits=2)
    edits = [{"prompt": SQUARE, "type": "object"}, {"prompt": BLUE, "type": "attribute"}]
    data = [{"video_id": name, "prompt": SOURCE, "edit": edits} for name in ("ball", "dot")]
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": data}))
    return ""


def five(folder: Path) -> str:
    """Two of the six lists, frames and masks from 00001.jpg on, questions."""
    for number, name in enumerate(("0001_ball", "0002_dot")):
        frames(folder / "images" / name, clip(number), "jpg", first=1)
        frames(folder / "bmasks" / name, mask(), "jpg", first=1)
    (folder / "edit_prompt").mkdir()
    asked = {"source_yes_no_question": "Is there a circle in the video?"}
    asked |= {"target_yes_no_question": "Is there a square in the video?"}
    asked |= {"multiple_choice_question": "What is in the video?\na) A circle\nb) A square"}
    one = {"editing_type_id": "1", "source_prompt": "a red [circle] moving right"}
    one |= {"target_prompt": "a red [square] moving right"} | asked
    lists = {1: [one | {"video_name": "0001_ball", "save_dir": "1_square"}]}
    two = {"editing_type_id": 3, "source_prompt": SOURCE, "target_prompt": BLUE}
    lists[3] = [two | {"video_name": "0002_dot", "save_dir": "3_blue"}]
    for number, items in lists.items():
        (folder / "edit_prompt" / f"edit{number}_FiVE.json").write_text(json.dumps(items))
    return ""


def editverse(folder: Path) -> str:
    """test.json, an object of entries with tagged sources; one entry has no video."""
    (folder / "videos").mkdir(parents=True)
    for number, name in enumerate(("ball", "dot")):
        wide = clip(number).repeat(2, axis=2)  # horizontal
        video.encode(wide, folder / "videos" / f"{name}.mp4", 8)
    about = {"direction": "horizontal", "source_prompt": SOURCE, "<video1> link": "https://example.org/1"}
    found = {
        "0": about | {"<text>": "<video1> Make it a square", "<video1>": "videos/ball.mp4", "type": "change object"},
        "7": about | {"<text>": "Paint <video1> as <image1>", "<video1>": "videos/dot.mp4", "type": "stylization"},
        "9": about | {"<text>": "A video of a ball", "type": "generation", "target_prompt": SOURCE},
    }
    found["0"]["target_prompt"], found["7"]["target_prompt"] = SQUARE, BLUE
    found["7"]["<image1>"] = "images/x.png"
    (folder / "test.json").write_text(json.dumps(found))
    return ""


def ivebench(folder: Path) -> str:
    """A JSON list of items, clips as folders of frames; spans are lists."""
    names = ("ball", "dot")
    for number, name in enumerate(names):
        frames(folder / name, clip(number).repeat(2, axis=1), "png")
    items = [
        {
            "id": number,
            "src_video_name": f"{name}.mp4",
            "category": category,
            "subcategory": "one",
            "source_prompt": SOURCE,
            "edit_prompt": "make it a square",
            "target_prompt": target,
            "target_phrase": "square",
            "target_span": [[6, 12]],
        }
        for number, (name, category, target) in enumerate(
            zip(names, ("subject", "attribute"), (SQUARE, BLUE), strict=True)
        )
    ]
    (folder / "IVEBench_short.json").write_text(json.dumps(items))
    (folder / "sources.json").write_text(json.dumps({"ball": "https://example.org/ball"}))
    return ""


def davis(folder: Path) -> str:
    """Frames and annotations with a palette; prompts in a CSV of the user's."""
    for number, name in enumerate(("ball", "dot")):
        frames(folder / "JPEGImages" / "480p" / name, clip(number), "jpg")
        labels = folder / "Annotations" / "480p" / name
        labels.mkdir(parents=True)
        for place, picture in enumerate(mask() // 255):
            image = Image.fromarray(picture, "P")
            image.putpalette([0, 0, 0, 128, 0, 0] + [0] * 750)
            image.save(labels / f"{place:05d}.png")
    prompts = folder.parent / "prompts.csv"
    rows = [
        ["clip", "source_prompt", "target_prompt", "id"],
        ["ball", SOURCE, SQUARE, "square"],
        ["dot", SOURCE, BLUE, ""],
    ]
    with open(prompts, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return str(prompts)


LAYOUTS: dict[str, Callable[[Path], str]] = {
    layout.__name__: layout for layout in (tgve, v2vbench, five, editverse, ivebench, davis)
}
"""name -> writes the layout into a folder that exists; returns the prompts file, "" for none."""
