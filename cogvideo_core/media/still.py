"""Untrusted pictures, for first frames and folders of frames, read with Pillow.

There is an allow-list of formats and modes, and limits on pixels are checked before any pixel is decoded.
"""

from __future__ import annotations

import io

from PIL import Image, ImageOps

from cogvideo_core.errors import ClipError, ClipTooLarge, NotAnImage

FORMATS = ("PNG", "JPEG", "WEBP")
MODES = ("1", "L", "LA", "P", "RGB", "RGBA")  # 16 bits would silently be cut to 8, and CMYK inverted


def read_image(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """An upright RGB picture from the bytes of a PNG, JPEG or WebP; transparency is dropped.

    Raises NotAnImage, and ClipTooLarge for more than `max_pixels`.
    """
    try:
        _opened(data, name, max_pixels).verify()  # checksums; the picture can't be used after it
        image = _opened(data, name, max_pixels)
        return ImageOps.exif_transpose(image).convert("RGBA").convert("RGB")  # by RGBA: palettes with transparency
    except (ClipError, MemoryError):
        raise
    except Exception as error:  # Pillow's decoders raise whatever their input leads them to
        problem = f"it can't be decoded ({type(error).__name__})"
        raise NotAnImage(name, problem, "save it as PNG, JPEG or WebP") from error


def _opened(data: bytes, name: str, max_pixels: int) -> Image.Image:
    """Reads only the header. Raises ClipTooLarge, NotAnImage, and what Pillow raises."""
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ClipTooLarge(name, f"it has more than {max_pixels} pixels", "scale it down") from error
    if image.width * image.height > max_pixels:
        problem = f"it has {image.width}x{image.height} pixels, more than {max_pixels}"
        raise ClipTooLarge(name, problem, "scale it down or raise max_pixels")
    if image.mode not in MODES:
        raise NotAnImage(name, f"it is of mode {image.mode}", "save it as 8-bit RGB")
    if getattr(image, "is_animated", False) and image.format != "MPO":  # MPO: a JPEG with a depth or gain map behind it
        raise NotAnImage(name, "it is an animation", "save one picture of it")
    return image
