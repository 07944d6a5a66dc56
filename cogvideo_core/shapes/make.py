"""Writes shapes clips as real mp4 files, with a manifest of captions and target prompts."""

from __future__ import annotations

import json
import os
from pathlib import Path

from cogvideo_core.media import video
from cogvideo_core.shapes import world

ASKED = ("colour", "shape", "background", "both")  # what the target prompts change, in this order


def make_clips(folder: Path, clips: int, prompts: int = 4, seed: int = 0) -> Path:
    """Writes clips and `manifest.jsonl` in `folder`; returns the manifest's path. Existing clips are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    rows: dict[int, dict[str, object]] = {}
    for edit in world.bench_edits(clips, seed=600_000 + seed, pool=world.combinations()):
        c = edit.scene.combination
        name = f"{edit.clip + seed:04d}-{c.colour}-{c.shape}-{c.motion}.mp4"
        if edit.clip not in rows:
            if not (folder / name).exists():
                video.encode(world.render(edit.scene), folder / name, world.FPS)
            rows[edit.clip] = {"clip": name, "source_prompt": edit.source_prompt, "target_prompts": {}}
        rows[edit.clip]["target_prompts"][edit.kind] = edit.target_prompt  # type: ignore[index]
    for row in rows.values():
        wanted = row["target_prompts"]
        row["target_prompts"] = [wanted[kind] for kind in ASKED[:prompts]]  # type: ignore[index]
    manifest = folder / "manifest.jsonl"
    temporary = manifest.with_suffix(".part")
    temporary.write_text("".join(json.dumps(row) + "\n" for row in rows.values()))
    os.replace(temporary, manifest)
    return manifest
