"""Commands of wide runs: plan, retry-failed, campaign."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flows.cli.exits import OK, PARTLY, sentences
from flows.cli.options import Limit, Model, Output, Prompts, Recipe, Set, SettingsFile, Source
from flows.cli.running import finish, preflight, prepare_prefect
from flows.settings import chosen, settings_of

app = typer.Typer()


@app.command()
def plan(
    source: Source = "",
    output: Output = "",
    prompts: Prompts = "",
    model: Model = "",
    recipe: Recipe = "",
    limit: Limit = 0,
    settings: SettingsFile = "",
    probe: Annotated[bool, typer.Option("--probe", help="Open each clip: its size, length and hash.")] = False,
    estimate: Annotated[bool, typer.Option(help="Measure the model and say what the run will cost.")] = True,
    sets: Set = [],  # noqa: B006 - typer copies it
) -> None:
    """Write the plan of a run and say what it will cost; nothing is edited.

    [dim]cogvideo-edit plan manifest.parquet --output out/run --probe[/dim]
    """
    groups = settings_of(recipe, chosen(source, prompts, model, output, limit, settings), sets, settings)
    prepare_prefect()
    with sentences():
        preflight(groups)
        from flows.planning import plan_dataset

        planned: Any = plan_dataset(**groups, probe=probe, estimate=estimate)
    table = Table("what", "estimate", title="The plan")
    for what, value in planned["rows"]:
        table.add_row(what, value)
    Console().print(table)
    typer.echo(f"Plan: {groups['output'].root}/plan/clips.parquet, edits.parquet, refused.parquet")
    raise typer.Exit(PARTLY if planned["refused"] else OK)


@app.command()
def retry_failed(
    root: Annotated[str, typer.Argument(help="Root of a run: a folder or fsspec URL.")],
    parked: Annotated[bool, typer.Option("--parked", help="Also what was tried too often.")] = False,
) -> None:
    """Run again what failed, and nothing else, with the settings of the root's last run.

    [dim]cogvideo-edit retry-failed out/run[/dim]
    """
    prepare_prefect()
    from flows import resuming

    with sentences():
        counts: Any = resuming.retry_failed(root, include_parked=parked)
    finish(counts)


@app.command()
def campaign(
    source: Source = "",
    output: Output = "",
    prompts: Prompts = "",
    model: Model = "",
    recipe: Recipe = "",
    limit: Limit = 0,
    settings: SettingsFile = "",
    deployment: Annotated[str, typer.Option(help="Of the flow edit-wave.")] = "edit-wave/edit-wave",
    waves: Annotated[int, typer.Option(min=1, help="Waves at a time.")] = 1,
    sets: Set = [],  # noqa: B006
) -> None:
    """Run a large dataset as waves on Prefect workers; finished waves of the same plan are not run again.

    [dim]cogvideo-edit campaign s3://bucket/manifest.parquet --output s3://bucket/run --waves 8[/dim]
    """
    groups = settings_of(recipe, chosen(source, prompts, model, output, limit, settings), sets, settings)
    prepare_prefect()
    with sentences():
        preflight(groups)
        from flows import resuming

        counts: Any = resuming.run_campaign(**groups, deployment=deployment, waves_in_flight=waves)
    finish(counts)
