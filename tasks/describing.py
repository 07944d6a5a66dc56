"""What is written about clips before a run, as tasks: questions to an endpoint, several clips at a time."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from cogvideo_core.settings.caption_specs import CaptionSpec, InstructionSpec
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec, ModelSpec, Spec
from cogvideo_core.stages.failures import attempt
from cogvideo_core.storage.ledger import Ledger
from tasks import stopping
from tasks.progress import advance
from tasks.work import verb

Record = dict[str, Any]
RETRIES = 2  # of a clip whose store fails


class Describing(Spec):
    """The parameters of a flow that describes clips, in one piece."""

    dataset: DatasetSpec
    model: ModelSpec
    captions: CaptionSpec
    instructions: InstructionSpec
    screen: ScreenSpec = ScreenSpec()
    answers: str  # root of the ledger that keeps them

    def step(self) -> Callable[[Record], Record]:
        """What is done to one clip."""
        from cogvideo_core.captions.asking import Job
        from cogvideo_core.captions.describe import describe_clip
        from cogvideo_core.models.configuration import configured
        from cogvideo_core.stages.units import shape_of

        shape = shape_of(self.dataset, configured(self.model))
        ledger = Ledger(self.answers)
        return partial(describe_clip, Job(self.dataset, shape, self.captions, self.instructions, ledger, self.screen))


@verb("describe_batch", retries=2)
def describe_batch(settings: Describing, clips: list[Record]) -> list[Record]:
    """Clip records to described ones, in their order; failures included. No clip is begun once the flow has ended."""
    step = settings.step()

    def described(clip: Record) -> Record:
        stopping.check("describe")
        record = attempt(step, clip, "describe", RETRIES, wait=stopping.pause)
        advance("clips")
        advance("edits", len(record.get("edits", [])))
        return record

    with ThreadPoolExecutor(settings.captions.parallel) as pool, stopping.stopping_with_the_body():
        return list(pool.map(described, clips))
