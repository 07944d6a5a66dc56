"""Commands that look after what is stored: inspect, verify, gc, du."""

from __future__ import annotations

from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from flows.cli.exits import FAILED, OK, sentences

app = typer.Typer()
Root = Annotated[str, typer.Argument(help="Root of a run: a folder or fsspec URL.")]


class Verify(StrEnum):
    none = "none"
    size = "size"
    full = "full"


class Keep(StrEnum):
    all = "all"
    until_edited = "until_edited"
    none = "none"


@app.command()
def inspect(
    target: Annotated[str, typer.Argument(help="A unit's folder or URL, or a key (or its beginning).")],
    root: Annotated[str, typer.Option(help="Root of the run, where a key is given.")] = "out/demo",
    model: Annotated[str, typer.Option(help="Decodes a strip of frames: shapes, a diffusers folder, a hub id.")] = "",
    strip: Annotated[
        Path | None, typer.Option(help="Where the strip goes, as PNG: strip.png where --model is given.")
    ] = None,
) -> None:
    """Show what is stored under a key: specification, files, checksums; with a model, a strip of frames.

    A mask's strip needs no model: name the file with --strip.

    [dim]cogvideo-edit inspect 3f9a --root out/demo[/dim]
    [dim]cogvideo-edit inspect out/demo/trajectories/3f/3f9a... --model shapes --strip strip.png[/dim]
    """
    from cogvideo_core.upkeep.inspect import describe, find_units, save_strip

    with sentences():
        units = find_units(target, root)
    if not units:
        typer.echo(f"nothing committed under {target!r} in {root!r}; check the key and --root", err=True)
        raise typer.Exit(FAILED)
    damaged = False
    for ledger, commit in units:
        text, good = describe(ledger, commit)
        damaged |= not good
        typer.echo(text)
    if (model or strip) and not damaged:
        with sentences():
            typer.echo(f"strip: {save_strip(*units[0], model, strip or Path('strip.png'))}")
    raise typer.Exit(FAILED if damaged else OK)


@app.command()
def verify(
    root: Root,
    how: Annotated[Verify, typer.Option(help="full reads and hashes every byte; size asks for sizes.")] = Verify.full,
) -> None:
    """Check all units and collected videos under a root; names what is damaged, and changes nothing.

    Exit code 0 when all is well, 1 when something is not. A run with output.verify=full repairs it.

    [dim]cogvideo-edit verify out/run[/dim]
    """
    from cogvideo_core.upkeep.verify import verify_tree

    found = 0
    with sentences():
        for finding in verify_tree(root, how.value):
            typer.echo(f"{finding.name}: {finding.what}")
            found += 1
    remedy = "; to repair: run with --set output.verify=full, or collect --verify full" if found else ""
    typer.echo(f"{found} problems under {root}{remedy}", err=bool(found))
    raise typer.Exit(FAILED if found else OK)


@app.command()
def gc(
    root: Root,
    delete: Annotated[bool, typer.Option("--delete", help="Really remove; else only say what would go.")] = False,
    keep: Annotated[Keep | None, typer.Option(help="Of trajectories; as the root's last run if not given.")] = None,
    older_h: Annotated[float, typer.Option("--older-than", min=0, help="Hours; younger ones may be in use.")] = 24,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Also what was set aside.")] = False,
) -> None:
    """Find attempts that were never committed and trajectories past their retention; a dry run unless --delete.

    [dim]cogvideo-edit gc out/run[/dim]
    [dim]cogvideo-edit gc out/run --keep until_edited --older-than 48 --delete[/dim]
    """
    from cogvideo_core.upkeep.verify import garbage, open_root, remove, retention

    with sentences():
        ledger = open_root(root)
        kept = keep.value if keep else retention(ledger)
        found = list(garbage(ledger, kept, timedelta(hours=older_h), quarantine))
        for finding in found:
            typer.echo(f"{finding.name}: {finding.what}")
        if delete:
            remove(ledger, found)
    verb = "removed" if delete else "would go; --delete removes them"
    typer.echo(f"{len(found)} objects, {sum(finding.size for finding in found):,} bytes {verb}")


@app.command()
def du(root: Root) -> None:
    """Objects and bytes of each stage under a root.

    [dim]cogvideo-edit du s3://bucket/run[/dim]
    """
    from cogvideo_core.upkeep.verify import open_root, usage

    with sentences():
        rows = usage(open_root(root))
    table = Table("what", "objects", "bytes")
    for name, (objects, size) in rows.items():
        table.add_row(name or "(root)", f"{objects:,}", f"{size:,}")
    table.add_row("all", f"{sum(n for n, _ in rows.values()):,}", f"{sum(size for _, size in rows.values()):,}")
    Console().print(table)
