"""Progress bars of a run in the terminal; where there is no terminal they stay silent and the log speaks."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

COLUMNS = (TextColumn("{task.description:>8}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
_bars: Progress | None = None
_ids: dict[str, TaskID] = {}


@contextlib.contextmanager
def bars(clips: int | None, edits: int | None) -> Iterator[None]:
    """Bars for clips and edits, counters where None says that nobody knows how many there are, and a counter of model
    steps, while the body runs."""
    global _bars
    with Progress(*COLUMNS, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()) as progress:
        _ids.update(clips=progress.add_task("clips", total=clips), edits=progress.add_task("edits", total=edits))
        _ids.update(steps=progress.add_task("steps", total=None))
        _bars = progress
        try:
            yield
        finally:
            _bars = None
            _ids.clear()


def advance(name: str, by: int = 1) -> None:
    """Moves the bar "clips", "edits" or "steps" on; does nothing where no bars are shown."""
    if _bars is not None and name in _ids:
        _bars.advance(_ids[name], by)


def tick(stage: str) -> None:
    """One step of the model, of any stage."""
    advance("steps")
