"""Commands that say which edits are good: judge, review, calibrate."""

from __future__ import annotations

import contextlib
import secrets
import signal
import webbrowser
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from flows.cli.exits import FAILED, sentences
from flows.cli.options import Set
from flows.cli.running import check_judge, prepare_prefect
from flows.settings import group_of, parse_sets

app = typer.Typer()
Root = Annotated[str, typer.Argument(help="Root of a run: a folder or fsspec URL.")]


@app.command()
def judge(
    root: Root,
    text: Annotated[str, typer.Option(help="Folder or hub id of the text judge; without it, the last run's.")] = "",
    preset: Annotated[str, typer.Option(help="strict, balanced or off; without it, the last run's.")] = "",
    sets: Set = [],  # noqa: B006 - typer copies it
) -> None:
    """Judge every edit of a run, decide which ones are kept, and rebuild dataset and gallery. Nothing is edited.

    [dim]cogvideo-edit judge out/run --preset strict[/dim]
    [dim]cogvideo-edit judge out/run --text openai/clip-vit-large-patch14 --set judge.most_colour_shift=6[/dim]
    """
    given = {name: value for name, value in (("text", text), ("preset", preset)) if value}
    asked = parse_sets(sets)
    if other := asked.keys() - {"judge"}:
        raise typer.BadParameter(f"only judge.field=value is of use here, not {min(other)}", param_hint="--set")
    with sentences():
        from cogvideo_core.dataset.tables import kept_settings

        last = dict(kept_settings(root, {}).get("judge", {}))
    changed = given | asked.get("judge", {})
    if "preset" in changed:  # limits that came from the last preset give way
        last = {name: value for name, value in last.items() if not name.startswith(("least_", "most_"))}
    spec: Any = group_of("judge", last | changed)
    prepare_prefect()
    with sentences():
        check_judge(spec)
        from flows.judging import judge_dataset

        counts: Any = judge_dataset(root, spec)
    typer.echo(f"{counts['judged']} edits judged; {counts['edits']} in the dataset, {counts['rejected']} rejected")
    typer.echo(f"Dataset: {root}/dataset   Gallery: {root}/index.html")


@app.command()
def calibrate(
    root: Root,
    labels: Annotated[
        str,
        typer.Option(
            help="JSONL or CSV with edit_key and label (accept or reject). Without it, what was said in "
            "cogvideo-edit review."
        ),
    ] = "",
) -> None:
    """Fit the judge to a few dozen edits that a person has labelled; the limits are kept under the root.

    [dim]cogvideo-edit calibrate out/run --labels labels.csv && cogvideo-edit judge out/run[/dim]
    """
    with sentences():
        from cogvideo_core.dataset.labels import calibrate as fitted
        from cogvideo_core.dataset.labels import read_labels
        from cogvideo_core.dataset.reviews import labels_of

        _, figures = fitted(root, read_labels(labels) if labels else labels_of(reviews_of(root)))
    table = Table("what", "figure", title="On these labels")
    for row in figures:
        table.add_row(*row)
    Console().print(table)
    typer.echo(f"Calibration: {root}/plan/calibration.json   To decide anew: cogvideo-edit judge {root}")


@app.command()
def review(
    root: Annotated[str, typer.Argument(help="Root of a run: a folder on this machine.")],
    port: Annotated[int, typer.Option(min=0, max=65535, help="Of the page; 0 takes a free one.")] = 0,
    browser: Annotated[bool, typer.Option(help="Open the page in a browser.")] = True,
) -> None:
    """Keep and reject edits by eye, in a page that only this machine can reach. Ctrl-C ends it.

    What is said goes to reviews.jsonl under the root, stands above the judge, and feeds calibrate.

    [dim]cogvideo-edit review out/run && cogvideo-edit collect out/run[/dim]
    """
    from flows.server.review import serve_review

    with sentences():
        place = reviewable(root)
    token = secrets.token_urlsafe(24)
    try:
        server = serve_review(place, token, port)
    except OSError as error:
        typer.echo(f"failed: port {port} can't be used ({error.strerror}); give another --port", err=True)
        raise typer.Exit(FAILED) from error
    address = f"http://127.0.0.1:{server.server_address[1]}/?token={token}"
    typer.echo(f"Review: {address}   Ctrl-C ends it")
    if browser:
        webbrowser.open(address)
    for number in (signal.SIGINT, signal.SIGTERM):  # also where a shell has started us with Ctrl-C ignored
        signal.signal(number, signal.default_int_handler)
    with contextlib.suppress(KeyboardInterrupt), server:
        server.serve_forever()
    typer.echo(f"{len(reviews_of(root))} edits are reviewed. To apply that: cogvideo-edit collect {root}")


def reviewable(root: str) -> Path:
    """The folder of a run with a gallery. Raises BadSpec."""
    from cogvideo_core.errors import BadSpec
    from cogvideo_core.storage.uris import is_remote, local_path

    if is_remote(root):
        raise BadSpec(f"field root: {root!r} is not on this machine; review a copy of it, or mount it")
    place = Path(local_path(root))
    if not (place / "index.html").is_file():
        raise BadSpec(f"field root: there is no gallery in {root!r}; make one with cogvideo-edit collect {root}")
    return place


def reviews_of(root: str) -> dict[str, Any]:
    """What was said of the edits of a run: `read_reviews`."""
    from cogvideo_core.dataset.reviews import read_reviews
    from cogvideo_core.storage.ledger import Ledger

    return dict(read_reviews(Ledger(root)))
