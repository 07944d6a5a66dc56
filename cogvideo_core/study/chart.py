"""Line and point charts as PNG, drawn with Pillow alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 900, 560, 70, 30, 46, 56
COLOURS = ("#1f5fa8", "#c0392b", "#2e8b57", "#8e44ad", "#b7791f", "#444444")


@dataclass(frozen=True)
class Series:
    """Points joined by a line, or alone, each with its own label."""

    label: str
    points: Sequence[tuple[float, float]]
    labels: Sequence[str] = ()
    line: bool = True


@dataclass(frozen=True)
class Axis:
    """A range with its ticks; `log` for a logarithmic one."""

    title: str
    low: float
    high: float
    ticks: Sequence[float]
    log: bool = False

    def place(self, value: float) -> float:
        """0 at the low end, 1 at the high one; clamped to this range."""
        low, high, value = (math.log10(v) if self.log else v for v in (self.low, self.high, value))
        return min(max((value - low) / (high - low), 0.0), 1.0)


def chart(file: Path, title: str, x: Axis, y: Axis, series: Sequence[Series]) -> None:
    """Writes a PNG of WIDTH x HEIGHT pixels."""
    picture = Image.new("RGB", (WIDTH, HEIGHT), "white")
    draw = ImageDraw.Draw(picture)
    frame(draw, title, x, y)
    for index, one in enumerate(series):
        colour = COLOURS[index % len(COLOURS)]
        places = [at(x, y, *point) for point in one.points]
        if one.line:
            draw.line(places, fill=colour, width=2)
        else:
            points(draw, places, one.labels, colour)
        if one.label:
            key = (WIDTH - RIGHT - 8, TOP + 14 + 20 * index)
            draw.text(key, one.label, fill=colour, font=font(15), anchor="rm")
    file.parent.mkdir(parents=True, exist_ok=True)
    picture.save(file, optimize=True)


def points(
    draw: ImageDraw.ImageDraw, places: Sequence[tuple[float, float]], labels: Sequence[str], colour: str
) -> None:
    """Dots, each with its label beside it; labels that would overlap are moved down."""
    taken: list[tuple[float, float, float, float]] = []
    for (u, v), label in sorted(zip(places, labels, strict=True), key=lambda one: one[0][1]):
        draw.ellipse((u - 4, v - 4, u + 4, v + 4), fill=colour)
        anchor = "lm" if u < WIDTH * 0.72 else "rm"
        start = u + 8 if anchor == "lm" else u - 8
        while any(meet(draw.textbbox((start, v), label, font(13), anchor), box) for box in taken):
            v += 3
        taken.append(draw.textbbox((start, v), label, font(13), anchor))
        draw.text((start, v), label, fill=colour, font=font(13), anchor=anchor)


def meet(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    """Whether two boxes (left, top, right, bottom) overlap."""
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def frame(draw: ImageDraw.ImageDraw, title: str, x: Axis, y: Axis) -> None:
    """Title, axes, ticks and grid."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    draw.text((LEFT, 22), title, fill="black", font=font(18), anchor="lm")
    for tick in x.ticks:
        u, _ = at(x, y, tick, y.low)
        draw.line((u, TOP, u, bottom), fill="#e4e4e4")
        draw.text((u, bottom + 14), f"{tick:g}", fill="black", font=font(14), anchor="mm")
    for tick in y.ticks:
        _, v = at(x, y, x.low, tick)
        draw.line((LEFT, v, right, v), fill="#e4e4e4")
        draw.text((LEFT - 8, v), f"{tick:g}", fill="black", font=font(14), anchor="rm")
    draw.rectangle((LEFT, TOP, right, bottom), outline="black")
    draw.text(((LEFT + right) / 2, HEIGHT - 16), x.title, fill="black", font=font(15), anchor="mm")
    draw.text((right, TOP - 6), y.title, fill="black", font=font(15), anchor="rb")


def at(x: Axis, y: Axis, u: float, v: float) -> tuple[float, float]:
    return LEFT + x.place(u) * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - y.place(v) * (HEIGHT - TOP - BOTTOM)


def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)
