"""The colours of frames as RGB: YCbCr by the clip's own matrix and range, and HDR brought down to SDR.

HDR (PQ and HLG, ITU-R BT.2100) becomes light in nits (HLG on a 1000-nit display) with BT.709 primaries. Reference
white, 203 nits (BT.2408), counts as 1. Light up to half of it is kept; brighter light is compressed (`mobius`), so that
1000 nits become white. The brightest of R, G and B sets the factor for all three, so that hue stays. BT.1886 then turns
light into a display's signal.
"""

from __future__ import annotations

from typing import Any

from cogvideo_core.media.described import Probe

EXACT = "bicubic+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"
AREA = EXACT.replace("bicubic", "area")
HDR_TRANSFERS = ("smpte2084", "arib-std-b67")
WHITE_NITS, PEAK_NITS, KEPT = 203, 1000, 0.5
ZSCALE_MATRICES = {"bt2020": "bt2020nc", "bt601": "smpte170m"}  # where zscale's name differs
PRIMARIES = ("bt709", "bt2020", "smpte431", "smpte432", "bt470bg", "smpte170m", "smpte240m", "bt470m")
PLANES = "yuv444p16le|gbrp|gbrp10le|gbrp12le|gbrp16le"


def yuv_options(probe: Probe) -> dict[str, str]:
    """Options of ffmpeg's scaler that turn a clip's YCbCr into full-range RGB; they do not affect RGB clips."""
    return {"in_color_matrix": probe.matrix, "in_range": _range(probe), "out_range": "full"}


def scaled(video: Any, probe: Probe, width: object, height: object, flags: str = EXACT) -> Any:
    """Frames scaled to 8-bit RGB; HDR becomes SDR where the probe says so. flags: of ffmpeg's scaler."""
    if not probe.picture.tone_mapped:
        video = video.filter("scale", width, height, flags=flags, **yuv_options(probe))
        return video.filter("format", "rgb24")
    ranges = {"in_range": _range(probe), "out_range": _range(probe)}
    video = video.filter("scale", width, height, flags=EXACT, **ranges).filter("format", PLANES)
    return _sdr(_light(video, probe)).filter("format", "rgb24")


def _light(video: Any, probe: Probe) -> Any:
    """Linear light with BT.709 primaries, 1 = reference white."""
    picture = probe.picture
    matrix = "gbr" if picture.rgb else ZSCALE_MATRICES.get(probe.matrix, probe.matrix)
    primaries = picture.primaries if picture.primaries in PRIMARIES else "bt2020"
    given = {"tin": picture.transfer, "pin": primaries, "min": matrix, "rin": "full" if picture.rgb else _range(probe)}
    wanted = {"t": "linear", "p": "bt709", "m": "gbr", "r": "full", "npl": WHITE_NITS, "agamma": 0}
    return video.filter("zscale", **given, **wanted).filter("format", "gbrpf32le")


def _sdr(video: Any) -> Any:
    """8-bit RGB from linear light; the video's own peak metadata is ignored, so that clips look alike."""
    curve = {"tonemap": "mobius", "param": KEPT, "peak": PEAK_NITS / WHITE_NITS, "desat": 0}
    given = {"tin": "linear", "pin": "bt709", "min": "gbr", "rin": "full"}
    wanted = {"t": "bt709", "p": "bt709", "m": "gbr", "r": "full", "agamma": 0}  # zscale's bt709 is BT.1886
    return video.filter("tonemap", **curve).filter("zscale", **given, **wanted).filter("format", "gbrp")


def _range(probe: Probe) -> str:
    return "full" if probe.full_range else "limited"
