"""The command line. Exit codes: 0 all done, 1 the run failed, 2 wrong settings, 3 some clips failed."""

from __future__ import annotations

import os
from importlib import metadata
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cogvideo_core.settings.specs import OutputSpec
from flows.cli import benchmark, describe, export, judge, plan, screen, study, tune, up, upkeep
from flows.cli.exits import sentences
from flows.cli.options import Limit, Model, Output, Prompts, Recipe, Set, SettingsFile, Source
from flows.cli.running import execute
from flows.settings import EVERY, chosen, described, nearest, settings_of

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Edit a whole dataset of videos with CogVideoX.",
)
shapes_app = typer.Typer(no_args_is_help=True, help="The small world of moving shapes that comes along.")
app.add_typer(shapes_app, name="shapes")
app.add_typer(study.app, name="study")
app.add_typer(benchmark.app, name="benchmark")
app.add_typer(plan.app)
app.add_typer(screen.app)
app.add_typer(describe.app)
app.add_typer(judge.app)
app.add_typer(export.app)
app.add_typer(tune.app)
app.add_typer(upkeep.app)
app.add_typer(up.app)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"cogvideo-edit {metadata.version('cogvideo-edit')}")
        raise typer.Exit


@app.callback()
def everywhere(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of expected errors too.")] = False,
) -> None:
    """Options that stand before the command's name."""
    if debug:
        os.environ["COGVIDEO_EDIT_DEBUG"] = "1"


@app.command()
def run(
    source: Source = "",
    output: Output = "",
    prompts: Prompts = "",
    model: Model = "",
    recipe: Recipe = "",
    limit: Limit = 0,
    settings: SettingsFile = "",
    sets: Set = [],  # noqa: B006 - typer copies it
) -> None:
    """Edit every clip for every prompt. What is committed already is reused.

    [dim]cogvideo-edit run clips/ --prompts prompts.txt --output out/run[/dim]
    [dim]cogvideo-edit run s3://bucket/manifest.parquet --model THUDM/CogVideoX-5b --limit 3[/dim]
    """
    given = chosen(source, prompts, model, output, limit, settings)
    execute("edit_dataset", settings_of(recipe, given, sets, settings))


@app.command()
def invert(
    source: Source = "",
    output: Output = "",
    prompts: Prompts = "",
    model: Model = "",
    limit: Limit = 0,
    settings: SettingsFile = "",
    sets: Set = [],  # noqa: B006
) -> None:
    """Encode and invert every clip, so that later runs on the same output only edit.

    [dim]cogvideo-edit invert manifest.jsonl --output out/run[/dim]
    """
    groups = settings_of("", chosen(source, prompts, model, output, limit, settings), sets, settings)
    del groups["recipe"], groups["judge"], groups["mask"]
    execute("invert_dataset", groups)


@app.command()
def demo(
    output: Annotated[str, typer.Option(help="Folder of the run.")] = "out/demo",
    clips: Annotated[int, typer.Option(min=1, max=48, help="How many clips.")] = 3,
    sets: Set = [],  # noqa: B006
) -> None:
    """Make a few shapes clips and edit each for four prompts, with the model that comes along.

    [dim]cogvideo-edit demo && xdg-open out/demo/index.html[/dim]
    """
    from cogvideo_core.shapes.make import make_clips

    manifest = make_clips(Path(output) / "input", clips, prompts=4)
    given = {"dataset": {"source": str(manifest)}, "output": {"root": output}}
    execute("edit_dataset", settings_of("balanced", given, sets))


@app.command()
def collect(
    output: Annotated[str, typer.Argument(help="Root of a run.")],
    verify: Annotated[upkeep.Verify, typer.Option(help="full also compares every copied video.")] = upkeep.Verify.size,
) -> None:
    """Rebuild dataset, tables and gallery from what is committed under a run's root.

    [dim]cogvideo-edit collect out/run[/dim]
    """
    from cogvideo_core.dataset.tables import collect_run
    from cogvideo_core.storage.ledger import Ledger

    with sentences():
        counts = collect_run(OutputSpec(root=output, verify=verify.value), Ledger(output), [], {})
    typer.echo(f"{counts['edits']} edits of {counts['clips']} clips, {counts['errors']} errors in the table")


@app.command()
def settings(
    group: Annotated[str, typer.Argument(help=f"{', '.join(EVERY)}; all without it.")] = "",
) -> None:
    """List every setting with its default, what is allowed, and what it does.

    [dim]cogvideo-edit settings recipe[/dim]
    """
    if group and group not in EVERY:
        raise typer.BadParameter(f"{group!r} is no group; there are {', '.join(EVERY)}{nearest(group, EVERY)}")
    for name in [group] if group else EVERY:
        table = Table(title=EVERY[name].__doc__, title_justify="left")
        table.add_column("setting", no_wrap=True)
        for column in ("default", "allowed", "what it does"):
            table.add_column(column)
        for field, default, allowed, about in described(name):
            table.add_row(f"{name}.{field}", default, allowed, about)
        Console().print(table)


@shapes_app.command()
def make(
    folder: Annotated[Path, typer.Argument(help="Where the clips and the manifest go.")],
    clips: Annotated[int, typer.Option(min=1, help="How many clips.")] = 12,
    prompts: Annotated[int, typer.Option(min=1, max=4, help="Target prompts a clip.")] = 4,
    seed: Annotated[int, typer.Option(min=0, help="Of the first clip.")] = 0,
) -> None:
    """Write mp4 clips of moving shapes with captions, target prompts and a manifest.

    [dim]cogvideo-edit shapes make clips/ --clips 40[/dim]
    """
    from cogvideo_core.shapes.make import make_clips

    typer.echo(make_clips(folder, clips, prompts, seed))


if __name__ == "__main__":
    app()
