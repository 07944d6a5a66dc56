"""Asks a model about a clip's window; answers are stored by frames, question and model, and not asked for again."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from cogvideo_core.captions.answers import MOST_CHARACTERS
from cogvideo_core.endpoints.chat import Endpoint, picture, posted, text_of
from cogvideo_core.errors import BadSpec
from cogvideo_core.inputs import clip_files
from cogvideo_core.media.video import Limits, View, probe
from cogvideo_core.media.window import Place, spread, taken_window
from cogvideo_core.models.configuration import VideoShape
from cogvideo_core.settings.caption_specs import CaptionSpec, EndpointSpec, InstructionSpec
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.stages.screen import Screening, placed, screened
from cogvideo_core.stages.units import part_of
from cogvideo_core.storage.ledger import Ledger

FORMAT, TRIES = 1, 4
CAPTIONS_KEY, INSTRUCTIONS_KEY = "COGVIDEO_EDIT_CAPTIONS_KEY", "COGVIDEO_EDIT_INSTRUCTIONS_KEY"  # in the environment
IN_ORDER = "These are frames of a video, in order."
Record = dict[str, Any]


@dataclass(frozen=True)
class Job:
    """What is written about clips, and where answers are kept."""

    dataset: DatasetSpec
    shape: VideoShape
    captions: CaptionSpec
    instructions: InstructionSpec
    ledger: Ledger
    screen: ScreenSpec = ScreenSpec()  # noqa: RUF009 - frozen

    @property
    def screening(self) -> Screening:
        """How the window is placed between cuts, as a run with the same settings places it."""
        return Screening(self.screen, self.dataset, self.shape, self.ledger)

    @property
    def writer(self) -> tuple[EndpointSpec, Endpoint]:
        """Who writes the target prompts: the captions' endpoint unless there is another."""
        own, shared = self.instructions, self.captions
        model = own.model or shared.model
        if own.url:
            return own.model_copy(update={"model": model}), _endpoint(own, "instructions.url", INSTRUCTIONS_KEY)
        spec = own.model_copy(update={"model": model, "url": shared.url})
        return spec, _endpoint(spec, "captions.url", CAPTIONS_KEY)

    @property
    def describer(self) -> tuple[EndpointSpec, Endpoint]:
        """Who writes the captions."""
        return self.captions, _endpoint(self.captions, "captions.url", CAPTIONS_KEY)


def _endpoint(spec: EndpointSpec, field: str, key: str) -> Endpoint:
    return Endpoint(spec.url, field, key, spec.timeout_s, TRIES, spec.timeout_s)


def check_specs(captions: CaptionSpec, instructions: InstructionSpec) -> None:
    """Raises BadSpec where nobody is named who could be asked."""
    if instructions.by == "endpoint" and not (instructions.url or captions.url):
        raise BadSpec(
            "field instructions.url: is empty; name an endpoint there or in captions.url, or set instructions.by to "
            "template"
        )
    if captions.url and not captions.model:
        raise BadSpec("field captions.model: is empty; name the model that captions.url is to be asked for")
    if instructions.by == "endpoint" and instructions.url and not (instructions.model or captions.model):
        raise BadSpec("field instructions.model: is empty; name the model that instructions.url is to be asked for")


class Looked:
    """A clip's window, decoded once it is needed. Raises what `taken_window`, `fetch` and the screen raise."""

    def __init__(self, job: Job, clip: Mapping[str, Any]) -> None:
        self.job, self.clip = job, clip

    @cached_property
    def frames(self) -> np.ndarray:
        """uint8 [F,H,W,3], as the model that edits sees them."""
        shape, dataset, clip, limits = self.job.shape, self.job.dataset, dict(self.clip), Limits.of(self.job.dataset)
        view = View(shape.height, shape.width, shape.fps, dataset.fit)
        with tempfile.TemporaryDirectory() as folder:
            path, content = clip_files.fetched(clip, Path(folder), limits)
            looked = screened(self.job.screening, clip, path, content, probe(path, clip["clip"], limits))
            where = placed(self.job.screening, clip, looked)
            place = Place(where.number, part_of(clip), where.start_s)
            return taken_window(path, clip["clip"], dataset, place, view, shape.frames).frames

    @cached_property
    def sha256(self) -> str:
        """Of the frames; without decoding where the same file was looked at before."""
        ledger, about = self.job.ledger, self._about
        known = ledger.find("answers", fingerprint(about), "none") if self.clip["stamp"] else None
        if known:
            return str(known.record["frames"])
        found = hashlib.sha256(repr(self.frames.shape).encode() + self.frames.tobytes()).hexdigest()
        if self.clip["stamp"]:
            ledger.commit("answers", fingerprint(about), {}, about, {"frames": found})
        return found

    @property
    def _about(self) -> Record:
        dataset, shape = self.job.dataset, self.job.shape
        seen = {name: getattr(dataset, name) for name in ("window", "fit", "deinterlace", "tone_map")}
        size = [shape.frames, shape.height, shape.width, shape.fps]
        about = {"format": FORMAT, "source_id": self.clip["source_id"], "shape": size} | seen
        return about | ({"screen": self.job.screen.as_json()} if self.job.screen.looks else {})


class Asker:
    """Asks about one clip. What was answered is stored by `save`, once it has proved to be of use."""

    def __init__(self, job: Job, clip: Mapping[str, Any]) -> None:
        self.job, self.looked, self.asked = job, Looked(job, clip), 0
        self._unsaved: list[tuple[Record, str]] = []

    def answer(self, spec: EndpointSpec, endpoint: Endpoint, question: str) -> str:
        """The model's answer to a question about the window. Raises EndpointUnreachable and what `Looked` raises."""
        settings = {"temperature": spec.temperature, "seed": spec.seed, "max_tokens": spec.max_tokens or -1}
        request: Record = {"model": spec.model} | {name: value for name, value in settings.items() if value >= 0}
        seen = {"frames": self.looked.sha256, "stills": spec.frames} if spec.frames else {}
        about = {"format": FORMAT, "request": request, "question": question} | seen
        known = self.job.ledger.find("answers", fingerprint(about), "none")
        if known:
            return str(known.record["answer"])
        stills = spread(self.looked.frames, spec.frames) if spec.frames else ()
        text = f"{IN_ORDER}\n{question}" if spec.frames else question
        content = [*map(picture, stills), {"type": "text", "text": text}]
        self.asked += 1
        found = text_of(posted(endpoint, request | {"messages": [{"role": "user", "content": content}]}))
        found = found[:MOST_CHARACTERS].encode("utf-8", "replace").decode()  # a ledger takes no lone surrogates
        self._unsaved.append((about, found))
        return found

    def save(self) -> None:
        """Stores the answers since the last time."""
        for about, text in self._unsaved:
            self.job.ledger.commit("answers", fingerprint(about), {}, about, {"answer": text})
        self._unsaved.clear()
