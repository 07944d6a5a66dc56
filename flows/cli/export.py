"""The command that exports a run's edits in the formats of training code, and pushes an export to the hub."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cogvideo_core.exports.spec import ExportSpec
from flows.cli.exits import OK, PARTLY, sentences
from tasks.progress import COLUMNS

app = typer.Typer()
HUB = "hf://"


class Which(StrEnum):
    kept = "kept"
    passed = "passed"
    all = "all"


class Checked(StrEnum):
    full = "full"
    size = "size"


@app.command()
def export(
    root: Annotated[str, typer.Argument(help="Root of a run; with --to hf://user/name, the folder of an export.")],
    dest: Annotated[str, typer.Argument(help="Where the export goes: a folder or fsspec URL of its own.")] = "",
    to: Annotated[
        str, typer.Option(help="webdataset, parquet, finetrainers or triplets; or hf://user/name to push an export.")
    ] = "webdataset",
    which: Annotated[
        Which, typer.Option(help="kept: those of dataset/; passed: all that were not rejected; all: every edit.")
    ] = Which.kept,
    split: Annotated[str, typer.Option(help="Splits by clip, such as train=0.9,validation=0.1.")] = "",
    dedupe: Annotated[bool, typer.Option("--dedupe", help="Drop edits equal in source, prompt and video.")] = False,
    shard_mb: Annotated[int, typer.Option(min=1, max=100_000, help="Megabytes of video in a shard.")] = 500,
    verify: Annotated[
        Checked, typer.Option(help="How shards that are there already are checked: every byte, or their size.")
    ] = Checked.full,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another export; files that no export has made stay.")
    ] = False,
    private: Annotated[bool, typer.Option("--private", help="Of a repository that the push makes.")] = False,
) -> None:
    """Write the edits of a run as tar shards, Parquet, or folders for training; done again, it goes on.

    Exit code 3 where edits had to be left out because their videos are gone.

    [dim]cogvideo-edit export out/run out/wds --to webdataset --split train=0.9,validation=0.1[/dim]
    [dim]cogvideo-edit export out/run s3://bucket/edits --to parquet --which passed --dedupe[/dim]
    [dim]cogvideo-edit export out/wds --to hf://user/name --private[/dim]
    """
    if to.startswith(HUB):
        _push(root, dest, to, private)
        return
    if not dest:
        raise typer.BadParameter("name the folder or URL that the export goes to", param_hint="DEST")
    chosen = {"to": to, "which": which.value, "split": split, "dedupe": dedupe, "shard_mb": shard_mb}
    spec = _spec(chosen | {"verify": verify.value, "overwrite": overwrite})
    with sentences():
        counts = _run(root, dest, spec)
    _report(counts)
    raise typer.Exit(PARTLY if counts["left_out"] else OK)


def _spec(fields: dict[str, Any]) -> ExportSpec:
    try:
        return ExportSpec(**fields)
    except ValidationError as error:
        first = error.errors()[0]
        given = f", not {first['input']!r}" if first["type"] != "value_error" else ""
        problem = first["msg"].removeprefix("Value error, ")
        raise typer.BadParameter(f"{problem}{given}", param_hint=f"--{first['loc'][0]}".replace("_", "-")) from error


def _push(folder: str, dest: str, to: str, private: bool) -> None:
    from cogvideo_core.exports.hub import push

    if dest:
        raise typer.BadParameter("a push takes the folder of an export alone", param_hint="DEST")
    with sentences():
        typer.echo(f"Pushed: {push(folder, to, private)}")


def _run(root: str, dest: str, spec: ExportSpec) -> dict[str, Any]:
    from cogvideo_core.exports.export import export as run

    with Progress(*COLUMNS, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task("edits", total=None)
        return run(root, dest, spec, lambda: progress.advance(bar), lambda total: progress.update(bar, total=total))


def _report(counts: dict[str, Any]) -> None:
    for sentence in counts["sentences"]:
        typer.echo(sentence, err=True)
    if (more := counts["left_out"] - len(counts["sentences"])) > 0:
        typer.echo(f"{more:,} more edits are left out", err=True)
    table = Table("what", "count", title="Export")
    for name, label in (
        ("edits", "edits"),
        ("clips", "clips"),
        ("duplicates", "duplicates dropped"),
        ("left_out", "left out, as their videos are gone"),
        ("shards", "shards written"),
        ("shards_kept", "shards kept"),
    ):
        table.add_row(label, f"{counts[name]:,}")
    for name, edits in counts["splits"].items():
        table.add_row(f"edits in {name}", f"{edits:,}")
    table.add_row("megabytes", f"{counts['bytes'] / 1e6:,.1f}")
    table.add_row("megabytes a second", f"{counts['bytes'] / 1e6 / max(counts['seconds'], 1e-9):,.1f}")
    Console().print(table)
