"""Measures samples: the metrics that were asked for and that spec and sample have all for; models are loaded once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from cogvideo_core.errors import BadSpec
from cogvideo_core.judging.metrics.pixels import pixel_scores, unedited
from cogvideo_core.judging.metrics.samples import Sample, checked, has
from cogvideo_core.judging.metrics.table import METRICS
from cogvideo_core.media.window import spread
from cogvideo_core.settings.metric_specs import MetricSpec


def measured(names: Sequence[str], spec: MetricSpec, samples: Sequence[Sample]) -> list[dict[str, float]]:
    """The metrics of each sample by name: of `names`, or of all for none, those that spec and sample have all for.

    Values are the benchmarks' own, before the factor that their tables show them with (`Metric.scale`). A metric that
    has no value for a sample, as one outside of a mask that marks everything, is left out. Raises BadSpec for a name
    that no metric has, ClipError, ModelError, EndpointUnreachable.
    """
    wanted = _known(names)
    return [_measured(wanted, spec, checked(sample)) for sample in samples]


def _known(names: Sequence[str]) -> list[str]:
    for name in names:
        if name not in METRICS:
            raise BadSpec(f"metric {name!r} is not known; the known ones are {', '.join(METRICS)}")
    return list(names) or list(METRICS)


def _measured(names: Sequence[str], spec: MetricSpec, sample: Sample) -> dict[str, float]:
    offered = has(spec, sample)
    able = [name for name in names if set(METRICS[name].needs) <= offered]
    shown = seen(spec, sample)
    found = pixel_scores(shown.source, shown.edit) if any(name in able for name in ("mse", "psnr", "ssim")) else {}
    if any(name.endswith("_unedit_part") for name in able) and shown.mask is not None:
        outside = pixel_scores(*unedited(shown.source, shown.edit, shown.mask))
        found |= {f"{name}_unedit_part": value for name, value in outside.items()}
    return {name: found[name] for name in able if math.isfinite(found.get(name, math.nan))}


def seen(spec: MetricSpec, sample: Sample) -> Sample:
    """The sample with the frames that metrics of single frames look at."""
    count = spec.frames or len(sample.edit)
    source, edit = (spread(frames[:: spec.stride], count) for frames in (sample.source, sample.edit))
    mask = None if sample.mask is None else spread(sample.mask[:: spec.stride], count)
    return sample._replace(source=source, edit=edit, mask=mask)
