"""Masks as pixels: from pictures, arrays and boxes to the frames of a window, widened and feathered, and pasting.

A mask's pictures are 8-bit, light where the clip may be edited; its frames are bool [F,H,W] in the model's size.
"""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from io import BytesIO
from typing import NamedTuple

import numpy as np
from PIL import Image
from scipy import ndimage

from cogvideo_core.errors import ClipTooLarge, NotAMask
from cogvideo_core.media.described import Probe
from cogvideo_core.media.video import View, Window, crop_size, pad_size

LIGHT = 128  # of 255: lighter pixels are edited
SHAPE_TOLERANCE = 0.02  # by which a mask's width : height may differ from its clip's
MAX_ARRAY_BYTES = 2_000_000_000
BORDER_PX = 3  # inside the border, where colours of edit and source are compared
Box = tuple[float, float, float, float]


class Pictures(NamedTuple):
    """A mask that is a sequence: how many pictures it has, and each as uint8 [H,W]."""

    length: int
    picture: Callable[[int], np.ndarray]


class Place(NamedTuple):
    """Where a mask is to lie: the probe of its clip, the window and how that is shown."""

    probe: Probe
    window: Window
    view: View


def frames_of(pictures: Pictures, name: str, probe: Probe, window: Window, view: View) -> np.ndarray:
    """The mask of a clip's window: bool [F,H,W]. One picture holds for all frames; else there are as many as the clip
    has, of which those nearest in time are taken, or as many as the window. Raises NotAMask."""
    chosen = picked(pictures.length, name, probe, window, view.fps)
    held = {index: fitted(pictures.picture(index), name, probe, view) for index in sorted(set(chosen))}
    return np.stack([held[index] for index in chosen])


def picked(count: int, name: str, probe: Probe, window: Window, fps: int) -> list[int]:
    """Which of a mask's pictures each frame of the window takes. Raises NotAMask."""
    if count == 1:
        return [0] * window.frames
    if abs(count - probe.frames) <= 1:  # containers estimate
        times = (Fraction(window.start_s) + Fraction(k, fps) for k in range(window.frames))
        return [min(count - 1, math.floor(time * probe.fps + Fraction(1, 2))) for time in times]
    if count == window.frames:
        return list(range(count))
    problem = f"it has {count} frames, its clip {probe.frames} and the window {window.frames}"
    raise NotAMask(name, problem, "give one, or as many as the clip or the window has")


def fitted(picture: np.ndarray, name: str, probe: Probe, view: View) -> np.ndarray:
    """A picture uint8 [H,W] cut, padded or stretched as its clip is: bool [view.height,view.width], by area.

    Raises NotAMask for a picture of another shape than the clip's.
    """
    height, width = picture.shape
    like = shaped(width, height, name, probe)
    image, size = Image.fromarray(picture), (view.width, view.height)
    if view.fit == "crop":
        wide, high = crop_size(like, view.height, view.width)
        left, top = (width - wide) / 2, (height - high) / 2
        image = image.resize(size, Image.Resampling.BOX, (left, top, left + wide, top + high))
    elif view.fit == "pad":
        wide, high = pad_size(like, view.height, view.width)
        inside = image.resize((wide, high), Image.Resampling.BOX)
        image = Image.new("L", size)
        image.paste(inside, ((view.width - wide) // 2, (view.height - high) // 2))
    else:
        image = image.resize(size, Image.Resampling.BOX)
    return np.asarray(image) >= LIGHT


def shaped(width: int, height: int, name: str, probe: Probe) -> Probe:
    """How a mask of so many pixels lies over its clip: as the clip's own frames, or as what they show in square
    pixels. Raises NotAMask where it does neither."""
    shown_w, shown_h, aspect = probe.shown
    if (width, height) == (shown_w, shown_h):
        return probe
    wanted = float(shown_w * aspect / shown_h)
    if abs(width / height / wanted - 1) > SHAPE_TOLERANCE:
        problem = f"it has {width}x{height} pixels and its clip {shown_w}x{shown_h}, which is another shape"
        raise NotAMask(name, problem, "make it from the clip's own frames")
    return replace(probe, width=width, height=height, sample_aspect=Fraction(1), rotation=0)


def seen_at(x: float, y: float, place: Place) -> tuple[float, float]:
    """Where a point of the clip's picture, in fractions, lies in the model's frames: in pixels, beyond them where it is
    cut off."""
    (width, height, _), view = place.probe.shown, place.view
    if view.fit == "crop":
        wide, high = crop_size(place.probe, view.height, view.width)
        left, top = (width - wide) / 2, (height - high) / 2
        return (x * width - left) / wide * view.width, (y * height - top) / high * view.height
    if view.fit == "pad":
        wide, high = pad_size(place.probe, view.height, view.width)
        return (view.width - wide) // 2 + x * wide, (view.height - high) // 2 + y * high
    return x * view.width, y * view.height


def box_pictures(boxes: list[Box], probe: Probe) -> Pictures:
    """Boxes (x, y, w, h) in fractions of the clip's picture, from its top left corner."""
    shown_w, shown_h, _ = probe.shown

    def picture(index: int) -> np.ndarray:
        x, y, w, h = boxes[index]
        drawn = np.zeros((shown_h, shown_w), np.uint8)
        drawn[round(y * shown_h) : round((y + h) * shown_h), round(x * shown_w) : round((x + w) * shown_w)] = 255
        return drawn

    return Pictures(len(boxes), picture)


def array_pictures(data: bytes, name: str, max_pixels: int) -> Pictures:
    """The pictures of an NPZ file: its one array, or the one called mask or masks, [H,W], [F,H,W] or [F,H,W,1]; bool,
    0 and 1, or 0 to 255. Raises NotAMask, ClipTooLarge."""
    try:
        with zipfile.ZipFile(BytesIO(data)) as archive:
            size = sum(info.file_size for info in archive.infolist())
        if size > MAX_ARRAY_BYTES:
            raise ClipTooLarge(name, f"its arrays have {size / 1e6:,.0f} MB", "save it as bool, or as a video")
        with np.load(BytesIO(data), allow_pickle=False) as arrays:
            wanted = [key for key in arrays.files if key in ("mask", "masks")] or arrays.files
            array = arrays[wanted[0]] if len(wanted) == 1 else None
    except (ClipTooLarge, MemoryError):
        raise
    except Exception as error:  # numpy's readers raise whatever their input leads them to
        problem = f"it can't be read as NPZ ({type(error).__name__})"
        raise NotAMask(name, problem, "write it with numpy.savez_compressed(file, mask=array)") from error
    return _checked(array, name, max_pixels)


def _checked(array: np.ndarray | None, name: str, max_pixels: int) -> Pictures:
    remedy = "save one array [F,H,W] called mask, of bool or of 0 to 255"
    if array is None:
        raise NotAMask(name, "it holds several arrays, and which is the mask is not told", remedy)
    if array.ndim == 4 and array.shape[-1] == 1:
        array = array[..., 0]
    if array.ndim not in (2, 3) or array.dtype.kind not in "buif" or not array.size:
        raise NotAMask(name, f"its array is {array.dtype} {list(array.shape)}", remedy)
    frames = array.reshape(-1, *array.shape[-2:])
    if math.prod(frames.shape[1:]) > max_pixels:
        raise ClipTooLarge(name, f"its frames have more than {max_pixels} pixels", "scale it down")
    if frames.dtype.kind == "f" and not np.isfinite(frames).all():
        raise NotAMask(name, "its array has values that are no numbers", remedy)
    light = 0.5 if frames.dtype.kind == "b" or float(frames.max()) <= 1 else LIGHT
    return Pictures(len(frames), lambda index: np.where(frames[index] >= light, np.uint8(255), np.uint8(0)))


def alpha_of(mask: np.ndarray, grow_px: int, feather_px: int) -> np.ndarray:
    """How far each pixel may change: float32 [F,H,W], 1 up to `grow_px` pixels around the mask bool [F,H,W], and less
    and less over the next `feather_px`."""
    alpha = np.zeros(mask.shape, np.float32)
    for frame, own in zip(mask, alpha, strict=True):
        if frame.any():
            beyond = ndimage.distance_transform_edt(~frame) - grow_px
            own[:] = np.clip(1 - beyond / (feather_px + 1), 0, 1)
    return alpha


def pasted(source: np.ndarray, edit: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """The edit inside the mask and the source's own pixels outside, frames uint8 [F,H,W,3]; alpha float [F,H,W].

    The edit's colours are moved by what it differs from the source along the outside of the border, on the mean of the
    clip, so that the two meet there.
    """
    edge = (alpha > 0) & (alpha < 0.5)
    edge |= ndimage.binary_dilation(alpha > 0, np.ones((1, 3, 3)), BORDER_PX) & (alpha <= 0)
    shift = (source[edge].astype(np.float32) - edit[edge]).mean(0) if edge.any() else np.float32(0)
    share = alpha[..., None]
    mixed = share * (edit + shift) + (1 - share) * source
    return np.where(share > 0, np.rint(mixed).clip(0, 255), source).astype(np.uint8)
