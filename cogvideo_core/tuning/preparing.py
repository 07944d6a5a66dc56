"""What comes before a search: clips are chosen, encoded and inverted, by the stages of an ordinary run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from cogvideo_core.errors import BadSpec
from cogvideo_core.judging.folders import judge_fingerprint
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.presets import PRESET_INVERSIONS, PRESETS
from cogvideo_core.settings.specs import InversionSpec
from cogvideo_core.settings.tune_specs import TuneSpec
from cogvideo_core.stages.failures import is_failure
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.tuning.choosing import CANDIDATES, motion_of, sampled, sizes, stratified, with_prompts
from cogvideo_core.tuning.pruning import rungs_of
from cogvideo_core.tuning.search import Measure, Search
from cogvideo_core.tuning.space import Point, Space
from cogvideo_core.tuning.trials import Store

Record = dict[str, Any]
Records = list[Record]


class Stages(NamedTuple):
    """An ordinary run's stages on lists of records, failures included: encode(records), invert(records, steps)."""

    encode: Callable[[Records], Records]
    invert: Callable[[Records, int], Records]


class Prepared(NamedTuple):
    """Inverted clips by their number of steps, in one order: those to tune on, then those that are held out."""

    by_steps: dict[int, Records]
    clips: int
    held_out: int
    problems: list[str]  # sentences about clips that could not be used

    @property
    def edits(self) -> float:
        """Of a clip, on average."""
        records = next(iter(self.by_steps.values()))
        return sum(len(record["target_prompts"]) for record in records) / len(records)


def check_judge(judge: JudgeSpec, model: str) -> JudgeSpec:
    """The judge of a search, without `auto` and questions. Raises BadSpec where no text judge is named."""
    found = judge.resolved(model).model_copy(update={"vlm": "", "early_stop": "off"})
    if found.text == "none":
        problem = f"a search on {model!r} is told what is better by a text judge, and none is named"
        remedy = "give the folder of a CLIP, SigLIP or X-CLIP model, as --set judge.text=FOLDER"
        raise BadSpec(f"field judge.text: {problem}; {remedy}")
    return found


def preset_of(spec: TuneSpec) -> Point:
    """The preset that the pick is to replace, with its own number of steps."""
    return Point(PRESETS[spec.against], PRESET_INVERSIONS[spec.against].steps)


def prepared(spec: TuneSpec, found: Iterable[Record], stages: Stages, ledger: Ledger) -> Prepared:
    """Chooses clips and takes them through the stages, once for each number of steps. Raises BadSpec for too few."""
    wanted = spec.clips + spec.held_out
    candidates, failed = sampled(found, CANDIDATES * wanted, spec.seed)
    sizes(spec, len(candidates))
    encoded, bad = parted(stages.encode(candidates))
    problems = [record["message"] for record in [*failed, *bad]]
    motions = [motion_of(ledger, record["latents_key"]) for record in encoded]
    sizes(spec, len(encoded))
    chosen = stratified(encoded, motions, wanted, spec.seed)
    chosen = [with_prompts(record, place, spec.prompts) for place, record in enumerate(chosen)]
    by_steps: dict[int, Records] = {}
    for steps in sorted({*spec.steps, preset_of(spec).steps}):
        done = stages.invert(chosen, steps)
        problems += [record["message"] for record in done if is_failure(record)]
        by_steps[steps] = done
    good = [place for place in range(len(chosen)) if not any(is_failure(done[place]) for done in by_steps.values())]
    clips, held_out = sizes(spec, len(good))
    kept = {steps: [done[place] for place in good][: clips + held_out] for steps, done in by_steps.items()}
    return Prepared(kept, clips, held_out, list(dict.fromkeys(problems)))


def parted(records: Sequence[Record]) -> tuple[Records, Records]:
    """The good ones and the failures."""
    return [r for r in records if not is_failure(r)], [r for r in records if is_failure(r)]


def search_of(
    spec: TuneSpec, ready: Prepared, inversion: InversionSpec, judge: JudgeSpec, layers: int, ledger: Ledger
) -> Search:
    """The search over prepared clips; its `measure` is to be set. `judge` as `check_judge` gives it."""
    preset, edits = preset_of(spec), max(round(ready.edits), 1)
    most = spec.most_cost * preset.cost(inversion, edits, layers)
    space = Space(tuple(spec.steps), layers, inversion, edits, most)
    about = {
        "clips": [
            [steps, [[r["trajectory_key"], r["target_prompts"], r.get("mask_key", "")] for r in records]]
            for steps, records in sorted(ready.by_steps.items())
        ],
        "tuning": [ready.clips, rungs_of(ready.clips), spec.seed, spec.first_random, spec.layer_groups],
        "space": [spec.steps, round(most, 3), layers, spec.layer_clips],
        "against": preset.recipe.fingerprint,
        "judge": judge_fingerprint(judge),
    } | ({"give_db": spec.give_db} if spec.give_db else {})
    return Search(spec, space, preset, Store(ledger, about), unset, ready.clips, ready.held_out)


def unset(point: Point, clips: Sequence[int], left_out: range = range(0)) -> Any:
    raise NotImplementedError("a search needs something that measures")


_: Measure = unset
