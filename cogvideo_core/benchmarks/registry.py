"""The benchmarks that there are adapters for, by name."""

from __future__ import annotations

import difflib

from cogvideo_core.benchmarks.cases import Benchmark
from cogvideo_core.benchmarks.davis import DAVIS
from cogvideo_core.benchmarks.editverse import EDITVERSE
from cogvideo_core.benchmarks.five import FIVE
from cogvideo_core.benchmarks.ivebench import IVEBENCH
from cogvideo_core.benchmarks.tgve import TGVE
from cogvideo_core.benchmarks.v2vbench import V2VBENCH
from cogvideo_core.errors import BadSpec

BENCHMARKS = {each.name: each for each in (TGVE, V2VBENCH, FIVE, EDITVERSE, IVEBENCH, DAVIS)}


def benchmark_of(name: str) -> Benchmark:
    """Raises BadSpec for a name that is none."""
    if name not in BENCHMARKS:
        near = difflib.get_close_matches(name, BENCHMARKS, 1)
        remedy = f"did you mean {near[0]}?" if near else f"there are {', '.join(BENCHMARKS)}"
        raise BadSpec(f"field name: {name[:60]!r} is no benchmark; {remedy}")
    return BENCHMARKS[name]
