"""The whole flow over many batches with real task runs, of which the core's work alone is left out.

    COGVIDEO_E2E_DATABASE=postgresql+asyncpg://user:password@host:port/database python tests/many_batches.py 20000

A program, for pytest keeps every log line of a test. Prints by how many MB the process has grown since its first wave;
the last line is JSON. Without a PostgreSQL it is SQLite, which falls behind so many empty task runs.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any


def manifest(folder: Path, clips: int) -> Path:
    """So many clips that are never opened, with the texts of a usual dataset."""
    (folder / "clip.mp4").write_bytes(b"not opened")
    with open(folder / "manifest.jsonl", "w") as sink:
        for n in range(clips):
            os.link(folder / "clip.mp4", folder / f"{n}.mp4")
            row = {"clip": f"{n}.mp4", "source_prompt": "a circle", "target_prompts": [f"{n} " + "x" * 1_000] * 4}
            sink.write(json.dumps(row) + "\n")
    return folder / "manifest.jsonl"


def main(batches: int) -> None:
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    import psutil
    from servers import harness

    from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, ModelSpec, OutputSpec
    from cogvideo_core.shapes.build import build_pipeline
    from cogvideo_core.stages import edit as clips
    from cogvideo_core.stages import encode, prompts, trajectory
    from flows import edit_dataset

    run_wave, held = edit_dataset.run_wave, list[int]()

    def weighed(*args: Any) -> Any:
        counts = run_wave(*args)
        held.append(psutil.Process().memory_info().rss)
        print(f"wave {len(held)}: {(held[-1] - held[0]) / 1e6:+.1f} MB", flush=True)
        return counts

    edit_dataset.run_wave = weighed
    encode.encode_clip = lambda work, record: record
    trajectory.invert_clip = lambda work, record, only_if_needed=True: record
    clips.edit_clip = lambda work, record: record | {"edits": [], "timings": []}
    prompts.embed_missing = lambda *_: 0
    with tempfile.TemporaryDirectory() as place, harness(folder := Path(place)):
        build_pipeline("5b").save_pretrained(folder / "model")
        counts = edit_dataset.edit_dataset(
            dataset=DatasetSpec(source=str(manifest(folder, batches))),
            model=ModelSpec(path=str(folder / "model")),
            output=OutputSpec(root=str(folder / "run")),
            engine=EngineSpec(batches_in_flight=8),
        )
    grown = {"grown_mb": (held[-1] - held[0]) / 1e6, "grown_most_mb": (max(held) - held[0]) / 1e6}
    print(json.dumps(counts | grown | {"waves": len(held)}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
