"""What a video file says of itself, as data: its video stream, and what its picture needs before it is shown."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from fractions import Fraction
from typing import Any, Literal

Json = dict[str, Any]
RGB = ("rgb", "bgr", "gbr", "argb", "abgr", "0rgb", "0bgr", "x2rgb", "x2bgr", "pal8")
Order = Literal["", "flagged", "tff", "bff"]


@dataclass(frozen=True)
class Picture:
    """What a clip's picture needs besides scaling, and what is done for it.

    left, top, right, bottom: stored pixels outside of the clean aperture. pixels, field_order, transfer, primaries are
    what the file says, in ffmpeg's words. deinterlaced: "" not; "flagged" the frames that say so; "tff", "bff" every
    frame, by that order. decoder: the one that reads the alpha layer, "" for ffmpeg's own.
    """

    left: int = 0
    top: int = 0
    right: int = 0
    bottom: int = 0
    mirrored: bool = False
    pixels: str = ""
    field_order: str = ""
    deinterlaced: Order = ""
    transfer: str = ""
    primaries: str = ""
    tone_mapped: bool = False
    alpha: bool = False
    decoder: str = ""

    @property
    def rgb(self) -> bool:
        """Whether frames are RGB when they reach the scaler."""
        return self.alpha or self.pixels.startswith(RGB)

    @property
    def cut(self) -> bool:
        """Whether there is a clean aperture smaller than the frame."""
        return bool(self.left or self.top or self.right or self.bottom)


PLAIN = Picture()


@dataclass(frozen=True)
class Probe:
    """One clip's video stream. width, height: stored pixels inside the clean aperture, before `rotation` (degrees
    clockwise) and `sample_aspect`.

    frames is an estimate where the container does not count. On the file's own clock the video's first frame is at
    start_s, and the first frame or sound of all streams at origin_s. clock_us: the first frame's time by the decoder,
    in microseconds; it differs from start_s where the container keeps no times of frames (avi). matrix
    (bt709, bt601, bt2020 ...) and full_range say how its YCbCr becomes RGB.
    """

    width: int
    height: int
    sample_aspect: Fraction
    fps: Fraction
    frames: int
    seconds: float
    has_audio: bool
    rotation: int
    stream: int = 0
    start_s: float = 0.0
    origin_s: float = 0.0
    audio_stream: int = 0
    audio_codec: str = ""
    matrix: str = "bt709"
    full_range: bool = False
    clock_us: int = 0
    picture: Picture = PLAIN

    def as_json(self) -> Json:
        return asdict(self) | {"sample_aspect": str(self.sample_aspect), "fps": str(self.fps)}

    @classmethod
    def from_json(cls, record: Json) -> Probe:
        parsed: Json = {name: Fraction(record[name]) for name in ("sample_aspect", "fps")}
        return cls(**(record | parsed | {"picture": Picture(**record.get("picture", {}))}))

    @property
    def stored_pixels(self) -> int:
        """Pixels of a whole stored frame."""
        cut = self.picture
        return (self.width + cut.left + cut.right) * (self.height + cut.top + cut.bottom)

    @property
    def shown(self) -> tuple[int, int, Fraction]:
        """(width, height, sample aspect) after rotation."""
        if self.rotation in (90, 270):
            return self.height, self.width, 1 / self.sample_aspect
        return self.width, self.height, self.sample_aspect
