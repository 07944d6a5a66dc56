"""Edits the first clip of a manifest or folder without Prefect: python docs/examples/edit_one_video.py SOURCE OUTPUT"""

import sys

from cogvideo_core.inputs.sources import read_clips
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.stages.edit import edit_clip
from cogvideo_core.stages.encode import encode_clip
from cogvideo_core.stages.trajectory import invert_clip
from tasks.settings import Settings

dataset, output = DatasetSpec(source=sys.argv[1]), OutputSpec(root=sys.argv[2])
settings = Settings(
    dataset=dataset,
    model=ModelSpec(),  # shapes, the small model that comes along; path="..." for a folder or hub id
    inversion=InversionSpec(steps=25),
    recipe=RecipeSpec(),
    output=output,
    engine=EngineSpec(),
)
work = settings.work()
clip = dict(next(read_clips(dataset)))
for edit in edit_clip(work, invert_clip(work, encode_clip(work, clip)))["edits"]:
    _, path = work.ledger.open_url(work.ledger.read("edits", edit["edit_key"]), "edit.mp4")
    print(edit["target_prompt"], path)
