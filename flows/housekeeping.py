"""Flows that look after what is stored: collecting it anew, and removing what is past its retention."""

from __future__ import annotations

from datetime import timedelta
from itertools import islice
from typing import Any, Literal

from prefect import flow, get_run_logger
from prefect.artifacts import create_markdown_artifact
from pydantic import Field

from cogvideo_core.dataset.gallery import markdown_table
from cogvideo_core.settings.specs import OutputSpec, Spec
from cogvideo_core.upkeep.verify import garbage, open_root, remove
from cogvideo_core.upkeep.verify import retention as kept_by
from flows.report import run_name, show_results
from tasks import work

Record = dict[str, Any]
SHOWN = 200


class RetentionSpec(Spec):
    """What may go, and whether it goes."""

    root: str = Field("out/demo", title="Output", min_length=1, description="Folder or fsspec URL of the run.")
    keep_trajectories: Literal["as the last run", "all", "until_edited", "none"] = Field(
        "as the last run", title="Keep trajectories", description="Which trajectories stay."
    )
    older_than_h: float = Field(24, title="Older than", ge=0, description="Hours; younger ones may be in use.")
    quarantine: bool = Field(False, title="Quarantine too", description="Also what failed verification.")
    delete: bool = Field(False, title="Really remove", description="Off: a dry run, which only lists.")


@flow(name="collect-dataset", flow_run_name=run_name, validate_parameters=True)
def collect(output: OutputSpec = OutputSpec()) -> Record:  # noqa: B008 - frozen, and the form reads its defaults here
    """Rebuilds dataset, tables and gallery from what is committed under the output's root."""
    counts = work.recollect(output)
    get_run_logger().info("%(edits)d edits of %(clips)d clips, %(errors)d errors in the table", counts)
    show_results(output)
    return counts


@flow(name="retention", flow_run_name=run_name, validate_parameters=True)
def retention(retention: RetentionSpec = RetentionSpec()) -> Record:  # noqa: B008
    """Lists what nothing needs any more; removes it where told to."""
    ledger, keep = open_root(retention.root), retention.keep_trajectories
    kept = kept_by(ledger) if keep == "as the last run" else keep
    found = list(garbage(ledger, kept, timedelta(hours=retention.older_than_h), retention.quarantine))
    if retention.delete:
        remove(ledger, found)
    size = sum(finding.size for finding in found)
    verb = "removed" if retention.delete else "would go (dry run)"
    rows = [{"object": f.name, "why": f.what, "bytes": f"{f.size:,}"} for f in islice(found, SHOWN)]
    table = markdown_table(rows, ["object", "why", "bytes"])
    told = f"{len(found)} objects, {size:,} bytes {verb}"
    create_markdown_artifact(key="retention", markdown=f"## {told}\n\n{table}")
    get_run_logger().info("%s", told)
    return {"root": retention.root, "objects": len(found), "bytes": size, "removed": retention.delete}
