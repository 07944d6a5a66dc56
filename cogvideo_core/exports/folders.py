"""Formats that are folders of videos with lists beside them: finetrainers', and triplets."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import IO, Any

from cogvideo_core.exports.formats import Content, Shard
from cogvideo_core.exports.place import Files, Place
from cogvideo_core.exports.rows import Item

CHUNK_BYTES = 64 << 20  # of videos that are recorded at a time
TRAIN = "train"
FINETRAINERS_LOAD = """\
From this folder, `--dataset_config training.json --validation_dataset_file validation-NAME.json` trains with
finetrainers: control training takes the source as `control_video` and the instruction as its caption. Text-to-video
trainers that read `prompts.txt` and `videos.txt` get edits and target prompts. The rows of a split, in Python:

```python
from datasets import load_dataset

edits = load_dataset("videofolder", data_dir="EXPORT/{split}", split="train")  # video, control_video, caption
```
"""
TRIPLETS_LOAD = """\
```python
import json
from pathlib import Path

folder = Path("EXPORT")
for line in (folder / "triplets-{split}.jsonl").open(encoding="utf-8"):
    triplet = json.loads(line)
    source, target = folder / triplet["source"], folder / triplet["target"]
    triplet["instruction"]
```
"""


class _Lists:
    """Text files that grow on this machine's disk and are published at the end."""

    def __init__(self, place: Place) -> None:
        self.place, self.files = place, dict[str, IO[bytes]]()

    def add(self, name: str, text: str) -> None:
        if name not in self.files:
            self.files[name] = self.place.spool()
        self.files[name].write(text.encode())

    def publish(self) -> Files:
        return {name: self.place.publish_spool(file, name) for name, file in self.files.items()}


class _Folder:
    """Videos as files; a source that several edits share is there once."""

    shard_bytes = CHUNK_BYTES

    def __init__(self, place: Place) -> None:
        self.lists = _Lists(place)

    def place_of(self, split: str) -> str:
        """Where the paths of a split's videos begin."""
        return ""

    def write(self, shard: Shard, contents: Iterator[Content], place: Place) -> Files:
        files: Files = {}
        for item, edit, source in contents:
            for name, data in ((item.source_name, source), (item.edit_name, edit)):
                if (path := self.place_of(shard.split) + name) not in files:
                    files[path] = place.write(path, data)
        return files


class Triplets(_Folder):
    """triplets-<split>.jsonl of source, instruction and target, and videos/."""

    def tell(self, item: Item) -> None:
        line = {"source": item.source_name, "instruction": item.row["instruction"], "target": item.edit_name}
        self.lists.add(f"triplets-{item.split}.jsonl", _line(line))

    def finish(self) -> Files:
        return self.lists.publish()

    def paths(self, split: str) -> list[str]:
        return [f"triplets-{split}.jsonl"]

    def load(self, splits: list[str]) -> str:
        return TRIPLETS_LOAD.format(split=splits[0])


class Finetrainers(_Folder):
    """<split>/ with videos/, metadata.jsonl (for control training) and prompts.txt, videos.txt (for text to video);
    training.json names the folder and sizes of `train`, validation-<split>.json the edits of any other split."""

    def __init__(self, place: Place) -> None:
        super().__init__(place)
        self.sizes: dict[str, set[tuple[int, int, int]]] = {}

    def place_of(self, split: str) -> str:
        return f"{split}/"

    def tell(self, item: Item) -> None:
        split, row = item.split, item.row
        # file_name first: `datasets` would take another *_file_name for it
        line = {"file_name": item.edit_name, "control_video_file_name": item.source_name, "caption": row["instruction"]}
        self.lists.add(f"{split}/metadata.jsonl", _line(line))
        self.lists.add(f"{split}/prompts.txt", " ".join(row["target_prompt"].split()) + "\n")
        self.lists.add(f"{split}/videos.txt", item.edit_name + "\n")
        self.sizes.setdefault(split, set()).add((row["frames"], row["height"], row["width"]))
        if split != TRAIN:
            self._tell_validation(item)

    def _tell_validation(self, item: Item) -> None:
        name, row = f"validation-{item.split}.json", item.row
        told = {"caption": row["instruction"], "control_video_path": f"{item.split}/{item.source_name}"}
        told |= {"num_frames": row["frames"], "height": row["height"], "width": row["width"], "frame_rate": row["fps"]}
        self.lists.add(name, '{"data": [\n' if name not in self.lists.files else ",\n")
        self.lists.add(name, _line(told).rstrip())

    def finish(self) -> Files:
        for name in [name for name in self.lists.files if name.startswith("validation-")]:
            self.lists.add(name, "\n]}\n")
        if TRAIN in self.sizes:
            buckets = [list(size) for size in sorted(self.sizes[TRAIN])]
            # with ./, as a bare name is looked up on the hub first
            config: dict[str, Any] = {
                "data_root": f"./{TRAIN}",
                "dataset_type": "video",
                "video_resolution_buckets": buckets,
            }
            self.lists.add("training.json", json.dumps({"datasets": [config]}, indent=2) + "\n")
        return self.lists.publish()

    def paths(self, split: str) -> list[str]:
        return [f"{split}/metadata.jsonl", f"{split}/videos/*.mp4"]

    def load(self, splits: list[str]) -> str:
        return FINETRAINERS_LOAD.format(split=splits[0])


def _line(told: dict[str, Any]) -> str:
    """JSON and a line break; no other character that any reader takes for one."""
    text = json.dumps(told, ensure_ascii=False, allow_nan=False)
    return text.translate({number: f"\\u{number:04x}" for number in (0x85, 0x2028, 0x2029)}) + "\n"
