"""Commands that run public benchmarks: from the folder they were unpacked to, to results for their evaluators."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.metric_specs import MetricSpec
from flows.cli.exits import FAILED, OK, PARTLY, sentences
from flows.cli.options import Model, Recipe, Set, SettingsFile
from flows.cli.running import preflight, prepare_prefect, report
from flows.settings import SCORING, Groups, given_of, group_of, parse_sets, settings_file, settings_of
from tasks.progress import COLUMNS

if TYPE_CHECKING:
    from cogvideo_core.benchmarks.layout import LaidOut
    from cogvideo_core.benchmarks.prepare import Chosen, Prepared
    from cogvideo_core.benchmarks.result import Result
    from cogvideo_core.models.configuration import Configured

app = typer.Typer(no_args_is_help=True, help="Public benchmarks: run, laid out for their evaluators, and scored.")
OUTPUT = "out/{name}"
SHOWN = 5

Name = Annotated[str, typer.Argument(help="tgve, v2vbench, five, editverse, ivebench or davis.")]
Folder = Annotated[str, typer.Argument(help="The folder that the benchmark was unpacked to.")]
Output = Annotated[str, typer.Option(help="Folder of the run. Default: out/NAME.", show_default=False)]
Root = Annotated[str, typer.Argument(help="Root of a benchmark's run.")]
Which = Annotated[str, typer.Option("--name", help="Which benchmark, where the root has several.")]
PromptsFile = Annotated[
    str, typer.Option("--prompts", help="CSV, JSON or JSONL with clip, source_prompt, target_prompt, for davis.")
]
Types = Annotated[str, typer.Option(help="Only these kinds of edit, with commas between.")]
Clips = Annotated[int, typer.Option("--limit", min=0, help="Only the first so many clips. 0: all.")]
Masks = Annotated[bool, typer.Option("--edit-with-masks", help="Edits use the benchmark's masks; else only scores do.")]
Weights = Annotated[
    list[str],
    typer.Option("--set", help="Any setting, as group.field=value; models of the metrics: --set metrics.clip=FOLDER"),
]


@app.command("list")
def list_benchmarks() -> None:
    """Which benchmarks there are, how large they are, what their licence says, and which metrics they report.

    [dim]cogvideo-edit benchmark list[/dim]
    """
    from cogvideo_core.benchmarks.registry import BENCHMARKS

    table = Table("name", "benchmark", "what it has", "licence", "metrics")
    for each in BENCHMARKS.values():
        metrics = ", ".join(column.metric for column in each.columns)
        table.add_row(each.name, each.title, each.size, each.licence, metrics)
    Console().print(table)


@app.command()
def run(
    name: Name,
    folder: Folder,
    output: Output = "",
    model: Model = "",
    recipe: Recipe = "",
    prompts: PromptsFile = "",
    types: Types = "",
    limit: Clips = 0,
    masks: Masks = False,
    settings: SettingsFile = "",
    sets: Weights = [],  # noqa: B006 - typer copies it
) -> None:
    """Edit a benchmark's clips, lay the edits out for its evaluator, score them, and write benchmark.json.

    Run again, it goes on where it stopped. Exit code 3 where edits are missing.

    [dim]cogvideo-edit benchmark run tgve loveu-tgve-2023/ --model THUDM/CogVideoX-5b --recipe balanced[/dim]
    [dim]cogvideo-edit benchmark run five FiVE/data --limit 3 --set metrics.clip=clip-vit-large-patch14/[/dim]
    """
    prepare_prefect()
    with sentences():
        given, chosen = {"output": {"root": output}, "model": {"path": model}}, _chosen(prompts, types, limit, masks)
        groups, spec, prepared = _prepared(name, folder, given, recipe, settings, sets, chosen)
        preflight(groups)
        from flows import edit_dataset as flows  # imports torch, diffusers and Prefect: --help need not wait for them

        report(flows.edit_dataset(**groups))
        root = groups["output"].root
        laid = _laid_out(prepared, root)
        _close(prepared, _scored(prepared, spec, laid, root))


@app.command()
def manifest(
    name: Name,
    folder: Folder,
    output: Output = "",
    model: Model = "",
    prompts: PromptsFile = "",
    types: Types = "",
    limit: Clips = 0,
    masks: Masks = False,
    settings: SettingsFile = "",
    sets: Weights = [],  # noqa: B006
) -> None:
    """Write only the manifest of a benchmark, for a run of your own, such as a campaign; then `lay-out` and `score`.

    [dim]cogvideo-edit benchmark manifest ivebench IVEBench/ --model THUDM/CogVideoX-5b --output out/ive[/dim]
    """
    with sentences():
        given, chosen = {"output": {"root": output}, "model": {"path": model}}, _chosen(prompts, types, limit, masks)
        groups, _, prepared = _prepared(name, folder, given, "", settings, sets, chosen)
    dataset = groups["dataset"]
    typer.echo(f"{len(prepared.cases)} edits: {prepared.manifest}")
    told = "--set dataset.fit=stretch --set dataset.allow_outside=true --set screen.cuts=ignore"
    typer.echo(f"run it with --output {groups['output'].root} {told} --set dataset.frames={dataset.frames}")


@app.command("lay-out")
def lay_out(root: Root, name: Which = "") -> None:
    """Lay the edits of a root's last run out for the evaluator; those that lie there already stay.

    [dim]cogvideo-edit benchmark lay-out out/tgve[/dim]
    """
    with sentences():
        laid = _laid_out(_of(root, name), root)
    for sentence in [*laid.failed.values()][:SHOWN]:
        typer.echo(sentence, err=True)
    raise typer.Exit(PARTLY if laid.failed else OK)


@app.command()
def score(
    root: Root,
    results: Annotated[str, typer.Option(help="A folder of results laid out by another method.")] = "",
    name: Which = "",
    sets: Set = [],  # noqa: B006
) -> None:
    """Score laid-out edits again, without running: with other metric models, or those of another method.

    [dim]cogvideo-edit benchmark score out/five --set metrics.dino=dino-vitb8/[/dim]
    [dim]cogvideo-edit benchmark score out/five --results FiVE/results/Wan-Edit[/dim]
    """
    with sentences():
        spec, rest = _metrics(sets)
        if rest:
            raise BadSpec(f"field --set: {rest[0]!r} is nothing that scores depend on; give metrics.field=value")
        prepared = _of(root, name)
        if results and not Path(results).is_dir():
            raise BadSpec(f"field results: {results!r} is no folder; give one that is laid out as the evaluator wants")
        laid = None if results else _laid_out(prepared, root)
        _close(prepared, _scored(prepared, spec, laid, root, Path(results) if results else None))


def _prepared(
    name: str, folder: str, given: Groups, recipe: str, file: str, sets: list[str], chosen: Chosen
) -> tuple[dict[str, Any], MetricSpec, Prepared]:
    """The groups of the run's settings, those of the metrics, and what was prepared."""
    from cogvideo_core.benchmarks.prepare import GIVEN, prepare
    from cogvideo_core.benchmarks.registry import benchmark_of

    benchmark_of(name)
    spec, rest = _metrics(sets, file)
    if not file:
        given["output"]["root"] = given["output"]["root"] or OUTPUT.format(name=name)
    layers = given_of(given) | {"dataset": {"source": folder, **GIVEN}, "screen": {"cuts": "ignore"}}
    groups = settings_of(recipe, layers, rest, file)
    prepared = prepare(name, folder, groups["output"], chosen, groups["dataset"], _configured(groups))
    for note in prepared.notes:
        typer.echo(note, err=True)
    changed = {"source": str(prepared.manifest), "prompts": "", "limit": 0, "frames": prepared.frames}
    groups["dataset"] = groups["dataset"].model_copy(update=changed)
    return groups, spec, prepared


def _chosen(prompts: str, types: str, limit: int, masks: bool) -> Chosen:
    from cogvideo_core.benchmarks.prepare import Chosen

    return Chosen(prompts, tuple(filter(None, map(str.strip, types.split(",")))), limit, masks)


def _configured(groups: dict[str, Any]) -> Configured:
    from cogvideo_core.models.configuration import configured

    return configured(groups["model"])


def _metrics(sets: list[str], file: str = "") -> tuple[MetricSpec, list[str]]:
    """The settings of the metrics, of the settings file and of --set, and the other settings of --set."""
    own = [pair for pair in sets if pair.startswith("metrics.")]
    fields = settings_file(file).get("metrics", {}) | parse_sets(own, SCORING).get("metrics", {})
    return group_of("metrics", fields), [pair for pair in sets if pair not in own]  # type: ignore[return-value]


def _of(root: str, name: str) -> Prepared:
    from cogvideo_core.benchmarks.prepare import prepared_of

    return prepared_of(root, name)


@contextmanager
def _steps(what: str, total: int) -> Iterator[Callable[[], None]]:
    with Progress(*COLUMNS, console=Console(file=sys.stderr), disable=not sys.stderr.isatty()) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda: progress.advance(bar)


def _laid_out(prepared: Prepared, root: str) -> LaidOut:
    from cogvideo_core.benchmarks.layout import RESULTS, lay_out

    with _steps("laid out", len(prepared.cases)) as step:
        laid = lay_out(prepared, root, step)
    typer.echo(f"{len(laid.rows)} of {len(prepared.cases)} edits lie in {prepared.place / RESULTS}, {laid.written} new")
    return laid


def _scored(
    prepared: Prepared, spec: MetricSpec, laid: LaidOut | None, root: str, results: Path | None = None
) -> Result:
    from cogvideo_core.benchmarks.result import score

    with _steps("scored", len(prepared.cases)) as step:
        return score(prepared, spec, laid, root, results, step)


def _close(prepared: Prepared, result: Result) -> None:
    """The benchmark's table, what is missing, and the exit code."""
    from cogvideo_core.benchmarks.result import lines

    table = Table(*(head := lines(prepared, result))[0], title=prepared.benchmark.title)
    for line in head[1:]:
        table.add_row(*line)
    Console().print(table)
    for sentence in [*result.failed.values()][:SHOWN]:
        typer.echo(sentence, err=True)
    if result.failed:
        typer.echo(f"{len(result.failed)} of {len(prepared.cases)} edits have no figures", err=True)
    if result.unmeasured:
        typer.echo(f"not measured, for want of their models: {', '.join(result.unmeasured)}", err=True)
    typer.echo(f"Result: {result.file}")
    scored = len(prepared.cases) - len(result.failed)
    raise typer.Exit(OK if not result.failed else PARTLY if scored else FAILED)
