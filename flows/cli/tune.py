"""The command that searches for a recipe: tune."""

from __future__ import annotations

from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flows.cli.exits import OK, sentences
from flows.cli.options import Limit, Model, Output, Prompts, Set, SettingsFile, Source
from flows.cli.running import preflight, prepare_prefect
from flows.settings import chosen, given_of, tuning_of

app = typer.Typer()
LABELS = {
    "trials": "recipes tried",
    "complete": "seen on all clips",
    "pruned": "given up early",
    "failed": "failed",
    "clips": "clips to tune on",
    "held_out": "held-out clips",
    "evaluations": "model evaluations",
}


@app.command()
def tune(
    source: Source = "",
    output: Output = "",
    prompts: Prompts = "",
    model: Model = "",
    budget: Annotated[str, typer.Option(help="Time for the search: 2h, 90m, 1h30m. Default: 2h.")] = "",
    trials: Annotated[int, typer.Option(min=0, help="Recipes that are tried at most. 0: any number.")] = 0,
    against: Annotated[str, typer.Option(help="Preset that the pick is to replace. Default: balanced.")] = "",
    limit: Limit = 0,
    settings: SettingsFile = "",
    sets: Set = [],  # noqa: B006 - typer copies it
) -> None:
    """Find a recipe for your own model on a few of your clips, by the judge; done again, the search goes on.

    Clips are spread over the source and inverted once, so that a trial costs edits alone. OUTPUT/tune then has
    recipe.yaml for --recipe, a page with the Pareto front, and tune.json. A model other than shapes needs a text
    judge: --set judge.text=FOLDER of a CLIP, SigLIP or X-CLIP model.

    [dim]cogvideo-edit tune clips/ --prompts prompts.txt --budget 10m[/dim]
    [dim]cogvideo-edit tune in.jsonl --model THUDM/CogVideoX-5b --set judge.text=openai/clip-vit-base-patch32[/dim]
    """
    given = chosen(source, prompts, model, output, limit, settings)
    given |= given_of({"tune": {"budget": budget, "trials": trials, "against": against}})
    groups = tuning_of(given, sets, settings)
    prepare_prefect()
    with sentences():
        preflight(groups)
        from cogvideo_core.tuning.preparing import check_judge

        check_judge(groups["judge"], groups["model"].path)
        from flows.tuning import tune_recipe

        counts: Any = tune_recipe(**groups)
    _report(dict(counts))
    raise typer.Exit(OK)


def _report(counts: dict[str, Any]) -> None:
    table = Table("what", "count", title="A recipe for this model")
    for name, label in LABELS.items():
        table.add_row(label, f"{counts[name]:,}")
    Console().print(table)
    pick, folder = counts["pick"], f"{counts['root']}/tune"
    said = f"The pick is {pick['name']}; confirmed: {counts['confirmed']}" if pick else "No recipe was better: it stays"
    typer.echo(f"{said}   Recipe: {folder}/recipe.yaml   Page: {folder}/index.html")
