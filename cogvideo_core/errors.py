"""The project's errors: one sentence naming clip, field and remedy, and a class that decides about retries."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager

UNSHOWN = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})  # control, format and direction marks, surrogates, line separators


def one_line(text: str) -> str:
    """The text, safe for a log, a table or a page: invisible characters and line breaks are escaped."""
    if text.isprintable():
        return text
    escaped = (repr(c)[1:-1] if unicodedata.category(c) in UNSHOWN and c != "\u200d" else c for c in text)
    return "".join(escaped)


class EditError(Exception):
    """Base of every error this project raises on purpose.

    `kind` is one of bad_input, screened, out_of_memory, storage, model, cancelled, bug; `retryable` says whether the
    same work may succeed when tried again unchanged. `stage` is the one that tables name, "" for the one at work.
    """

    kind = "bug"
    retryable = False
    stage = ""
    ran = False  # whether work was done before it was raised

    def __str__(self) -> str:
        return one_line(super().__str__())


class ClipError(EditError):
    """A clip that can't be used: "clip 'a.mp4': it has no video stream; remove it from the manifest"."""

    kind = "bad_input"

    def __init__(self, clip: str, problem: str, remedy: str, field: str = "clip") -> None:
        super().__init__(f"{field} {clip!r}: {problem}; {remedy}")
        self.clip, self.problem, self.remedy, self.field = clip, problem, remedy, field

    def __reduce__(self) -> tuple[type[ClipError], tuple[str, str, str, str]]:
        return type(self), (self.clip, self.problem, self.remedy, self.field)


@contextmanager
def about_field(clip: str, field: str) -> Iterator[None]:
    """Turns a ClipError about another file in a clip's row into the clip's own error, which names the field."""
    try:
        yield
    except ClipError as error:
        raise type(error)(clip, f"{field} {error.clip!r}: {error.problem}", error.remedy) from error


class MissingClip(ClipError):
    """There is no such file."""


class EmptyClip(ClipError):
    """The file has zero bytes."""


class NotAVideo(ClipError):
    """The file is not in an allowed container, or can't be parsed."""


class NotAnImage(ClipError):
    """The file is no picture of an allowed kind, or can't be decoded."""


class NotAMask(ClipError):
    """The mask marks nothing or everything, has another shape than its clip, or can't be read."""


class NoVideoStream(ClipError):
    """The file holds audio or data, but no video."""


class UnreadablePicture(ClipError):
    """The picture is stored in a way that would be shown wrongly: its colours, its turn or its clean aperture."""


class TruncatedClip(ClipError):
    """The file ends before its video does."""


class DamagedClip(ClipError):
    """More of its frames are damaged than `dataset.max_damage` allows."""


class ClipTooLarge(ClipError):
    """More bytes, pixels, frames or seconds than the limits allow."""


class ClipTooShort(ClipError):
    """Fewer seconds than the model needs."""


class ScenesTooShort(ClipError):
    """Cuts leave no scene that is as long as the model needs."""

    stage = "screen"


class ScreenedOut(ClipError):
    """The screen was asked to leave such clips out."""

    kind = "screened"
    stage = "screen"


class ClipTimeout(ClipError):
    """Reading took longer than the limit."""


class PoorReconstruction(ClipError):
    """The inversion does not lead back to the clip well enough to edit it."""


class PoorVae(ClipError):
    """The VAE alone makes something else of the clip: its weights or its precision are at fault, not the clip."""

    kind = "model"


class EndpointUnreachable(EditError):
    """A model behind an address that gives no usable answer."""

    kind = "model"


class FrozenEdit(ClipError):
    """An edit that stands still although its source moves: what a model gives that has broken down."""

    kind = "model"


class ForbiddenUri(ClipError):
    """A URI outside the allowed protocols or outside the input root."""


class BadManifest(EditError):
    """A manifest or prompts file that can't be read as one."""

    kind = "bad_input"


class BadSpec(EditError):
    """Settings that contradict each other or the model."""

    kind = "bad_input"


class ModelError(EditError):
    """A model folder that can't be used."""

    kind = "model"


class NotFinite(ModelError):
    """A part of the model gave infinities or values that are no numbers."""


class OutOfMemory(EditError):
    """Memory does not suffice, whatever was tried."""

    kind = "out_of_memory"


class HopelessRun(EditError):
    """A run whose first clips all failed for one reason, which is not the clips' own."""

    kind = "model"
    ran = True


class StorageError(EditError):
    """The store did not do what was asked; another try may succeed."""

    kind = "storage"
    retryable = True


class CorruptObject(StorageError):
    """Stored bytes that are not what was committed."""

    retryable = False
