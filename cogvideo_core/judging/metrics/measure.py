"""Measures samples: the metrics that were asked for and that spec and sample have all for; models are loaded once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

from cogvideo_core.errors import BadSpec
from cogvideo_core.judging.metrics import motion, structure, text
from cogvideo_core.judging.metrics.models import Models, loaded
from cogvideo_core.judging.metrics.pixels import COMPARED, compared, edited, mean, unedited
from cogvideo_core.judging.metrics.questions import five_acc
from cogvideo_core.judging.metrics.samples import Sample, checked, has
from cogvideo_core.judging.metrics.table import METRICS
from cogvideo_core.media.window import spread
from cogvideo_core.settings.metric_specs import MetricSpec

Scores = dict[str, float]


class View(NamedTuple):
    """A sample with all its frames, with those that metrics of single frames look at, and the metrics to measure."""

    whole: Sample
    shown: Sample
    names: frozenset[str]

    def wants(self, *names: str) -> bool:
        return not self.names.isdisjoint(names)


def measured(names: Sequence[str], spec: MetricSpec, samples: Sequence[Sample]) -> list[Scores]:
    """The metrics of each sample by name: of `names`, or of all for none, those that spec and sample have all for.

    Values are the benchmarks' own, before the factor that their tables show them with (`Metric.scale`). A metric that
    has no value for a sample, as one outside of a mask that marks everything, is left out. Raises BadSpec for a name
    that no metric has, ClipError, ModelError, EndpointUnreachable.
    """
    for name in names:
        if name not in METRICS:
            raise BadSpec(f"metric {name!r} is not known; the known ones are {', '.join(METRICS)}")
    return [_measured(list(names) or list(METRICS), loaded(spec), checked(sample)) for sample in samples]


def _measured(names: Sequence[str], models: Models, sample: Sample) -> Scores:
    shown = seen(models.spec, sample)
    offered = has(models.spec, sample)
    able = [name for name in names if set(METRICS[name].needs) <= offered]
    view, found = View(sample, shown, frozenset(able)), dict[str, float]()
    for family, measure in FAMILIES.items():
        if view.wants(*family):
            found |= measure(models, view)
    return {name: found[name] for name in able if math.isfinite(found.get(name, math.nan))}


def seen(spec: MetricSpec, sample: Sample) -> Sample:
    """The sample with the frames that metrics of single frames look at."""
    count = spec.frames or len(sample.edit)
    source, edit = (spread(frames[:: spec.stride], count) for frames in (sample.source, sample.edit))
    mask = None if sample.mask is None else spread(sample.mask[:: spec.stride], count)
    return sample._replace(source=source, edit=edit, mask=mask)


def _pixels(models: Models, view: View) -> Scores:
    source, edit, mask = view.shown[:3]
    found: Scores = {}
    for name, compare in COMPARED.items():
        if view.wants(name):
            found[name] = compared(compare, source, edit)
        if view.wants(f"{name}_unedit_part") and mask is not None:
            found[f"{name}_unedit_part"] = compared(compare, *unedited(source, edit, mask))
    return found


def _lpips(models: Models, view: View) -> Scores:
    source, edit, mask = view.shown[:3]
    found = {"lpips": mean(models.lpips.distances(source, edit))} if view.wants("lpips") else {}
    if view.wants("lpips_unedit_part") and mask is not None:
        found["lpips_unedit_part"] = mean(models.lpips.distances(*unedited(source, edit, mask)))
    return found


def _clip(models: Models, view: View) -> Scores:
    shown, judge = view.shown, models.clip
    edit = text.embedded(judge, shown.edit)
    found = {
        "clip_t": text.prompt_score(judge, edit, shown.target_prompt),
        "clip_similarity_target_image": text.clip_similarity(judge, edit, shown.target_prompt),
        "clip_f": text.clip_f(edit),
    }
    if view.wants("clip_consistency"):
        found["clip_consistency"] = text.clip_consistency(judge, shown.edit)
    if view.wants("clip_similarity_source_image"):
        source = text.embedded(judge, shown.source)
        found["clip_similarity_source_image"] = text.clip_similarity(judge, source, shown.source_prompt)
    if view.wants("clip_similarity_target_image_edit_part") and shown.mask is not None:
        inside = text.embedded(judge, edited(shown.edit, shown.mask))
        found["clip_similarity_target_image_edit_part"] = text.clip_similarity(judge, inside, shown.target_prompt)
    return found


def _pickscore(models: Models, view: View) -> Scores:
    seen_edit = text.embedded(models.pickscore, view.shown.edit)
    return {"pick_score": text.prompt_score(models.pickscore, seen_edit, view.shown.target_prompt)}


def _dino(models: Models, view: View) -> Scores:
    source, edit = view.shown[:2]
    found: Scores = {}
    if view.wants("structure_distance"):
        found["structure_distance"] = mean(structure.structure_distance(models.dino, source, edit))
    if view.wants("dino_consistency"):
        found["dino_consistency"] = structure.dino_consistency(models.dino, edit)
    return found


def _motion(models: Models, view: View) -> Scores:
    source, edit, mask = view.whole[:3]
    found: Scores = {}
    if view.wants("warp_error"):
        found["warp_error"] = motion.warp_error(source, edit)
    if view.wants("motion_alignment"):
        found["motion_alignment"] = motion.motion_alignment(source, edit)
    if view.wants("motion_fidelity_score", "motion_fidelity_score_edit_part"):
        found |= motion.motion_fidelity(source, edit, mask)
    return found


def _questions(models: Models, view: View) -> Scores:
    return five_acc(models.spec, view.whole.edit, view.whole.questions)


def _niqe(models: Models, view: View) -> Scores:
    return {"niqe": mean(models.niqe.scores(view.shown.edit))}


FAMILIES: dict[tuple[str, ...], Callable[[Models, View], Scores]] = {  # metrics that share what is seen of the frames
    tuple(f"{name}{part}" for name in COMPARED for part in ("", "_unedit_part")): _pixels,
    ("lpips", "lpips_unedit_part"): _lpips,
    (
        *("clip_t", "clip_f", "clip_consistency", "clip_similarity_source_image"),
        *("clip_similarity_target_image", "clip_similarity_target_image_edit_part"),
    ): _clip,
    ("pick_score",): _pickscore,
    ("structure_distance", "dino_consistency"): _dino,
    ("warp_error", "motion_fidelity_score", "motion_fidelity_score_edit_part", "motion_alignment"): _motion,
    tuple(f"five_acc{part}" for part in ("", "_yes_no", "_multi_choice", "_union", "_inter")): _questions,
    ("niqe",): _niqe,
}
