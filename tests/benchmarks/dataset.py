"""What a dataset of many edits costs to collect: memory, seconds, and seconds of a second time with nothing to do.

    python tests/benchmarks/dataset.py                              # 10,000 and 100,000 edits
    python tests/benchmarks/dataset.py --edits 10000 100000 1000000 # the figures of docs/storage.md
    python tests/benchmarks/dataset.py --edits 10000 --videos link --folder /data/tmp

The root is made up (tests/made_up_root.py): real commits, videos of some bytes. Each collection is a process of its
own, whose peak resident memory and seconds count, imports included; `_cpu_s` are seconds of a processor, the same on a
busy machine. `changed_collect_s` is one after a review, which decides every edit anew. A million edits take 20 GB and 6
million inodes of the folder. `export_mb_s` is by format, of a small root with videos of a megabyte (exports.py). The
last line is JSON; the other figures are by number of edits.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parents[1]))
import exports
import made_up_root

COLLECT = """
import json, resource, sys, time
started = time.perf_counter()
from cogvideo_core.dataset.tables import collect_run
from cogvideo_core.settings.specs import OutputSpec
from cogvideo_core.storage.ledger import Ledger
output = OutputSpec(root=sys.argv[1], videos=sys.argv[2])
counts = collect_run(output, Ledger(output.root), [], {})
peak_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
times = {"seconds": time.perf_counter() - started, "cpu_s": time.process_time()}
print(json.dumps({"counts": counts, "peak_mib": peak_kib / 1024} | times))
"""
Figures = dict[str, Any]


class Case(NamedTuple):
    """A made-up root of so many edits."""

    root: Path
    edits: int
    videos: str


def collected(case: Case) -> Figures:
    """One collection, in a process of its own."""
    command = [sys.executable, "-c", COLLECT, str(case.root), case.videos]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    found: Figures = json.loads(done.stdout.splitlines()[-1])
    if found["counts"]["edits"] != case.edits or found["counts"]["errors"]:
        raise SystemExit(f"{case.edits:,} edits were made, and collecting found {found['counts']}")
    return found


def measure_collect(case: Case) -> Figures:
    """The first collection, one with nothing to do, one after a review."""
    first, second = collected(case), collected(case)
    if second["counts"]["copied"]:
        raise SystemExit("the second collection copied videos")
    row = next(made_up_root.rows_of(1))
    (case.root / "reviews.jsonl").write_text(json.dumps({"edit_key": row["edit_key"], "said": "keep"}) + "\n")
    changed = collected(case)
    return {
        "collect_peak_mib": round(max(first["peak_mib"], changed["peak_mib"])),
        "collect_s": round(first["seconds"], 1),
        "collect_cpu_s": round(first["cpu_s"], 1),
        "second_collect_s": round(second["seconds"], 1),
        "second_collect_cpu_s": round(second["cpu_s"], 1),
        "changed_collect_s": round(changed["seconds"], 1),
        "changed_collect_cpu_s": round(changed["cpu_s"], 1),
    }


def measure_gallery(case: Case) -> Figures:
    """Bytes that the gallery's first page takes, and all its files."""
    files = [case.root / "index.html", *(case.root / "gallery").glob("*.js")]
    sizes = [path.stat().st_size for path in files]
    return {"gallery_first_page_bytes": sizes[0], "gallery_bytes": sum(sizes)}


# Further figures of the same root: a function of the case, which is collected by then, to figures by name.
MEASURES: dict[str, Callable[[Case], Figures]] = {
    "collect": measure_collect,
    "gallery": measure_gallery,
}


def measured(folder: Path, edits: int, videos: str, names: list[str]) -> Figures:
    """All figures of a root of so many edits."""
    started, case = time.perf_counter(), Case(folder / f"root-{edits}", edits, videos)
    made_up_root.make_root(case.root, edits)
    figures: Figures = {"make_s": round(time.perf_counter() - started, 1)}
    for name in names:
        figures |= MEASURES[name](case)
        print(f"{edits:,} edits, {name}: {figures}", flush=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--edits", type=int, nargs="+", default=[10_000, 100_000], help="sizes of the root")
    parser.add_argument("--videos", choices=("copy", "link"), default="copy", help="as output.videos")
    parser.add_argument("--measure", nargs="+", choices=sorted(MEASURES), default=list(MEASURES))
    parser.add_argument("--folder", help="where the roots are made and removed; default: the temporary folder")
    parser.add_argument("--export-clips", type=int, default=20, help="clips of the exported root; 0: no exports")
    given = parser.parse_args()
    found = {}
    for edits in given.edits:
        with tempfile.TemporaryDirectory(dir=given.folder) as folder:
            found[f"{edits}"] = measured(Path(folder), edits, given.videos, given.measure)
    names = dict.fromkeys(name for figures in found.values() for name in figures)
    result = {name: {edits: figures.get(name) for edits, figures in found.items()} for name in names}
    speeds = exports.measured(given.export_clips, 1) if given.export_clips else []
    result["export_mb_s"] = {row["format"]: row["export MB/s"] for row in speeds}
    whole_mib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(json.dumps(result | {"videos": given.videos, "peak_mib": round(whole_mib)}))


if __name__ == "__main__":
    main()
