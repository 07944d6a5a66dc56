"""What became of a root's edits in figures: how many are kept, why others are not, how scores are spread."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

Row = Mapping[str, Any]
FIGURE = re.compile(r" -?\d[\d.e+-]*")
BARS, BINS = "▁▂▃▄▅▆▇█", 10


class Yield(NamedTuple):
    """Edits that were made or given up, by what became of them."""

    edits: int
    kept: int
    rejected: int
    stopped: int  # of the rejected, those that were given up early
    surpassed: int  # neither rejected nor kept: another candidate is better
    saved_evaluations: int

    @property
    def told(self) -> str:
        """ "12 of 20 edits kept (60 %), 6 rejected, 2 surpassed by another candidate"."""
        parts = [f"{self.kept:,} of {self.edits:,} edits kept ({share(self.kept, self.edits)})"]
        stopped = f", {self.stopped:,} of them given up early" if self.stopped else ""
        parts += [f"{self.rejected:,} rejected{stopped}"] if self.rejected else []
        parts += [f"{self.surpassed:,} surpassed by another candidate"] if self.surpassed else []
        return "; ".join(parts)


def share(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f} %" if whole else "none"


def yield_of(rows: Iterable[Row]) -> Yield:
    """Of rows with kept, verdict, state and saved_evaluations."""
    rows = list(rows)
    out = [row for row in rows if not row["kept"]]
    rejected = [row for row in out if row["verdict"] == "rejected"]
    stopped = [row for row in rejected if row["state"] == "stopped"]
    saved = sum(row.get("saved_evaluations") or 0 for row in stopped)
    return Yield(len(rows), len(rows) - len(out), len(rejected), len(stopped), len(out) - len(rejected), saved)


def by_recipe(rows: Iterable[Row]) -> list[tuple[str, str]]:
    """[recipe, its yield in words] pairs."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row["recipe"]), []).append(row)
    return [(name, yield_of(group).told) for name, group in sorted(groups.items())]


def reasons(rows: Iterable[Row], most: int = 6) -> list[tuple[str, int]]:
    """Why edits were rejected, without the figures, the most frequent reasons first."""
    found: Counter[str] = Counter()
    for row in rows:
        if row["verdict"] == "rejected":
            found.update({FIGURE.sub("", reason).strip() for reason in row["rejected_because"].split("; ") if reason})
    return found.most_common(most)


def spread(values: Sequence[float]) -> tuple[float, float, float, str]:
    """5th percentile, median, 95th percentile, and a histogram in characters between the first and the last."""
    low, middle, high = (float(value) for value in np.percentile(values, [5, 50, 95]))
    if high <= low:
        return low, middle, high, BARS[-1]
    counts, _ = np.histogram(np.clip(values, low, high), BINS, (low, high))
    return low, middle, high, "".join(BARS[round(float(n) / counts.max() * (len(BARS) - 1))] for n in counts)


def spreads(rows: Sequence[Row]) -> list[tuple[str, float, float, float, str]]:
    """The spread of each score that rows have, by name."""
    found = []
    for name in sorted({name for row in rows for name in row if name.startswith("score_")} | {"confidence"}):
        values = [float(row[name]) for row in rows if row.get(name) is not None]
        if values:
            found.append((name, *spread(values)))
    return found
