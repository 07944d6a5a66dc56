"""The page of a search: the pick with its intervals, the Pareto front, contact sheets, the curve of the layers."""

from __future__ import annotations

import base64
import hashlib
import math
import tempfile
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from cogvideo_core.study.chart import Axis, Series, chart
from cogvideo_core.tuning.marks import UNITS

Record = dict[str, Any]
Strips = Sequence[tuple[str, dict[int, bytes]]]
WORDS = {"text": "text", "preserved": "preserved, dB", "motion": "motion"}


def files(told: Record, strips: Strips) -> Iterator[tuple[str, bytes]]:
    """(name, bytes): the charts, then the page, which holds them as well."""
    charts = {"front.png": front_chart(told)} | ({"layers.png": layers_chart(told)} if told["layers"] else {})
    yield from charts.items()
    yield "index.html", html(told, strips, charts).encode()


def html(told: Record, strips: Strips, charts: dict[str, bytes]) -> str:
    """The page, in one file; whatever a person wrote is escaped."""
    style = resources.files("cogvideo_core.tuning").joinpath("page", "tune.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    shown = [(name, {clip: as_url(data, "jpeg") for clip, data in tiles.items()}) for name, tiles in strips]
    return _template().render(
        told=told,
        qualities=WORDS,
        style=Markup(style),
        style_hash=f"sha256-{digest}",
        strips=shown,
        shown_clips=sorted({clip for _, tiles in shown for clip in tiles}),
        charts={name: as_url(data, "png") for name, data in charts.items()},
        interval=interval_text,
        changed=changed_fields(told),
    )


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    text = resources.files("cogvideo_core.tuning").joinpath("page", "tune.html").read_text("utf-8")
    return environment.from_string(text)


def as_url(data: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def interval_text(span: Sequence[float], signed: bool = False) -> str:
    """Mean and interval: "0.81 (0.74 to 0.88)"."""
    digits = 2 if abs(span[0]) < 10 else 1
    mean, low, high = (f"{value:{'+' if signed else ''}.{digits}f}" for value in span)
    return f"{mean} ({low} to {high})"


def changed_fields(told: Record) -> list[tuple[str, Any, Any]]:
    """(field, the preset's value, the pick's) where they differ; steps are the inversion's."""
    pick, preset = told["pick"], told["preset"]
    if pick is None:
        return []
    before, after = ({"steps": one["steps"]} | one["recipe"] for one in (preset, pick))
    return [(name, before[name], after[name]) for name in after if after[name] != before[name] and name != "name"]


def front_chart(told: Record) -> bytes:
    """Text against preserved: every complete trial, the front's numbered, the preset and the pick named."""
    points = {one["name"]: (one["preserved"], one["text"]) for one in told["front"]}
    rest = [(one["preserved"], one["text"]) for one in told["trials"] if one["state"] == "complete"]
    named = [(told["preset"]["preserved"], told["preset"]["text"])]
    labels = [told["against"]]
    if told["pick"]:
        named.append((told["pick"]["preserved"], told["pick"]["text"]))
        labels.append("the pick")
    both = [*points.values(), *rest, *named]
    x, y = axis("preserved, dB", [p[0] for p in both]), axis("text", [p[1] for p in both])
    series = [
        Series("complete trials", rest, [""] * len(rest), line=False),
        Series("", list(points.values()), [str(one["number"]) for one in told["front"]], line=False),
        Series("", named, labels, line=False),
    ]
    return drawn("Pareto front of text, preserved, motion and cost", x, y, [one for one in series if one.points])


def layers_chart(told: Record) -> bytes:
    """What changes without the reference in a group of layers, by depth; both qualities in their units."""
    curve = told["layers"]
    depth = [(one["from"] + one["until"]) / 2 for one in curve]
    lines = {name: [one[name] / UNITS[name] for one in curve] for name in ("preserved", "text")}
    words = {"preserved": "preserved, dB", "text": f"text, in units of {UNITS['text']:g}"}
    series = [Series(words[name], list(zip(depth, values, strict=True))) for name, values in lines.items()]
    values = [value for line in lines.values() for value in line]
    x = Axis("depth of the layers that are left out", 0, 1, (0, 0.2, 0.4, 0.6, 0.8, 1))
    return drawn("Without the reference in a group of layers", x, axis("change", [*values, 0.0]), series)


def axis(title: str, values: Sequence[float]) -> Axis:
    """A range around values, with round ticks."""
    low, high = min(values), max(values)
    step = 10 ** math.floor(math.log10(max(high - low, 1e-3)))
    step = step / 2 if (high - low) / step < 4 else step
    first, last = math.floor(low / step) - 1, math.ceil(high / step) + 1
    return Axis(title, first * step, last * step, [round(n * step, 6) for n in range(first, last + 1)])


def drawn(title: str, x: Axis, y: Axis, series: Sequence[Series]) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "chart.png"
        chart(file, title, x, y, series)
        return file.read_bytes()
