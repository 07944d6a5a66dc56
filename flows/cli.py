"""The command line. Exit codes: 0 all done, 1 the run failed, 2 wrong settings, 3 some clips failed."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.table import Table

from cogvideo_core.presets import PRESET_INVERSIONS, PRESETS
from cogvideo_core.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec, Spec
from flows import cli_plan, cli_up, upkeep
from flows.cli_options import Model, Output, Prompts, Recipe, Set, Source, chosen
from flows.exits import OK, PARTLY, sentences

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Edit a whole dataset of videos with CogVideoX.",
)
shapes_app = typer.Typer(no_args_is_help=True, help="The small world of moving shapes that comes along.")
app.add_typer(shapes_app, name="shapes")
study_app = typer.Typer(no_args_is_help=True, help="Studies whose figures stand in docs/.")
app.add_typer(study_app, name="study")
app.add_typer(cli_plan.app)
app.add_typer(upkeep.app)
app.add_typer(cli_up.app)

GROUPS: dict[str, type[Spec]] = {
    "dataset": DatasetSpec,
    "model": ModelSpec,
    "inversion": InversionSpec,
    "recipe": RecipeSpec,
    "output": OutputSpec,
    "engine": EngineSpec,
}


def parse_sets(pairs: list[str]) -> dict[str, dict[str, Any]]:
    """["recipe.seeds=[0,1]"] -> {"recipe": {"seeds": [0, 1]}}; values are JSON where they parse as such, else text."""
    found: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        path, equals, text = pair.partition("=")
        group, dot, field = path.partition(".")
        if not equals or not dot or group not in GROUPS:
            problem = f"{pair!r} is not group.field=value; groups are {', '.join(GROUPS)}"
            raise typer.BadParameter(problem, param_hint="--set")
        try:
            value = json.loads(text)
        except json.JSONDecodeError:
            value = text
        found.setdefault(group, {})[field] = value
    return found


def settings_of(recipe: str, given: dict[str, dict[str, Any]], sets: list[str]) -> dict[str, Any]:
    """The six groups from a preset, the command's own options and --set, the last of which wins."""
    if recipe not in PRESETS:
        raise typer.BadParameter(f"{recipe!r} is no preset; there are {', '.join(PRESETS)}", param_hint="--recipe")
    given = {"recipe": PRESETS[recipe].as_json(), **given}
    if recipe in PRESET_INVERSIONS:
        given["inversion"] = PRESET_INVERSIONS[recipe].as_json()
    for group, fields in parse_sets(sets).items():
        given[group] = given.get(group, {}) | fields
    return {name: group_of(name, given.get(name, {})) for name in GROUPS}


def group_of(name: str, fields: dict[str, Any]) -> Spec:
    """One group of settings; what is wrong is said as `group.field: problem`."""
    try:
        return GROUPS[name](**fields)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, (name, *e['loc'])))}: {e['msg']}" for e in error.errors()]
        raise typer.BadParameter("; ".join(lines)) from error


def prepare_prefect() -> None:
    """Telemetry off, and no server log between the bars, unless the user says otherwise; before Prefect's import.

    SIGTERM ends the command by an exit: Prefect's temporary server would outlive a process that a signal ends.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
    for name, value in cli_up.connect().items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():
        from diffusers.utils import logging as diffusers_logging
        from transformers.utils import logging as transformers_logging

        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
        diffusers_logging.disable_progress_bar()
        transformers_logging.disable_progress_bar()


def execute(flow_name: str, settings: dict[str, Any]) -> None:
    """Runs a flow in this process and ends with the exit code of its outcome."""
    prepare_prefect()
    from flows import edit_dataset as flows  # imports torch, diffusers and Prefect: --help need not wait for them

    with sentences():
        counts = getattr(flows, flow_name)(**settings)
    report(counts)
    raise typer.Exit(PARTLY if counts["failed"] else OK)


def report(counts: dict[str, Any]) -> None:
    """The closing table, on standard output."""
    table = Table("what", "count", title="Edited dataset")
    for name, label in (
        ("clips", "clips"),
        ("succeeded", "succeeded"),
        ("failed", "failed"),
        ("edits_made", "edits made"),
        ("edits_reused", "edits reused"),
        ("evaluations", "model evaluations"),
        ("dataset_edits", "edits in the dataset"),
    ):
        table.add_row(label, str(counts[name]))
    Console().print(table)
    typer.echo(f"Dataset: {counts['root']}/dataset   Gallery: {counts['root']}/index.html")


@app.command()
def run(
    source: Source,
    output: Output = "out/run",
    prompts: Prompts = "",
    model: Model = "shapes",
    recipe: Recipe = "balanced",
    sets: Set = [],  # noqa: B006 - typer copies it
) -> None:
    """Edit every clip for every prompt. What is committed already is reused.

    [dim]cogvideo-edit run clips/ --prompts prompts.txt --output out/run[/dim]
    [dim]cogvideo-edit run s3://bucket/manifest.parquet --model THUDM/CogVideoX-5b --set model.dtype=bfloat16[/dim]
    """
    execute("edit_dataset", settings_of(recipe, chosen(source, prompts, model, output), sets))


@app.command()
def invert(
    source: Source,
    output: Output = "out/run",
    prompts: Prompts = "",
    model: Model = "shapes",
    sets: Set = [],  # noqa: B006
) -> None:
    """Encode and invert every clip, so that later runs on the same output only edit.

    [dim]cogvideo-edit invert manifest.jsonl --output out/run[/dim]
    """
    settings = settings_of("balanced", chosen(source, prompts, model, output), sets)
    del settings["recipe"]
    execute("invert_dataset", settings)


@app.command()
def demo(
    output: Output = "out/demo",
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
    from cogvideo_core.ledger import Ledger
    from cogvideo_core.tables import collect_run

    with sentences():
        counts = collect_run(OutputSpec(root=output, verify=verify.value), Ledger(output), [], {})
    typer.echo(f"{counts['edits']} edits of {counts['clips']} clips, {counts['errors']} errors in the table")


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


@study_app.command("inversion")
def study_inversion(
    json_file: Annotated[Path, typer.Option("--json", help="Where the figures go, as JSON.")],
    limit: Annotated[int, typer.Option(min=2, help="How many of the bench's clips.")] = 24,
    model: Model = "shapes",
    page: Annotated[Path | None, typer.Option(help="A markdown page whose tables and figures are renewed.")] = None,
) -> None:
    """Compare inverters and the causes of their errors on held-out shapes clips.

    [dim]cogvideo-edit study inversion --json docs/inversion.json --page docs/inversion.md[/dim]
    """
    from cogvideo_core.study.run import inversion_study

    with sentences():
        inversion_study(model, limit, json_file, page, typer.echo)


if __name__ == "__main__":
    app()
