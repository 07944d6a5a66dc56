"""Odd clips, rows and model folders: how many are right, refused with one sentence, or wrong.

    python tests/benchmarks/odd_files.py               # all; the last line is JSON
    python tests/benchmarks/odd_files.py --only rows -v

The right values come from how each input was made, from a standard's formula or from another program.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.append(str(Path(__file__).parent.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")
from odd_cases import REFUSED, RIGHT, Case, all_cases


def verdict(case: Case) -> str:
    """What the case says; an exception that it did not expect is wrong as well."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            return case.judge(Path(folder))
        except Exception as error:
            return f"{type(error).__name__}: {error}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="section, or part of a name")
    parser.add_argument("-v", "--verbose", action="store_true", help="a line for every case")
    options = parser.parse_args()
    counts: Counter[tuple[bool, str]] = Counter()
    for case in all_cases():
        if options.only not in f"{case.section}-{case.name}":
            continue
        found = verdict(case)
        kind = found if found in (RIGHT, REFUSED) else "wrong"
        counts[case.section == "models", kind] += 1
        if kind == "wrong" or options.verbose:
            print(f"{kind:8} {case.section}-{case.name}: {case.expected}{'' if kind == found else f'; {found}'}")
    result = {}
    for models, prefix in ((False, ""), (True, "models_")):
        kinds = {kind: counts[models, kind] for kind in (RIGHT, REFUSED, "wrong")}
        result |= {f"{prefix}cases": sum(kinds.values())} | {f"{prefix}{kind}": n for kind, n in kinds.items()}
    print(json.dumps(result))


if __name__ == "__main__":
    main()
