"""What became of a root's edits in figures: how many are kept, why others are not, how scores are spread."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np

from cogvideo_core.dataset.rows import source_of

Row = Mapping[str, Any]
FIGURE = re.compile(r" -?\d[\d.e+-]*")
TALLIED = (  # the columns that a Tally reads
    *(
        "clip",
        "start_s",
        "end_s",
        "window",
        "recipe",
        "model",
        "kept",
        "verdict",
        "state",
        "rejected_because",
        "saved_evaluations",
    ),
)
SHOWN_REASONS = 6
Spread = tuple[str, float, float, float, str]
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


class Tally:
    """What is told of many rows that come one after the other, rows of a clip adjacent: of every row its outcome, of
    those that are kept also clips, models and columns."""

    def __init__(self) -> None:
        self.recipes: dict[str, Counter[str]] = {}
        self.because: Counter[str] = Counter()  # of all rejected edits
        self.out_because: Counter[str] = Counter()  # of those that are not kept
        self.kept_recipes: set[str] = set()
        self.models: set[str] = set()
        self.clips, self.last = 0, tuple[Any, ...]()
        self.first: Row = {}  # of the rows that are kept

    def add(self, rows: Iterable[Row]) -> None:
        for row in rows:
            kept, rejected = bool(row["kept"]), row["verdict"] == "rejected"
            counts = self.recipes.setdefault(str(row["recipe"]), Counter())
            counts["edits"] += 1
            counts["kept" if kept else "rejected" if rejected else "surpassed"] += 1
            if not kept and rejected and row["state"] == "stopped":
                counts["stopped"] += 1
                counts["saved_evaluations"] += row.get("saved_evaluations") or 0
            if rejected:
                found = dict.fromkeys(
                    FIGURE.sub("", part).strip() for part in row["rejected_because"].split("; ") if part
                )
                self.because.update(found.keys())
                self.out_because.update(() if kept else found.keys())
            if kept:
                self._add_kept(row)

    def _add_kept(self, row: Row) -> None:
        self.first = self.first or row
        self.kept_recipes.add(row["recipe"])
        self.models.add(row.get("model", ""))
        self.clips += source_of(row) != self.last
        self.last = source_of(row)

    @property
    def yielded(self) -> Yield:
        total: Counter[str] = Counter()
        for counts in self.recipes.values():
            total += counts
        return Yield(*(total[name] for name in Yield._fields))

    def by_recipe(self) -> list[tuple[str, str]]:
        """[recipe, its yield in words] pairs."""
        return [
            (name, Yield(*(counts[field] for field in Yield._fields)).told)
            for name, counts in sorted(self.recipes.items())
        ]


def spread(values: np.ndarray) -> tuple[float, float, float, str]:
    """5th percentile, median, 95th percentile, and a histogram in characters between the first and the last."""
    low, middle, high = (float(value) for value in np.percentile(values, [5, 50, 95]))
    if high <= low:
        return low, middle, high, BARS[-1]
    counts, _ = np.histogram(np.clip(values, low, high), BINS, (low, high))
    return low, middle, high, "".join(BARS[round(float(n) / counts.max() * (len(BARS) - 1))] for n in counts)


def is_measured(column: str) -> bool:
    """Whether a column holds figures whose spread is told."""
    return column.startswith("score_") or column == "confidence"


def spread_of(columns: Iterable[tuple[str, np.ndarray]]) -> Iterator[Spread]:
    """The spread of each column, those without values left out."""
    return ((name, *spread(values)) for name, values in columns if len(values))
