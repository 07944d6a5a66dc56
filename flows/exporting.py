"""The flow that exports a run's edits in the formats of training code."""

from __future__ import annotations

from typing import Annotated, Any

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from cogvideo_core.dataset.gallery import escape_markdown, markdown_table
from cogvideo_core.exports.export import export as write_export
from cogvideo_core.exports.spec import ExportSpec
from cogvideo_core.storage.uris import unsigned
from flows.report import run_name

Record = dict[str, Any]
COUNTED = ("edits", "clips", "duplicates", "left_out", "shards", "shards_kept", "bytes")


@flow(name="export-dataset", flow_run_name=run_name, validate_parameters=True)
def export_dataset(
    root: Annotated[str, Field(min_length=1)] = "out/demo",
    dest: Annotated[str, Field(min_length=1)] = "out/export",
    export: ExportSpec = ExportSpec(),  # noqa: B008 - frozen, and the form reads its defaults here
) -> Record:
    """Writes the edits of a run as tar shards, Parquet, or folders for training; run again, it goes on.

    Args:
        root: Folder or fsspec URL of the run.
        dest: Folder or fsspec URL of the export alone.
        export: Which edits, in which form.
    """
    counts = write_export(root, dest, export)
    logger = get_run_logger()
    for sentence in counts["sentences"]:
        logger.warning("%s", sentence)
    told = f"{counts['edits']} edits of {counts['clips']} clips exported to {unsigned(dest)}"
    logger.info("%s; %d left out, %d duplicates dropped", told, counts["left_out"], counts["duplicates"])
    rows = [{"what": name.replace("_", " "), "count": counts[name]} for name in COUNTED]
    rows += [{"what": f"edits in {name}", "count": edits} for name, edits in counts["splits"].items()]
    table = markdown_table(rows, ["what", "count"])
    create_markdown_artifact(key="export", markdown=f"## {escape_markdown(told)}\n\n{table}")
    return counts | {"root": root, "dest": dest}
