"""How a stored picture becomes the one that is shown: clean aperture, rotation, and transparency over black.

Also refuses pictures that ffmpeg would silently show wrongly. Fields are in `fields`, light and colour in `colour`.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace
from typing import Any

from cogvideo_core.errors import UnreadablePicture
from cogvideo_core.media.colour import EXACT, HDR_TRANSFERS, yuv_options
from cogvideo_core.media.described import Picture, Probe

ENTRIES = (  # asked of ffprobe besides what `probe` needs
    "field_order,color_transfer,color_primaries,view_ids_available",
    "stream_tags=alpha_mode,ALPHA_MODE:stream_side_data=rotation,displaymatrix,"
    "crop_top,crop_bottom,crop_left,crop_right,dv_profile,dv_bl_signal_compatibility_id",
)
INTERLACED = ("tt", "bb", "tb", "bt")
ALPHA = ("yuva", "ya", "gbrap", "rgba", "bgra", "argb", "abgr", "ayuv", "vuya", "pal8")  # prefixes of pixel formats
ALPHA_DECODERS = {"vp8": "libvpx", "vp9": "libvpx-vp9"}  # ffmpeg's own decoders drop the alpha layer of these
STRANGE_MATRICES = ("ictcp", "ipt-c2", "ycgco", "smpte2085", "bt2020c", "chroma-derived")
TURNS = {  # (degrees clockwise, mirrored) -> filter; as ffmpeg turns pictures by itself
    (90, False): ("transpose", "clock"),
    (90, True): ("transpose", "cclock_flip"),
    (270, False): ("transpose", "cclock"),
    (270, True): ("transpose", "clock_flip"),
    (180, True): ("hflip",),
    (0, True): ("vflip",),
}
Json = dict[str, Any]


def picture_of(stream: Json, clip: str) -> tuple[Picture, int]:
    """The picture of a stream as ffprobe describes it, and its rotation in degrees clockwise: 0, 90, 180 or 270.

    Raises UnreadablePicture.
    """
    _refuse_strange_colours(stream, clip)
    left, top, right, bottom = _aperture(stream, clip)
    rotation, mirrored = _turn(stream, clip)
    alpha, decoder = _alpha(stream)
    order, transfer = str(stream.get("field_order", "")), str(stream.get("color_transfer", ""))
    found = Picture(left, top, right, bottom, mirrored, str(stream.get("pix_fmt", "")), order)
    return replace(
        found,
        deinterlaced="flagged" if order in INTERLACED else "",
        transfer=transfer,
        primaries=str(stream.get("color_primaries", "")),
        tone_mapped=transfer in HDR_TRANSFERS,
        alpha=alpha,
        decoder=decoder,
    ), rotation


def input_options(probe: Probe) -> dict[str, object]:
    """Options before `-i`: where fields or a clean aperture require it, rotation and cropping are left to us.

    Deinterlacing must come before both: cropping an odd number of lines would swap the fields.
    """
    picture = probe.picture
    options: dict[str, object] = {f"c:{probe.stream}": picture.decoder} if picture.decoder else {}
    if picture.deinterlaced or picture.cut:
        options["noautorotate"] = None
    return options | ({"apply_cropping": "codec"} if picture.cut else {})


def shown(video: Any, probe: Probe) -> Any:
    """The clean aperture of each frame, rotated, over black: what a player shows, unscaled."""
    picture = probe.picture
    if picture.cut:
        width, height = f"iw-{picture.left + picture.right}", f"ih-{picture.top + picture.bottom}"
        video = video.filter("crop", width, height, picture.left, picture.top, exact=1)
    if picture.deinterlaced or picture.cut:
        video = _turned(video, probe.rotation, picture.mirrored)
    return _over_black(video, probe) if picture.alpha else video


def _turned(video: Any, rotation: int, mirrored: bool) -> Any:
    if (rotation, mirrored) == (180, False):
        return video.filter("hflip").filter("vflip")
    turn = TURNS.get((rotation, mirrored))
    return video.filter(*turn) if turn else video


def _over_black(video: Any, probe: Probe) -> Any:
    """Colour times alpha, before scaling, so that the colour of invisible pixels does not bleed into visible ones.

    Through 8-bit RGBA: ffmpeg's scaler would make opaque YUV alpha less than opaque.
    """
    video = video.filter("scale", flags=EXACT, **yuv_options(probe)).filter("format", "rgba")
    return video.filter("scale", flags=EXACT).filter("format", "gbrap16le").filter("premultiply", inplace=1)


def _refuse_strange_colours(stream: Json, clip: str) -> None:
    side = _side_data(stream)
    profile, base = int(side.get("dv_profile", 0)), int(side.get("dv_bl_signal_compatibility_id", 0))
    if profile == 5 or (profile in (10, 20) and not base):
        problem = f"it is Dolby Vision profile {profile}, whose colours (IPT-PQ-c2) no other player can read"
        raise UnreadablePicture(clip, problem, "convert it to profile 8.1 or to SDR")
    matrix = str(stream.get("color_space", ""))
    if matrix.startswith(STRANGE_MATRICES):
        raise UnreadablePicture(clip, f"its colour matrix is {matrix}", "convert it to BT.709")


def _aperture(stream: Json, clip: str) -> tuple[int, int, int, int]:
    """(left, top, right, bottom) pixels to crop. Nonsense in containers never gets here: ffmpeg drops it silently."""
    side = _side_data(stream)
    left, top, right, bottom = (max(0, int(side.get(f"crop_{edge}", 0))) for edge in ("left", "top", "right", "bottom"))
    width, height = int(stream.get("width", 0)), int(stream.get("height", 0))
    if left + right >= width or top + bottom >= height:
        problem = f"its clean aperture leaves nothing of a frame of {width}x{height}"
        raise UnreadablePicture(clip, problem, "re-encode it as H.264")
    return left, top, right, bottom


def _turn(stream: Json, clip: str) -> tuple[int, bool]:
    """(degrees clockwise, mirrored) of the display matrix; a matrix of zeros, as some cameras write, is none."""
    side = _side_data(stream)
    a, b, c, d = _matrix(str(side.get("displaymatrix", ""))) or (1, 0, 0, 1)
    across, down = math.hypot(a, c), math.hypot(b, d)
    if not across or not down:
        return 0, False
    degrees = math.degrees(math.atan2(b / down, a / across))
    quarter = round(degrees / 90)
    if abs(degrees - 90 * quarter) >= 1:
        problem = f"it is to be shown turned by {degrees:.0f} degrees, which is no quarter turn"
        raise UnreadablePicture(clip, problem, "re-encode it upright as H.264")
    return 90 * quarter % 360, a * d - b * c < 0


def _matrix(text: str) -> tuple[int, int, int, int] | None:
    """The upper left quarter of a display matrix as ffprobe prints it: three lines of an address and three numbers."""
    rows = [[int(n) for n in line] for line in re.findall(r":\s+(-?\d+)\s+(-?\d+)\s+-?\d+", text)]
    return (*rows[0], *rows[1]) if len(rows) == 3 else None  # type: ignore[return-value]


def _alpha(stream: Json) -> tuple[bool, str]:
    """(whether there is an alpha layer, the decoder that reads it)."""
    tags, codec = stream.get("tags", {}), str(stream.get("codec_name", ""))
    if codec in ALPHA_DECODERS and "1" in (tags.get("alpha_mode"), tags.get("ALPHA_MODE")):
        return True, ALPHA_DECODERS[codec]
    layers = "," in str(stream.get("view_ids_available", ""))  # HEVC; a second view instead of alpha is opaque: no harm
    return layers or str(stream.get("pix_fmt", "")).startswith(ALPHA), ""


def _side_data(stream: Json) -> Json:
    return {name: value for entry in stream.get("side_data_list", []) for name, value in entry.items()}
