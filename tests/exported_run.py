"""A small root with committed videos and a table, made without a model: what exports are tested on."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np

from cogvideo_core.dataset.collect import EditRow, collect
from cogvideo_core.media import video
from cogvideo_core.storage.ledger import Ledger

Row = dict[str, Any]
FRAMES, SIDE, FPS = 9, 16, 8
TEXTS = ("source_prompt", "inversion_prompt", "negative_prompt", "recipe_fingerprint", "model_fingerprint")


def key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def toy_video(text: str) -> bytes:
    """Bytes that no two texts share, and no decoder takes."""
    return f"video of {text} ".encode() * 40


def real_video(text: str, folder: Path) -> bytes:
    """An mp4 of moving noise."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:4])
    frames = np.random.default_rng(seed).integers(0, 256, (FRAMES, SIDE, SIDE, 3), np.uint8)
    video.encode(frames, folder / "made.mp4", FPS, 20, None)
    return (folder / "made.mp4").read_bytes()


class Run:
    """Commits sources and edits under a root, and collects them."""

    def __init__(self, root: str, scratch: Path, real: bool = False) -> None:
        self.root, self.scratch, self.real = root, scratch, real
        self.ledger, self.rows = Ledger(root), list[EditRow]()
        scratch.mkdir(parents=True, exist_ok=True)

    def _commit(self, stage: Any, unit: str, name: str, text: str, spec: Row) -> str:
        path = self.scratch / name
        path.write_bytes(real_video(text, self.scratch) if self.real else toy_video(text))
        commit = self.ledger.commit(stage, unit, {name: path}, spec, {})
        fs, where = self.ledger.open_url(commit, name)
        return str(fs.unstrip_protocol(where))

    def edit(self, clip: str, prompt: str, content: str = "", window: int = 0, **more: Any) -> EditRow:
        """One more edit; the clip's content is its name unless given, and decides the bytes of the source."""
        content = key(content or clip)
        source = self._commit(
            "sources", key(f"{content} {window}"), "source.mp4", f"{content} {window}", {"content": content}
        )
        unit = key(f"{content} {window} {prompt} {more.get('seed', 0)}")
        bytes_of = more.pop("bytes_of", unit)
        stopped = more.get("state") == "stopped"
        edit = "" if stopped else self._commit("edits", unit, "edit.mp4", bytes_of, {})
        row: Any = dict.fromkeys(TEXTS, "") | {"model": "toy", "recipe": "balanced", "state": "done"}
        row |= {"clip": clip, "name": clip.partition(".")[0], "target_prompt": prompt, "seed": 0, "window": window}
        row |= {"frames": FRAMES, "height": SIDE, "width": SIDE, "fps": FPS, "scores": {"ssim": 0.5}}
        row |= {"trajectory_key": key("t" + unit), "latents_key": key("l" + content), "source_id": key("i" + clip)}
        row |= {
            "source_key": key(f"{content} {window}"),
            "edit_key": unit,
            "edit_object": edit,
            "source_object": source,
        }
        row |= {"own": json.dumps({"licence": "cc0"})} | more
        self.rows.append(row)
        return row  # type: ignore[no-any-return]

    def collect(self) -> str:
        collect(self.root, self.rows, [], [], {"title": "Toy edits", "model": {"path": "toy"}}, gallery=False)
        return self.root

    def copied(self, root: str) -> Run:
        """The same run under another local root."""
        other = Run(shutil.copytree(self.root, root), self.scratch, self.real)
        for row in self.rows:
            paths: Any = {n: row[n].replace(self.root, root) for n in ("edit_object", "source_object")}  # type: ignore[literal-required]
            other.rows.append({**row, **paths})  # type: ignore[typeddict-item]
        return other

    def sums(self) -> dict[str, tuple[str, str]]:
        """edit_key -> sha256 of the committed edit and of its source."""
        return {
            row["edit_key"]: (
                self.ledger.read("edits", row["edit_key"]).files["edit.mp4"].sha256,
                self.ledger.read("sources", row["source_key"]).files["source.mp4"].sha256,
            )
            for row in self.rows
            if row["state"] == "done"
        }


def make(root: str, scratch: Path, clips: int = 4, real: bool = False) -> Run:
    """Two kept edits of each clip; the first clip's second one has an instruction of the user's own."""
    run = Run(root, scratch, real)
    for number in range(clips):
        run.edit(f"clip{number}.mp4", "a red square")
        own = json.dumps({"licence": "cc0", "instruction": "make it blue"})
        run.edit(f"clip{number}.mp4", "a blue square", **({"own": own} if number == 0 else {}))
    run.collect()
    return run
