"""Decodes one level of a stored trajectory to a PNG: python docs/examples/open_trajectory.py ROOT LEVEL PICTURE"""

import sys
from pathlib import Path

from cogvideo_core.media.video import poster
from cogvideo_core.models.model import load
from cogvideo_core.settings.specs import ModelSpec
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.storage.trajectories import open_trajectory

ledger = Ledger(sys.argv[1])
commit = next(ledger.units("trajectories"))
trajectory = open_trajectory(ledger, commit)
state = trajectory.read(int(sys.argv[2]))  # [f,C,h,w], float32; level 0 is clean
poster(load(ModelSpec()).decode(state), Path(sys.argv[3]))
print("levels", trajectory.levels[0], "to", trajectory.levels[-1], "- state", list(state.shape))
