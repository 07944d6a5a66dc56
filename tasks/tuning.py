"""What a search for a recipe asks of the model, as tasks: prompts first, then one recipe on one clip at a time."""

from __future__ import annotations

from typing import Any

from tasks import stopping
from tasks.progress import advance
from tasks.settings import Settings
from tasks.work import verb

Record = dict[str, Any]


@verb("embed_texts", retries=2)
def embed_texts(settings: Settings, texts: list[str]) -> int:
    """Embeds each distinct prompt once; returns how many were new. The text encoder is dropped then."""
    from cogvideo_core.stages import prompts

    work = settings.work()
    new = prompts.embed_missing(work.model, work.ledger, texts, work.output.verify)
    work.model.drop_text_encoder()
    return new


@verb("try_recipe", retries=2)
def try_recipe(settings: Settings, record: Record, left_out: list[int]) -> Record:
    """What the settings' recipe makes of an inverted clip: scores of its edits, and a strip. Nothing else is kept.

    left_out: first layer, and layer after the last one, where edits don't see the reference; [0, 0] for none.
    """
    from cogvideo_core.tuning.measuring import seen, trial_work
    from cogvideo_core.tuning.space import Point

    stopping.check("edit")
    with settings.slot():
        point = Point(settings.recipe, settings.inversion.steps)
        found = seen(trial_work(settings.work(), point, range(*left_out)), record)
    advance("clips")
    advance("edits", len(found.scores))
    return found.as_json()
