"""What a benchmark asks for, edit by edit, and what an adapter of a benchmark consists of."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

Fields = Mapping[str, Any]
QUESTIONS = ("source_yes_no", "target_yes_no", "multiple_choice")


class Case(NamedTuple):
    """One edit that a benchmark asks for. Paths of clip and mask are absolute, places are relative to the results."""

    id: str  # unique in the benchmark
    clip: str  # a video, or a folder of numbered frames
    source_prompt: str
    target_prompt: str
    edit_type: str
    place: str  # where the evaluator looks for the edit: a folder of frames, or a video
    source_place: str = ""  # where it looks for the clip as it was edited; "" where it reads the benchmark's own
    mask: str = ""  # a folder of pictures, light where the edit may change the clip
    instruction: str = ""
    questions: tuple[tuple[str, str], ...] = ()  # (one of QUESTIONS, text)
    more: tuple[tuple[str, str], ...] = ()  # other columns that travel with the edit

    def as_json(self) -> dict[str, Any]:
        return self._asdict() | {"questions": dict(self.questions), "more": dict(self.more)}

    @classmethod
    def from_json(cls, found: Fields) -> Case:
        """Raises KeyError, TypeError, AttributeError for what is no case."""
        pairs = {name: tuple(found[name].items()) for name in ("questions", "more")}
        return cls(**{name: found[name] for name in cls._fields} | pairs)


class Form(NamedTuple):
    """How an evaluator wants its videos."""

    kind: Literal["jpg", "png", "mp4"]
    first: int = 0  # number of the first frame
    digits: int = 5  # of frame numbers, at least
    size: Literal["clip", "model"] = "clip"  # the clip's own pixels, or its shape with as many as the model makes

    def names(self, count: int) -> list[str]:
        """File names of so many frames: they sort as their numbers do."""
        digits = max(self.digits, len(str(self.first + count - 1)))
        return [f"{self.first + number:0{digits}d}.{self.kind}" for number in range(count)]


class Column(NamedTuple):
    """A figure of the benchmark's tables."""

    metric: str  # its name in `judging.metrics.table.METRICS`
    own: bool = True  # the benchmark's own definition; False: another, for want of the benchmark's


@dataclass(frozen=True)
class Benchmark:
    """An adapter: how the published folder is read, and how edits are laid out for the benchmark's evaluator."""

    name: str
    title: str
    size: str
    licence: str
    read: Callable[[Path, str], list[Case]]
    """(folder, prompts file or "") -> cases. Raises BadManifest."""
    form: Form
    columns: tuple[Column, ...]
    index: Callable[[Path, Collection[str]], dict[str, bytes]] = lambda folder, done: {}
    """(folder, ids of the edits that are there) -> lists for the evaluator that name no others, by file name."""
    stride: int = 1  # metrics of single frames look at each frame of so many
    takes_prompts: bool = False  # the benchmark has none of its own


def unique(cases: Iterable[Case]) -> tuple[list[Case], list[Case]]:
    """The cases, and those left out because an earlier one has the same place or id: an evaluator sees one of them."""
    kept, left_out, places, ids = list[Case](), list[Case](), set[str](), set[str]()
    for case in cases:
        known = case.place in places or case.id in ids
        (left_out if known else kept).append(case)
        places.add(case.place)
        ids.add(case.id)
    return kept, left_out


def csv_rows(text: str) -> list[dict[str, str]]:
    """Rows of a CSV file by their columns; cells beyond the header are left out."""
    rows = csv.DictReader(io.StringIO(text, newline=""), restval="")
    return [{str(name): cell for name, cell in row.items() if isinstance(cell, str)} for row in rows]
