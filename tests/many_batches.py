"""The whole flow over many batches with real task runs, of which the core's work alone is left out.

    python tests/many_batches.py 20000

A program, for pytest keeps every log line of a test. Prints the process's memory after each wave, in bytes, and the
flow's counts, as lines of JSON. The server's database is that of `servers.harness`; SQLite can't keep up for long.
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
    import psutil
    from servers import harness

    from cogvideo_core import clips, encoding, prompts
    from cogvideo_core.shapes.build import build_pipeline
    from cogvideo_core.specs import DatasetSpec, EngineSpec, ModelSpec, OutputSpec
    from flows import edit_dataset

    run_wave = edit_dataset.run_wave

    def weighed(*args: Any) -> Any:
        counts = run_wave(*args)
        print(json.dumps(psutil.Process().memory_info().rss), flush=True)
        return counts

    edit_dataset.run_wave = weighed
    encoding.encode_clip = lambda work, record: record
    clips.invert_clip = lambda work, record, only_if_needed=True: record
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
    print(json.dumps(counts))


if __name__ == "__main__":
    main(int(sys.argv[1]))
