"""The command that describes clips: write-manifest."""

from __future__ import annotations

import shlex
from enum import StrEnum
from typing import Annotated, Any

import typer

from flows.cli.exits import OK, PARTLY, sentences
from flows.cli.options import Limit, Model, Prompts, Set, SettingsFile
from flows.cli.running import prepare_prefect
from flows.settings import Groups, describing_of, given_of

app = typer.Typer()


class By(StrEnum):
    endpoint = "endpoint"
    template = "template"
    none = "none"


@app.command("write-manifest")
def write_manifest(
    source: Annotated[str, typer.Argument(help="As of cogvideo-edit run.")],
    out: Annotated[str, typer.Argument(help="The manifest to write, a .jsonl file; best in the folder of the clips.")],
    endpoint: Annotated[
        str, typer.Option(help="Address of an OpenAI-compatible endpoint, http://host:8000/v1: captions.url.")
    ] = "",
    endpoint_model: Annotated[str, typer.Option(help="The model's name there: captions.model.")] = "",
    instructions: Annotated[
        By | None,
        typer.Option(
            help="endpoint: its model writes target prompts and instructions (the default). template: instructions "
            "follow from the rows' own prompts, and nobody is asked. none: captions alone."
        ),
    ] = None,
    prompts: Prompts = "",
    model: Model = "",
    limit: Limit = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Also a manifest that was edited by hand.")] = False,
    settings: SettingsFile = "",
    sets: Set = [],  # noqa: B006 - typer copies it
) -> None:
    """Write a manifest with captions, target prompts and instructions, to be edited by hand and then run.

    Answers are kept beside it, in OUT.answers: a second call asks only what is missing. Keys of endpoints are read
    from COGVIDEO_EDIT_CAPTIONS_KEY and COGVIDEO_EDIT_INSTRUCTIONS_KEY.

    [dim]cogvideo-edit write-manifest in/ in/edits.jsonl --endpoint http://host:8000/v1 --endpoint-model NAME[/dim]
    [dim]cogvideo-edit write-manifest pairs.csv edits.jsonl --instructions template[/dim]
    """
    given: Groups = {
        "dataset": {"source": source, "prompts": prompts, "limit": limit},
        "model": {"path": model},
        "captions": {"url": endpoint, "model": endpoint_model},
        "instructions": {"by": instructions.value if instructions else ""},
    }
    groups = describing_of(given_of(given), sets, settings)
    prepare_prefect()
    with sentences():
        counts = _written(groups, out, overwrite)
    typer.echo(f"{counts['rows']} rows of {counts['clips'] - counts['failed']} clips, {counts['failed']} clips failed")
    _tell(groups["dataset"], out, counts["failed"])
    raise typer.Exit(PARTLY if counts["failed"] else OK)


def _written(groups: dict[str, Any], out: str, overwrite: bool) -> dict[str, Any]:
    """Runs the flow, after what can be checked without a server."""
    from cogvideo_core.inputs.places import check_source
    from flows.describing import check_describing, describe_dataset

    check_describing(groups["dataset"], groups["captions"], groups["instructions"], out, overwrite)
    check_source(groups["dataset"], need_targets=False)
    counts: Any = describe_dataset(**groups, out=out, overwrite=overwrite)
    return dict(counts)


def _tell(dataset: Any, out: str, failed: int) -> None:
    from cogvideo_core.captions import manifest

    if failed:
        typer.echo(f"Clips that failed: {manifest.errors_of(out)}   To try them again: the same command")
    typer.echo(f"To edit by it: cogvideo-edit run {shlex.join(manifest.run_words(dataset, out))}")
