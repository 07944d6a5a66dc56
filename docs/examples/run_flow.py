"""Edits a dataset with the flow, as Prefect would: python docs/examples/run_flow.py SOURCE OUTPUT"""

import sys

from cogvideo_core.settings.specs import DatasetSpec, InversionSpec, OutputSpec
from flows.edit_dataset import edit_dataset

counts = edit_dataset(
    dataset=DatasetSpec(source=sys.argv[1], limit=1),
    inversion=InversionSpec(steps=25),
    output=OutputSpec(root=sys.argv[2]),
)
print(counts["edits"], "edits in", counts["root"])
