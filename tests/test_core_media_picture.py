"""The picture of a clip beside its sizes: what is parsed, recorded, switched, and what stays as it was."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import picture_fields as pf
import pytest
from hypothesis import given
from hypothesis import strategies as st
from picture_files import (
    BT2020,
    LIMITS,
    LOSSLESS,
    clap,
    codes,
    ff,
    framed,
    patches,
    pq_nits,
    raw,
    seen,
    shown_sdr,
    signals,
    tags,
    to_rgb709,
    with_box,
)
from test_core_media_video import real_clips

from cogvideo_core import errors
from cogvideo_core.inputs.sources import read_clips
from cogvideo_core.media import colour, tools, video
from cogvideo_core.media import fields as fields_media
from cogvideo_core.media import picture as picture_media
from cogvideo_core.media.described import PLAIN, Picture
from cogvideo_core.media.picture import picture_of
from cogvideo_core.models import model
from cogvideo_core.settings.specs import (
    DatasetSpec,
    EngineSpec,
    InversionSpec,
    ModelSpec,
    OutputSpec,
    RecipeSpec,
    canonical,
    fingerprint,
)
from cogvideo_core.shapes import world
from cogvideo_core.stages.encode import encode_clip
from cogvideo_core.stages.units import frames_spec
from cogvideo_core.stages.work import Work
from cogvideo_core.storage.ledger import Ledger

HDR_TAGS = tags("bt2020nc", "smpte2084", "bt2020")


@pytest.fixture(scope="module")
def tiny(tiny_pipeline_folder: Path) -> model.VideoModel:
    return model.load(ModelSpec(path=str(tiny_pipeline_folder)))


@pytest.fixture(scope="module")
def interlaced(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """40 frames at 25 a second, flagged, with a key frame every ten, and the first moment of each frame."""
    fields = pf.moments(80)
    path = tmp_path_factory.mktemp("interlaced") / "clip.mp4"
    return pf.grey_clip(pf.woven(fields, "tff"), path, *pf.FLAGGED["tff"], "-g", 10), fields[0::2]


def treated(path: Path, **wishes: Any) -> video.Probe:
    found = video.probe(path, path.name, LIMITS)
    return video.treated(path, path.name, found, 0.0, 1.0, DatasetSpec(**wishes), LIMITS)


def hdr_clip(folder: Path) -> Path:
    grey = codes(np.full((4, 3), 0.5), "bt2020", 10, False)
    return patches(grey, "yuv420p10le", 10, folder, "-vf", tags("bt2020nc", "arib-std-b67", "bt2020"))


def test_a_record_without_a_picture_is_read() -> None:
    """Source records that were written before clips had one are still probes, of plain pictures; new ones come back."""
    old = video.Probe(64, 48, Fraction(1), Fraction(25), 25, 1.0, False, 90).as_json()
    del old["picture"]
    assert video.Probe.from_json(old).picture == PLAIN
    full = replace(video.Probe.from_json(old), picture=Picture(1, 2, 3, 4, True, "yuv420p", "tt", "tff", alpha=True))
    assert video.Probe.from_json(json.loads(json.dumps(full.as_json()))) == full
    assert full.stored_pixels == 68 * 54


def test_a_plain_picture_asks_for_nothing() -> None:
    """Without fields, aperture and alpha, nothing is added to ffmpeg's command."""
    plain = video.Probe(64, 48, Fraction(1), Fraction(25), 25, 1.0, False, 90)
    assert picture_media.input_options(plain) == {}
    assert picture_media.shown("video", plain) == "video" == fields_media.deinterlaced("video", PLAIN)


def test_the_whole_stored_frame_counts_as_its_size(tmp_path: Path) -> None:
    """A small aperture does not make a frame that is too large to be decoded acceptable."""
    path = with_box(framed(tmp_path, (32, 24, 64, 48)), clap(64, 48))
    assert video.probe(path, "a", replace(LIMITS, max_pixels=128 * 96)).width == 64
    with pytest.raises(errors.ClipTooLarge, match=r"clip 'a'.*max_pixels"):
        video.probe(path, "a", replace(LIMITS, max_pixels=128 * 96 - 1))


def test_an_aperture_that_leaves_nothing_is_refused() -> None:
    """ffmpeg drops such apertures itself; what another one lets through is refused with one sentence."""
    side = {"crop_left": 40, "crop_right": 24, "crop_top": 0, "crop_bottom": 0}
    with pytest.raises(
        errors.UnreadablePicture, match=r"clip 'a': its clean aperture leaves nothing .* 64x48; re-encode"
    ):
        picture_of({"width": 64, "height": 48, "side_data_list": [side]}, "a")


@given(
    numbers=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=9, max_size=9),
    crops=st.lists(st.integers(0, 2**32), min_size=4, max_size=4),
    text=st.text(),
)
def test_any_side_data_is_parsed_or_refused(numbers: list[int], crops: list[int], text: str) -> None:
    """Whatever a hostile file says of its turn and aperture: a quarter turn inside the frame, or one sentence."""
    rows = [numbers[i : i + 3] for i in (0, 3, 6)]
    lines = [f"\n{i:08d}: {a:11d} {b:11d} {c:11d}" for i, (a, b, c) in enumerate(rows)]
    names = ("crop_left", "crop_right", "crop_top", "crop_bottom")
    side = [{"displaymatrix": "".join(lines)}, dict(zip(names, crops, strict=True))]
    stream = {"width": 64, "height": 48, "side_data_list": side, "color_transfer": text, "pix_fmt": text}
    try:
        picture, rotation = picture_of(stream, "a")
    except errors.UnreadablePicture as error:
        assert str(error).isprintable() and str(error).startswith("clip 'a': ")
    else:
        assert rotation in (0, 90, 180, 270)
        assert picture.left + picture.right < 64 and picture.top + picture.bottom < 48


def test_switches_are_part_of_a_key_only_when_off(tiny: model.VideoModel) -> None:
    """The default names the same frames as before there were switches; each one off names others."""

    def frames(**fields: Any) -> dict[str, Any]:
        return frames_spec(DatasetSpec(**fields), tiny, "0" * 64, 0)

    assert canonical(frames(deinterlace="auto", tone_map="auto")) == canonical(frames())
    assert set(frames()) == {"format", "content", "window", "fit", "shape"}
    specs = [frames(), frames(deinterlace="off"), frames(tone_map="off"), frames(deinterlace="off", tone_map="off")]
    assert len({fingerprint(spec) for spec in specs}) == 4


def test_what_was_done_is_recorded(interlaced: tuple[Path, np.ndarray], tmp_path: Path) -> None:
    """The probe says what the file says, and what is done about it; switched off, nothing is."""
    found = treated(interlaced[0]).picture
    assert (found.field_order, found.deinterlaced) == ("tt", "tff")
    assert treated(interlaced[0], deinterlace="off").picture == replace(found, deinterlaced="")
    light = treated(hdr_clip(tmp_path)).picture
    assert (light.transfer, light.primaries, light.tone_mapped) == ("arib-std-b67", "bt2020", True)
    assert treated(tmp_path / "clip.mkv", tone_map="off").picture == replace(light, tone_mapped=False)


def test_a_source_unit_says_what_was_done(tiny: model.VideoModel, tmp_path: Path) -> None:
    """After encoding, the source's record holds the picture beside sizes and rate."""
    pf.grey_clip(pf.woven(pf.moments(80), "bff"), tmp_path / "a.mp4", *pf.FLAGGED["bff"])
    (tmp_path / "m.jsonl").write_text(
        json.dumps({"clip": "a.mp4", "source_prompt": "stripes", "target_prompts": ["more stripes"]})
    )
    dataset = DatasetSpec(source=str(tmp_path / "m.jsonl"), frames=9)
    output = OutputSpec(root=str(tmp_path / "run"))
    work = Work(dataset, InversionSpec(), RecipeSpec(), output, EngineSpec(), tiny, Ledger(output.root))
    (clip,) = read_clips(dataset)
    record = encode_clip(work, dict(clip))
    assert video.Probe.from_json(record["probe"]).picture.deinterlaced == "bff"


@pytest.mark.parametrize("start", [0, 7, 11, 20, 31])
def test_every_window_shows_its_own_moments(interlaced: tuple[Path, np.ndarray], start: int) -> None:
    """From any frame on, also the last ones, no frame is lost, doubled or late by deinterlacing."""
    path, right = interlaced
    found = treated(path)
    window = video.Window(0, start / pf.RATE, 9)
    frames = video.decode(path, "a", found, window, video.View(pf.HEIGHT, pf.WIDTH, pf.RATE, "stretch"), LIMITS)[..., 1]
    assert pf.whole(frames, right[start : start + 9]) == "right"
    neighbours = np.abs(frames.astype(int) - right[start : start + 9]).mean((1, 2))
    later = np.abs(frames[:-1].astype(int) - right[start + 1 : start + 9]).mean((1, 2))
    assert neighbours.max() < later.min() / 3


def test_times_are_unchanged(interlaced: tuple[Path, np.ndarray]) -> None:
    """The filter gives back each frame at its own time, so that frames can be chosen by time after it."""

    def times(*filters: str) -> list[str]:
        chain = ",".join([*filters, "settb=AVTB", "showinfo"])
        command = [tools.ffmpeg_exe(), "-nostdin", "-i", str(interlaced[0]), "-vf", chain, "-f", "null", "-"]
        log = subprocess.run(command, capture_output=True, check=True).stderr.decode()
        return re.findall(r" pts: *(\d+)", log)

    graph = fields_media.deinterlaced(fields_media.ffmpeg.input("x"), Picture(deinterlaced="tff"))
    assert graph.node.name == "bwdif" and graph.node.kwargs["mode"] == "send_frame"
    plain = times()
    assert len(plain) == 40 and times("bwdif=mode=send_frame:parity=tff:deint=all") == plain
    assert times("bwdif=mode=send_frame:deint=interlaced") == plain


def test_real_clips_are_seen_right(tmp_path: Path) -> None:
    """A real progressive clip is not touched; the same, interlaced without a flag, is made whole by its order."""
    real = next(path for path in real_clips() if path.stem == "bikes")
    found = treated(real)
    assert found.picture.deinterlaced == "" and found.picture.field_order == "progressive"
    for scan in ("tff", "bff"):
        chain = f"crop=iw:trunc(ih/4)*4,interlace=scan={scan}:lowpass=off,setfield=prog"
        path = tmp_path / f"{scan}.mp4"
        ff("-i", real, "-t", 2, "-vf", chain, "-an", "-c:v", "libx264", "-preset", "ultrafast", "-crf", 20, path)
        assert treated(path).picture.deinterlaced == scan


def test_hdr_is_the_same_in_every_run(tmp_path: Path) -> None:
    """Tone mapping is bit-exact: the same file gives the same frames, and thus the same latents' key and bytes."""
    generated = ("-f", "lavfi", "-i", "testsrc2=s=128x96:r=8:d=2", "-vf", f"format=yuv420p10le,{HDR_TAGS}")
    ff(*generated, "-c:v", "ffv1", tmp_path / "a.mkv")
    first = seen(tmp_path / "a.mkv", (96, 64), "crop")
    assert first.std() > 20 and all((seen(tmp_path / "a.mkv", (96, 64), "crop") == first).all() for _ in range(3))


@pytest.mark.parametrize("fit", ["crop", "pad", "stretch"])
def test_hdr_in_every_fit(tmp_path: Path, fit: str) -> None:
    """Half signal of HLG, 50.7 nits, is the same grey in every fit, and bars stay black."""
    frame = seen(hdr_clip(tmp_path), (48, 48), fit)[4]
    right = 255 * (50.697 / 203) ** (1 / 2.4)
    assert np.abs(frame[24] - right).max() < 1.5
    assert (frame[2].max() == 0) == (fit == "pad")


def test_the_page_on_clips_says_what_is_done() -> None:
    """Reference white, the light that stays, the peak and the largest interlaced frame are as the page gives them."""
    page = (Path(__file__).parents[1] / "docs/clips.md").read_text("utf-8")
    white = round(float(shown_sdr(np.full((1, 3), 203.0))[0, 0]))
    told = (f"{white} of 255", f"to {colour.KEPT} is unchanged", f"{colour.PEAK_NITS} nits become white")
    for words in (*told, f"white, {colour.WHITE_NITS} nits", f"more than {fields_media.MOST_LINES} lines"):
        assert words in " ".join(page.split()), words


def test_hue_is_kept_above_white(tmp_path: Path) -> None:
    """Highlights grow pale neither by clipping nor by the curve: the ratio of channels in light stays."""
    signal = np.array([[0.74, 0.70, 0.68]])
    path = patches(codes(signal, "bt2020", 12, False), "yuv444p12le", 12, tmp_path, "-vf", HDR_TAGS)
    shown = (seen(path, (16, 16))[4, 8, 8] / 255) ** 2.4
    light = pq_nits(signals(codes(signal, "bt2020", 12, False), "bt2020", 12, False)) @ to_rgb709(BT2020).T
    assert light.max() > 800 and np.abs(shown / shown.max() - light[0] / light.max()).max() < 0.01


def test_hidden_colours_do_not_bleed(tmp_path: Path) -> None:
    """Beside an edge of an orange disc on transparent white, no pixel of the scaled frame is brighter than orange."""
    rgba = np.full((16, 64, 64, 4), [255, 255, 255, 0], np.uint8)
    y, x = np.mgrid[:64, :64] - 31.5
    rgba[:, x**2 + y**2 < 600] = [240, 120, 60, 255]
    ff(*raw(rgba, "rgba", (64, 64), tmp_path), "-c:v", "png", tmp_path / "a.mov")
    frame = seen(tmp_path / "a.mov", (24, 24))[4].astype(int)
    assert (frame <= np.array([240, 120, 60]) * 1.12).all()  # bicubic overshoot of an edge, not white
    assert np.abs(frame[12, 12] - [240, 120, 60]).max() <= 2 and frame[0, 0].max() == 0


def test_combs_are_told_from_detail() -> None:
    """Woven moments are full of combs, noise that moves as a whole and doubled lines that roll have hardly any."""

    def share(frames: np.ndarray) -> float:
        return fields_media.combing(np.stack([frames[:-1], frames[1:]], 1))[0]

    assert share(pf.woven(pf.moments(20), "tff")) > 0.1
    assert share(pf.moments(10)) == 0 == share(pf.credits_roll(10))
    assert fields_media.combing(np.zeros((3, 2, 8, 8), np.uint8)) == (0, 0)
    assert fields_media.combing(np.zeros((0, 2, 8, 8), np.uint8)) == (0, 0)


def test_looking_survives_what_can_not_be_decoded(tmp_path: Path) -> None:
    """A file that ends in the middle is no reason to fail while looking: decoding says what is wrong with it."""
    path = framed(tmp_path, (0, 0, 128, 96))
    found = video.probe(path, "a", LIMITS)
    path.write_bytes(path.read_bytes()[:200])
    assert fields_media.looked_at(path, "a", found, 0.0, 1.0, LIMITS) == ""


def test_frames_too_large_for_fields_cost_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A 4K clip without a flag is not decoded to look for fields; one with a flag is."""
    looked: list[Path] = []
    monkeypatch.setattr(
        fields_media, "_pairs", lambda path, *_: looked.append(path) or np.zeros((0, 2, 8, 8), np.uint8)
    )
    found = video.Probe(3840, 2160, Fraction(1), Fraction(25), 25, 1.0, False, 0)
    assert fields_media.looked_at(Path("a"), "a", found, 0.0, 1.0, LIMITS) == "" and not looked
    flagged = replace(found, picture=Picture(deinterlaced="flagged"))
    assert fields_media.looked_at(Path("a"), "a", flagged, 0.0, 1.0, LIMITS) == "flagged" and looked


def test_flags_stand_where_nothing_moves(tmp_path: Path) -> None:
    """A still that is flagged as interlaced shows no combs: the flag is believed, and the picture is not harmed."""
    still = np.repeat(pf.detailed(1), 18, 0)
    path = pf.grey_clip(still, tmp_path / "clip.mp4", *pf.FLAGGED["tff"])
    assert treated(path).picture.deinterlaced == "flagged"
    assert np.abs(pf.watched(path)[4:14].astype(int) - still[4:14]).max() <= 2
    assert treated(pf.grey_clip(still, tmp_path / "b.mp4", *LOSSLESS)).picture.deinterlaced == ""


def test_a_world_clip_is_plain(tmp_path: Path) -> None:
    """The clips that this project writes itself need nothing."""
    video.encode(world.render(world.scene_from_seed(1)), tmp_path / "a.mp4", 8)
    assert treated(tmp_path / "a.mp4").picture == Picture(
        pixels="yuv420p", field_order="progressive", transfer="bt709", primaries="bt709"
    )
