"""How fast edits are exported in each format, and how fast a finished export is looked through again.

    python tests/benchmarks/exports.py                       # 160 edits
    python tests/benchmarks/exports.py --clips 2 --rounds 1  # a small one

A root of made-up clips of 1 MB with four edits of 1 MB each, on a local disk; MB/s of the videos of all edits, a source
counted with each of its edits (folders have it once); best of the rounds. The last line is JSON.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
import tempfile
from pathlib import Path
from typing import Any, get_args

sys.path.insert(0, str(Path(__file__).parents[1]))
import exported_run

from cogvideo_core.exports.export import export
from cogvideo_core.exports.spec import ExportSpec, FormatName

EDITS, SIZE = 4, 1_000_000
Row = dict[str, Any]


def made_up(text: str) -> bytes:
    """A megabyte that does not compress, as video does not."""
    return hashlib.shake_256(text.encode()).digest(SIZE)


def make_root(folder: Path, clips: int) -> str:
    exported_run.toy_video = made_up  # type: ignore[assignment]
    run = exported_run.Run(str(folder / "root"), folder / "made")
    for number in range(clips):
        for prompt in range(EDITS):
            run.edit(f"clip{number:04d}.mp4", f"prompt {prompt}")
    return run.collect()


def speeds(root: str, folder: Path, to: FormatName, rounds: int) -> Row:
    """MB/s of the first export into an empty folder, and of the second, which hashes what is there."""
    first, again = [], []
    for _ in range(rounds):
        dest = folder / to
        shutil.rmtree(dest, ignore_errors=True)
        for times in (first, again):
            counts = export(root, str(dest), ExportSpec(to=to))
            times.append(counts["video_bytes"] / 1e6 / counts["seconds"])
    return {"format": to, "export MB/s": round(max(first)), "again MB/s": round(max(again))}


def measured(clips: int, rounds: int) -> list[Row]:
    """A row of speeds for each format."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        root = make_root(folder, clips)
        return [speeds(root, folder, name, rounds) for name in get_args(FormatName)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    rows = measured(args.clips, args.rounds)
    print(f"| {' | '.join(rows[0])} |\n|{'---|' * len(rows[0])}")
    for row in rows:
        print(f"| {' | '.join(map(str, row.values()))} |")
    print(json.dumps({"clips": args.clips, "edits": args.clips * EDITS, "rows": rows}))


if __name__ == "__main__":
    main()
