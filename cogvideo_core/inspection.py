"""What is stored under a key, as text: specification, files, whether their checksums hold."""

from __future__ import annotations

import json
from typing import get_args

from cogvideo_core.keys import STAGES, Stage, is_key
from cogvideo_core.ledger import Commit, Ledger


def find_units(target: str, root: str) -> list[tuple[Ledger, Commit]]:
    """Units named by their folder (`ROOT/STAGE/k2/KEY`), their key, or the beginning of it (4 characters or more)."""
    parts = target.rstrip("/").split("/")
    stages, wanted = STAGES, target.strip("/").lower()
    if len(parts) >= 3 and is_key(parts[-1]):
        root = "/".join(parts[:-3]) or ("/" if target.startswith("/") else ".")
        stages, wanted = (parts[-3],), parts[-1]
    if len(wanted) < 4:
        return []
    ledger = Ledger(root)
    chosen = [stage for stage in get_args(Stage) if stage in stages]
    return [(ledger, commit) for stage in chosen for commit in ledger.units(stage, wanted)]


def describe(ledger: Ledger, commit: Commit) -> tuple[str, bool]:
    """(text, whether every byte is what was committed). Reads all files; changes nothing."""
    problems = ledger.check(commit, "full")
    lines = [f"{commit.stage} {commit.key}", "files:"]
    for name, stored in commit.files.items():
        state = problems.get(name, "ok")
        lines.append(f"  {name}  {stored.size:,} bytes  sha256 {stored.sha256[:16]}  {state}")
    record = {k: v for k, v in commit.record.items() if k != "steps"}
    if "steps" in commit.record:
        record["levels"] = len(commit.record["steps"])
    lines += ["record:", _indented(record), "specification:", _indented(commit.spec)]
    return "\n".join(lines), not problems


def _indented(value: object) -> str:
    text = json.dumps(value, indent=2, ensure_ascii=True, default=str)
    return "\n".join("  " + line for line in text.splitlines())
