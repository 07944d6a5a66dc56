"""Writes the table of docs/metrics.md from `METRICS`.

python docs/make_metrics.py            # writes the page
python docs/make_metrics.py --check    # exit code 1 where the page is not what would be written
"""

from __future__ import annotations

import sys
from pathlib import Path

from cogvideo_core.judging.metrics.table import METRICS, Metric

PAGE = Path(__file__).parent / "metrics.md"
HEAD = "| name | what | definition | source | better | needs | tables × |\n|---|---|---|---|---|---|---|\n"
NEEDS = {"motion": "two frames", "yes_no": "yes-or-no questions", "multiple_choice": "multiple choices", "mask": "mask"}
NEEDS |= {"source_prompt": "source prompt", "target_prompt": "target prompt"}


def row(metric: Metric) -> str:
    needs = ", ".join(NEEDS.get(need, f"`{need}`") for need in metric.needs) or "-"
    cells = (f"`{metric.name}`", metric.title, metric.definition, metric.source, metric.better, needs)
    return f"| {' | '.join(cells)} | {metric.scale:g} |\n"


def page() -> str:
    """The page's text with its table made anew: that is what lies between its first line of a table and the next
    empty line."""
    before, _, rest = PAGE.read_text("utf-8").partition("| name |")
    return before + HEAD + "".join(row(metric) for metric in METRICS.values()) + rest[rest.index("\n\n") + 1 :]


def main() -> int:
    text = page()
    if "--check" in sys.argv[1:]:
        return int(PAGE.read_text("utf-8") != text)
    PAGE.write_text(text, "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
