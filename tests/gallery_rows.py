"""Made-up rows for the gallery, as many as wanted, which share two videos; and a reader of what it writes."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from cogvideo_core.dataset.gallery import gallery_files

EDITS = 4  # of each clip
NUMBERS = ("delta_e", "flicker", "luminance_gain", "psnr", "saturation_gain", "sharpness", "ssim", "text_choice")
CALL = re.compile(r'galleryShard\("((?:index-)?\d{5})","([0-9a-f]{8})",("(?:[^"\\\n\r]|\\.)*")\);\n')
SUBJECTS = (
    "a red circle",
    "a cyclist on a wet road",
    "two dogs in the snow",
    "a kitchen at night",
    "boats at sea",
)
STYLES = ("in the style of a woodcut", "at sunset, with long shadows", "as a watercolour", "made of coloured glass")


def made_up_rows(edits: int) -> Iterator[dict[str, Any]]:
    """`edits` rows in the tables' order, the same each time, EDITS of a clip; figures depend on the number alone."""
    for number in range(edits):
        clip, place = divmod(number, EDITS)
        digest = hashlib.sha256(str(number).encode()).digest()
        part = [byte / 255 for byte in digest]
        rejected = part[0] < 0.3
        yield {
            "clip": f"batch_{clip // 1000:03}/clip_{clip:06}.mp4",
            "window": 0,
            "source_prompt": f"{SUBJECTS[clip % 5]}, filmed by hand, take {clip}",
            "target_prompt": f"{SUBJECTS[clip % 5]} {STYLES[place]}, take {clip}",
            "recipe": "balanced",
            "seed": 0,
            "height": 48,
            "width": 48,
            "file_name": "videos/edit.mp4",
            "source_file_name": "videos/source.mp4",
            "edit_key": digest.hex(),
            "verdict": "rejected" if rejected else "accepted",
            "rejected_because": "text choice 0.31 is below 0.5" if rejected else "",
            "kept": not rejected,
            "edit_object": "dataset/videos/edit.mp4",
            "source_object": "dataset/videos/source.mp4",
            "confidence": part[1],
        } | {f"score_{name}": 10 * part[2 + place] for place, name in enumerate(NUMBERS)}


class Gallery(HTMLParser):
    """Files of a gallery, read as a browser would: elements and text of index.html, and all data by name."""

    def __init__(self, files: Iterable[tuple[str, bytes]]) -> None:
        super().__init__()
        self.files = dict(files)
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.text = ""
        self.inline: dict[str, Any] = {}
        self.feed(self.files["index.html"].decode())
        self.head = self.inline.pop("head")
        self.data = self.inline | dict(map(called, (text for name, text in self.files.items() if name != "index.html")))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        tag, attributes = self.tags[-1]
        if attributes.get("type") == "application/json" and data.strip():
            self.inline[attributes.get("data-shard") or str(attributes["id"])] = json.loads(data)
        elif tag not in ("style", "script"):
            self.text += data

    @property
    def sections(self) -> list[dict[str, Any]]:
        """All sections, in the order of their numbers."""
        pages = [self.data[f"{number:05}"] for number in range(len(self.head["firsts"]))]
        assert self.head["firsts"] == [sum(map(len, pages[:number])) for number in range(len(pages))]
        return [section for page in pages for section in page]

    @property
    def edits(self) -> list[dict[str, Any]]:
        return [edit for section in self.sections for edit in section["edits"]]

    @property
    def indexes(self) -> list[dict[str, Any]]:
        return [self.data[name] for name in self.head["indexes"]]

    def urls(self) -> list[str]:
        """Of the videos, in the order of the page."""
        return [url for section in self.sections for url in (section["url"], *(e["url"] for e in section["edits"]))]

    def policy(self) -> dict[str, str]:
        """The page's Content-Security-Policy by directive."""
        text = next(a["content"] for _, a in self.tags if a.get("http-equiv") == "Content-Security-Policy")
        return {name: rest for name, _, rest in (part.strip().partition(" ") for part in str(text).split(";"))}


def called(script: bytes) -> tuple[str, Any]:
    """(name, data) of a file that calls the page with three texts, the last of which is JSON, and does nothing else."""
    found = CALL.fullmatch(script.decode())
    assert found, script[:200]
    name, digest, text = found[1], found[2], json.loads(found[3])
    assert digest == hashlib.sha256(text.encode()).hexdigest()[:8]
    return name, json.loads(text)


def write(root: Path, rows: Iterable[dict[str, Any]], **about: Any) -> dict[str, int]:
    """A gallery on disk; returns the files' sizes in bytes."""
    sizes = {}
    for name, data in gallery_files(rows, [], about):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
        sizes[name] = len(data)
    return sizes
