"""All judges of a run together: loaded once a process, named by a fingerprint, and asked for the scores of edits."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from torch import Tensor

from cogvideo_core.judging import motion, structure, text
from cogvideo_core.judging.folders import folders_of
from cogvideo_core.judging.loading import device
from cogvideo_core.media.quality import kept_db
from cogvideo_core.media.window import spread
from cogvideo_core.settings.judge_specs import JudgeSpec

Scores = dict[str, float]


class Wish(NamedTuple):
    """What an edit was to be."""

    source_prompt: str
    target_prompt: str


class Judges:
    """The judges that a `JudgeSpec` names. Raises ModelError for one that can't be used."""

    def __init__(self, spec: JudgeSpec) -> None:
        self.spec, self.folders = spec, folders_of(spec)
        self._sources: dict[str, tuple[bytes, Tensor]] = {}
        place = device()
        self.text = text.TextJudge(self.folders["text"], place, spec.contrasts) if "text" in self.folders else None
        self.structure = (
            structure.StructureJudge(self.folders["structure"], place) if "structure" in self.folders else None
        )

    def _of_source(self, judge: str, see: Callable[[np.ndarray], Tensor], frames: np.ndarray) -> Tensor:
        """What a judge sees in the source. The last source's is kept, for its edits come one by one."""
        digest = hashlib.sha256(frames.tobytes()).digest()
        kept = self._sources.get(judge)
        if kept is None or kept[0] != digest:  # several threads may come here, each with its own `kept`
            kept = self._sources[judge] = digest, see(frames)
        return kept[1]

    def scores(self, source: np.ndarray, edits: Sequence[np.ndarray], wishes: Sequence[Wish]) -> list[Scores]:
        """Named scores of each edit of a clip; all frames uint8 [F,H,W,3]. The same input gives the same numbers."""
        shown = spread(source, self.spec.frames)
        found: list[Scores] = [{} for _ in edits]
        if self.text is not None:
            before = self._of_source("text", self.text.embed_frames, shown)
            for scores, edit, wish in zip(found, edits, wishes, strict=True):
                after = self.text.embed_frames(spread(edit, self.spec.frames))
                scores |= self.text.scores(before, after, wish.source_prompt, wish.target_prompt)
        if self.structure is not None:
            before = self._of_source("structure", self.structure.features, shown)
            for scores, edit in zip(found, edits, strict=True):
                after = self.structure.features(spread(edit, self.spec.frames))
                scores["structure"] = structure.structure_score(before, after)
        for scores, edit in zip(found, edits, strict=True):
            scores |= motion.motion_scores(source, edit) if self.spec.motion else {}
            scores["kept_db"] = kept_db(source, edit)
        return [{name: round(value, 5) for name, value in scores.items() if math.isfinite(value)} for scores in found]


@lru_cache(maxsize=2)
def _loaded(scoring: str) -> Judges:
    return Judges(JudgeSpec.model_validate_json(scoring))


def loaded(spec: JudgeSpec) -> Judges:
    """This process's judges. Raises ModelError."""
    return _loaded(spec.scoring.model_dump_json())
