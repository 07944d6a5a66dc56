"""How a command runs a flow: what is checked before a Prefect server starts, the server, and the closing table."""

from __future__ import annotations

import importlib
import os
import signal
import sys
import threading
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

from cogvideo_core.errors import BadSpec
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.specs import ModelSpec
from flows.cli import up
from flows.cli.exits import OK, PARTLY, sentences

SERVER_STARTS_S = 1.0  # until the process of Prefect's temporary server is there and is waited for


def prepare_prefect() -> None:
    """Sets Prefect's defaults, such as telemetry off, unless the user set others; call before Prefect's import.

    SIGTERM becomes an exit: Prefect's temporary server would outlive a process that a signal kills.
    """
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "90")
    for name, value in up.connect().items():
        os.environ.setdefault(name, value)
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")


def preflight(settings: dict[str, Any], need_targets: bool = True) -> None:
    """Checks what needs no server and no weights: output, source, prompts, then the model's configuration.

    Checks that need no model come first, as they take no time. Raises the project's errors.
    """
    from cogvideo_core.inputs.places import check_places, check_source

    check_places(settings["dataset"], settings["output"])
    check_source(settings["dataset"], need_targets)
    if "judge" in settings:
        check_judge(settings["judge"])
    if "mask" in settings and (settings["mask"].detector or settings["mask"].segmenter):
        from cogvideo_core.stages.found_masks import check_finders

        check_finders(settings["mask"])
    if _nothing_to_check(settings):
        return
    from cogvideo_core.models.configuration import configured
    from cogvideo_core.planning import plan

    if not sys.stderr.isatty():
        _hide_library_bars()
    plan.check_shape(settings["dataset"], configured(settings["model"]))


def check_judge(judge: JudgeSpec) -> None:
    """Refuses a judge or a calibration that is named and can't be used. Raises ModelError, BadSpec."""
    if judge.vlm and not judge.vlm_model:
        raise BadSpec("field judge.vlm_model: is empty; name the model that judge.vlm is to be asked for")
    if judge.text not in ("auto", "none") or judge.structure:
        from cogvideo_core.judging.folders import check_judges

        check_judges(judge)
    if judge.calibration != "auto":
        from cogvideo_core.judging.policy import read_calibration

        read_calibration(Path(judge.calibration))


def _nothing_to_check(settings: dict[str, Any]) -> bool:
    """Whether the model is the shipped one, at its own size: then its libraries are imported while Prefect's server
    starts, which takes as long."""
    return settings["model"].path == ModelSpec().path and not settings["dataset"].sized


def _import_models() -> None:
    if not sys.stderr.isatty():
        _hide_library_bars()
    importlib.import_module("cogvideo_core.models.model")


def _hide_library_bars() -> None:
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def execute(flow_name: str, settings: dict[str, Any]) -> None:
    """Runs a flow in this process and ends with the exit code of its outcome."""
    prepare_prefect()
    with sentences():
        preflight(settings, need_targets=flow_name == "edit_dataset")
        from flows import edit_dataset as flows  # imports torch, diffusers and Prefect: --help need not wait for them

        meanwhile = threading.Timer(SERVER_STARTS_S, _import_models)  # an import would hold up the server's own start
        meanwhile.daemon = True
        meanwhile.start()
        counts = getattr(flows, flow_name)(**settings)
    finish(counts)


def finish(counts: dict[str, Any]) -> None:
    """The closing table, and the exit code."""
    report(counts)
    raise typer.Exit(PARTLY if counts["failed"] > counts.get("screened", 0) else OK)


def report(counts: dict[str, Any]) -> None:
    """The closing table, on standard output."""
    table = Table("what", "count", title="Edited dataset")
    for name, label in (
        ("clips", "clips"),
        ("succeeded", "succeeded"),
        ("failed", "failed"),
        ("screened", "of them screened out"),
        ("edits_made", "edits made"),
        ("edits_reused", "edits reused"),
        ("evaluations", "model evaluations"),
        ("rejected", "edits rejected"),
        ("stopped", "of them given up early"),
        ("surpassed", "edits surpassed by a candidate"),
        ("dataset_edits", "edits in the dataset"),
    ):
        if counts.get(name) or name not in ("screened", "stopped", "surpassed"):
            table.add_row(label, str(counts.get(name, 0)))
    Console().print(table)
    typer.echo(f"Dataset: {counts['root']}/dataset   Gallery: {counts['root']}/index.html")
