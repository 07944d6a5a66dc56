"""The models that a `MetricSpec` names, each loaded when it is first needed and kept for all samples."""

from __future__ import annotations

from functools import cached_property, lru_cache

from cogvideo_core.judging.folders import STRUCTURE_KINDS, shipped
from cogvideo_core.judging.loading import device
from cogvideo_core.judging.metrics.lpips import Lpips
from cogvideo_core.judging.metrics.niqe import Niqe
from cogvideo_core.judging.structure import StructureJudge
from cogvideo_core.judging.text import TextJudge
from cogvideo_core.models.model_folders import checked_folder, weights_folder
from cogvideo_core.settings.metric_specs import MetricSpec


class Models:
    """Raises ModelError, which names the field, where one is first used that can't be."""

    def __init__(self, spec: MetricSpec) -> None:
        self.spec = spec

    @cached_property
    def clip(self) -> TextJudge:
        return _clip("metrics.clip", self.spec.clip)

    @cached_property
    def pickscore(self) -> TextJudge:
        return _clip("metrics.pickscore", self.spec.pickscore)

    @cached_property
    def dino(self) -> StructureJudge:
        field = "metrics.dino"
        return StructureJudge(checked_folder(field, self.spec.dino, STRUCTURE_KINDS), device(), field)

    @cached_property
    def lpips(self) -> Lpips:
        return Lpips(weights_folder("metrics.lpips", self.spec.lpips), device())

    @cached_property
    def niqe(self) -> Niqe:
        return Niqe(self.spec.niqe)


def _clip(field: str, path: str) -> TextJudge:
    return TextJudge(checked_folder(field, path, ("clip",), shipped()), device(), field=field)


@lru_cache(maxsize=1)
def _loaded(spec: str) -> Models:
    return Models(MetricSpec.model_validate_json(spec))


def loaded(spec: MetricSpec) -> Models:
    """This process's models of the spec."""
    return _loaded(spec.model_dump_json())
