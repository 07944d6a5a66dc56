"""What a search leaves behind."""
from __future__ import annotations
from typing import Any
from cogvideo_core.tuning.picking import complete
from cogvideo_core.tuning.preparing import Prepared
from cogvideo_core.tuning.search import Found, Search


def write(root: str, search: Search, found: Found, ready: Prepared) -> dict[str, Any]:
    trials = [*found.trials]
    return {"counts": {"trials": len(trials), "pruned": sum(t.state == "pruned" for t in trials), "complete": len(complete(trials)), "failed": sum(t.state == "failed" for t in trials), "evaluations": sum(t.evaluations for t in [found.preset, *found.layers, *trials, *found.held_out])}}
