"""The command that screens source clips without a model: what a run would move, mark or drop."""

from __future__ import annotations

import csv
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from flows.cli.exits import OK, PARTLY, sentences
from flows.cli.options import Limit, Model, Set, SettingsFile, Source
from flows.settings import chosen, settings_of

app = typer.Typer()
Record = dict[str, Any]
COLUMNS = ("clip", "window", "verdict", "start_s", "cuts", "luma", "black", "frozen", "moving", "text", "because")
SHOWN = ("clip", "window", "verdict", "start_s", "cuts", "because")
SHOWN_ROWS = 200  # of the table; the CSV has all


@app.command()
def screen(
    source: Source = "",
    csv_file: Annotated[Path | None, typer.Option("--csv", help="Writes every window as a row of this file.")] = None,
    output: Annotated[
        str, typer.Option(help="Root of a run that is to reuse what is measured. Without it, nothing is kept.")
    ] = "",
    model: Model = "",
    limit: Limit = 0,
    every: Annotated[bool, typer.Option("--all", help="Also show windows that nothing is wrong with.")] = False,
    settings: SettingsFile = "",
    sets: Set = [],  # noqa: B006 - typer copies it
) -> None:
    """Look for cuts, black, dark, frozen, near-still and duplicate clips, and say what a run would make of them.

    No model is loaded: its configuration tells how long a window is. Limits are in the group screen.

    [dim]cogvideo-edit screen clips/ --model THUDM/CogVideoX-5b --set screen.preset=usual --csv screen.csv[/dim]
    [dim]cogvideo-edit screen clips/ --set screen.duplicates=near --set screen.action=drop[/dim]
    """
    groups = settings_of("", chosen(source, "", model, output, limit, settings), sets, settings)
    counts: Counter[str] = Counter()
    with sentences():
        table = _table(_written(_counted(_rows(groups, output), counts), csv_file), every)
    Console().print(table)
    told = ", ".join(f"{count} {verdict}" for verdict, count in sorted(counts.items()))
    typer.echo(f"{sum(counts.values())} windows: {told}")
    raise typer.Exit(PARTLY if counts["failed"] else OK)


def _rows(groups: dict[str, Any], output: str) -> Iterator[Record]:
    """A row for each window or failure, with progress on standard error."""
    from cogvideo_core.inputs.places import check_source
    from cogvideo_core.models.configuration import configured
    from cogvideo_core.planning import plan, screened
    from cogvideo_core.storage.ledger import Ledger

    dataset, spec = groups["dataset"], groups["screen"]
    check_source(dataset, False)
    ledger = Ledger(output) if output else None
    clips = plan.planned_clips(dataset, configured(groups["model"]), False, True, spec, ledger)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("windows", total=None)
        for clip in clips:
            yield screened.row(spec, clip)
            progress.advance(task)


def _counted(rows: Iterable[Record], counts: Counter[str]) -> Iterator[Record]:
    for row in rows:
        counts[row["verdict"]] += 1
        yield row


def _written(rows: Iterable[Record], path: Path | None) -> Iterator[Record]:
    """The rows, which also go to a CSV file; it appears once it is whole."""
    if path is None:
        yield from rows
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=".screen-")
    try:
        with os.fdopen(handle, "w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, COLUMNS)
            writer.writeheader()
            for row in rows:
                writer.writerow(row)
                yield row
        os.replace(part, path)
    finally:
        Path(part).unlink(missing_ok=True)


def _table(rows: Iterable[Record], every: bool) -> Table:
    table, hidden = Table(title="The screen"), 0
    for name in SHOWN:
        table.add_column(name, no_wrap=name in ("window", "verdict", "start_s", "cuts"), overflow="fold")
    for row in rows:
        if row["verdict"] == "kept" and not every:
            continue
        if table.row_count < SHOWN_ROWS:
            table.add_row(*(escape(_shown(row[name])) for name in SHOWN))
        else:
            hidden += 1
    table.caption = f"{hidden} more; --csv writes all" if hidden else None
    return table


def _shown(value: Any) -> str:
    return "" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)
