"""Edited first frames: whose file may be anything, and image-to-video models' whole path from file to dataset."""

from __future__ import annotations

import io
import json
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from PIL import Image

from cogvideo_core.dataset import tables
from cogvideo_core.diffusion.editing import edit_evaluations
from cogvideo_core.errors import ClipTooLarge, CorruptObject, EditError, NotAnImage
from cogvideo_core.inputs import clip_files
from cogvideo_core.media import still, video
from cogvideo_core.models import model
from cogvideo_core.planning import plan
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.shapes import build, world
from cogvideo_core.stages import edit as edit_stages
from cogvideo_core.stages import first_frame, trajectory
from cogvideo_core.stages.encode import encode_clip, read_latents
from cogvideo_core.stages.failures import attempt, is_failure
from cogvideo_core.stages.units import frames_spec, latents_spec
from cogvideo_core.stages.work import Work
from cogvideo_core.storage.ledger import Ledger

Record = dict[str, Any]
STEPS = 4
INVERSION = InversionSpec(method="fixed_point", steps=STEPS, gate="off")
INVERTED = STEPS * 2  # evaluations of one inversion
PIXELS = 10_000


@pytest.fixture(scope="module", params=["5b-i2v", "1.5-5b-i2v"])
def loaded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> model.VideoModel:
    folder = tmp_path_factory.mktemp(request.param)
    build.build_pipeline(request.param).save_pretrained(folder)
    return model.load(ModelSpec(path=str(folder)))


@pytest.fixture(scope="module")
def text_to_video(tiny_pipeline_folder: Path) -> model.VideoModel:
    return model.load(ModelSpec(path=str(tiny_pipeline_folder)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A clip, a.mp4, and two pictures of the model's size, one.png and two.webp."""
    path = tmp_path / "input"
    path.mkdir()
    video.encode(world.render(world.scene_from_seed(5)), path / "a.mp4", 8)
    picture(6).save(path / "one.png")
    picture(7).save(path / "two.webp", lossless=True)
    return path


def picture(seed: int) -> Image.Image:
    return Image.fromarray(world.render(world.scene_from_seed(seed))[0])


def work_of(loaded: model.VideoModel, folder: Path, **dataset: Any) -> Work:
    manifest = {"source": str(folder / "m.csv")} | dataset
    output = OutputSpec(root=str(folder.parent / "run"))
    return Work(DatasetSpec(**manifest), INVERSION, RecipeSpec(), output, EngineSpec(), loaded, Ledger(output.root))


def planned(work: Work, *first_frames: str) -> list[Record]:
    """Records of a manifest with a row for each first frame: the same clip and prompt."""
    lines = [f"a.mp4,a red square,{name}" for name in first_frames]
    Path(work.dataset.source).write_text("\n".join(["clip,target_prompts,first_frame_uri", *lines, ""]))
    return list(plan.planned_clips(work.dataset, work.model))


def edited(work: Work, *first_frames: str) -> tuple[list[Record], int]:
    """Finished records and what they cost the model."""
    before = work.model.evaluations

    def whole(record: Record) -> Record:
        return edit_stages.edit_clip(work, trajectory.invert_clip(work, encode_clip(work, record)))

    done = [attempt(whole, record, "edit") for record in planned(work, *first_frames)]
    return done, work.model.evaluations - before


def edit_files(work: Work, records: list[Record]) -> list[bytes]:
    keys = [edit["edit_key"] for record in records for edit in record["edits"]]
    found = [work.ledger.find("edits", key) for key in keys]
    return [Path(work.ledger.open_url(commit, "edit.mp4")[1]).read_bytes() for commit in found if commit]


def cost(edits: int) -> int:
    return edit_evaluations(RecipeSpec(), STEPS, edits, layer_count=2)


def test_from_file_to_dataset(loaded: model.VideoModel, folder: Path) -> None:
    """Adjacent rows that differ in their first frame alone keep their own, share one inversion, and are all told."""
    work = work_of(loaded, folder)
    records, made = edited(work, "", "one.png", "two.webp")
    assert not any(map(is_failure, records)) and made == INVERTED + 3 * cost(1)
    assert len({record["trajectory_key"] for record in records}) == 1
    assert len(set(edit_files(work, records))) == 3
    counts = tables.collect_run(work.output, work.ledger, records, {})
    assert (counts["edits"], counts["clips"], counts["errors"]) == (3, 1, 0)
    lines = Path(work.output.root, "dataset/metadata.jsonl").read_text().splitlines()
    assert sorted(json.loads(line)["first_frame_uri"] for line in lines) == ["", "one.png", "two.webp"]


def test_a_changed_picture_is_another_edit(loaded: model.VideoModel, folder: Path) -> None:
    """Done again, nothing is computed; a picture with other content is edited anew, without another inversion."""
    work = work_of(loaded, folder)
    first, _ = edited(work, "one.png", "two.webp")
    again, made = edited(work, "one.png", "two.webp")
    assert made == 0 and [r["edits"][0]["edit_key"] for r in again] == [r["edits"][0]["edit_key"] for r in first]
    picture(8).save(folder / "one.png")
    changed, made = edited(work, "one.png", "two.webp")
    assert made == cost(1)
    assert [record["edits"][0]["reused"] for record in changed] == [False, True]
    (folder / "copy.png").write_bytes((folder / "one.png").read_bytes())
    assert edited(work, "copy.png")[1] == 0


def test_image_latents_are_stored_with_the_latents(loaded: model.VideoModel, folder: Path) -> None:
    """The source's are those of the window's first frame as the model saw it, the edit's those of the picture."""
    work = work_of(loaded, folder)
    record = encode_clip(work, planned(work, "one.png")[0])
    stored, own = read_latents(work, record["latents_key"]), read_latents(work, record["first_frame_key"])
    limits, path = video.Limits.of(work.dataset), folder / "a.mp4"
    probe = video.probe(path, "a.mp4", limits)
    seen = video.decode(path, "a.mp4", probe, video.Window(0, 0.0, 9), video.View(48, 48, 8), limits)
    assert (stored["image"] == loaded.encode_image(seen[0])).all() and stored["latents"].shape[0] in (3, 4)
    assert list(own) == ["image"] and (own["image"] == loaded.encode_image(np.array(picture(6)))).all()


def test_lost_image_latents_are_made_anew(loaded: model.VideoModel, folder: Path) -> None:
    """A flipped bit in them is found before they are used; the next run encodes the picture again."""
    work = work_of(loaded, folder)
    (record,) = (encode_clip(work, record) for record in planned(work, "one.png"))
    commit = work.ledger.find("latents", record["first_frame_key"])
    assert commit is not None
    file = Path(work.ledger.open_url(commit, "latents.safetensors")[1])
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(CorruptObject):
        edit_stages.edit_clip(work, trajectory.invert_clip(work, record))
    records, _ = edited(work, "one.png")
    assert not is_failure(records[0])


def test_only_image_to_video_latents_have_a_key_of_their_own(
    loaded: model.VideoModel, text_to_video: model.VideoModel
) -> None:
    """A text-to-video model with the same VAE stores no image, so the two must not share the unit."""
    frames = frames_spec(DatasetSpec(), loaded, "0" * 64, 0)
    assert latents_spec(frames, loaded)["image"] is True
    assert "image" not in latents_spec(frames, text_to_video)


def test_a_text_to_video_model_refuses_the_field(text_to_video: model.VideoModel, folder: Path) -> None:
    """The row fails alone, in a sentence that names clip, field and remedy; rows without one are edited."""
    work = work_of(text_to_video, folder)
    good, bad = planned(work, "", "one.png")
    assert not is_failure(good) and bad["stage"] == "discover"
    assert bad["message"] == (
        "clip 'a.mp4': first_frame_uri 'one.png': it needs an image-to-video model; "
        "leave it out or use CogVideoX-5B-I2V or 1.5-5B-I2V"
    )


def test_one_picture_for_every_window_is_refused(loaded: model.VideoModel, folder: Path) -> None:
    """It could be the first frame of one of them only."""
    (record,) = planned(work_of(loaded, folder, window="all"), "one.png")
    assert "set dataset.window to first or middle" in record["message"]


@pytest.fixture
def memory() -> Iterator[Callable[[str, bytes], str]]:
    store = fsspec.filesystem("memory")

    def put(name: str, data: bytes) -> str:
        store.pipe_file(f"/first_frames/{name}", data)
        return f"memory://first_frames/{name}"

    yield put
    for path in store.find("/first_frames"):
        store.rm_file(path)


@pytest.mark.parametrize(
    ("uri", "error"),
    [
        ("../secret.png", "ForbiddenUri"),
        ("link.png", "ForbiddenUri"),
        ("/etc/passwd", "ForbiddenUri"),
        ("ftp://host/x.png", "ForbiddenUri"),
        ("zip://x.png::a.zip", "ForbiddenUri"),
        ("gone.png", "MissingClip"),
        (".", "NotAVideo"),
        ("a.mp4", "NotAnImage"),
        ("m.csv", "NotAnImage"),
    ],
)
def test_pictures_are_confined_as_clips_are(loaded: model.VideoModel, folder: Path, uri: str, error: str) -> None:
    """Outside the manifest's folder, through a link or by another protocol nothing is read; the sentence says where."""
    picture(6).save(folder.parent / "secret.png")
    (folder / "link.png").symlink_to(folder.parent / "secret.png")
    ((failed,), _) = edited(work_of(loaded, folder), uri)
    assert failed["error"] == error
    assert failed["message"].startswith("clip 'a.mp4': first_frame_uri ")


def test_pictures_of_a_store(
    loaded: model.VideoModel, folder: Path, memory: Callable[[str, bytes], str], tmp_path: Path
) -> None:
    """A URL gives what the local file gives; a manifest there names pictures beside it, and none on this disk."""
    work = work_of(loaded, folder)
    url = memory("one.png", (folder / "one.png").read_bytes())
    memory("a.mp4", (folder / "a.mp4").read_bytes())
    (there, here) = [first_frame.encode_first_frame(work, record) for record in planned(work, url, "one.png")]
    assert there == here
    lines = [f"a.mp4,x,{name}\n" for name in ("one.png", str(folder / "one.png"))]
    source = memory("m.csv", "".join(["clip,target_prompts,first_frame_uri\n", *lines]).encode())
    good, bad = plan.planned_clips(DatasetSpec(source=source), loaded)
    assert good["image_uri"] == url and bad["error"] == "ForbiddenUri"


def data_of(image: Image.Image, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png(width: int, height: int, body: bytes = b"") -> bytes:
    """A PNG that says it has this size."""
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", head), (b"IDAT", zlib.compress(body)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    )


HOSTILE: dict[str, tuple[Callable[[], bytes], type[EditError], str]] = {
    "nothing": (lambda: b"", NotAnImage, "can't be decoded"),
    "text": (lambda: b"<svg onload='alert(1)'/>", NotAnImage, "can't be decoded"),
    "another kind": (lambda: data_of(picture(6), "GIF"), NotAnImage, "save it as PNG, JPEG or WebP"),
    "a program in disguise": (lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", NotAnImage, "decoded"),
    "too many pixels": (lambda: data_of(picture(6).resize((101, 100)), "JPEG"), ClipTooLarge, "101x100 pixels"),
    "a bomb": (lambda: png(60_000, 60_000), ClipTooLarge, "more than 10000"),
    "a smaller bomb": (lambda: png(10_000, 10_000), ClipTooLarge, "more than 10000"),
    "cut short": (lambda: data_of(picture(6), "PNG")[:-300], NotAnImage, "can't be decoded"),
    "cut short JPEG": (lambda: data_of(picture(6), "JPEG")[:-300], NotAnImage, "can't be decoded"),
    "cut short WebP": (lambda: data_of(picture(6), "WEBP")[:-100], NotAnImage, "can't be decoded"),
    "no pixels": (lambda: png(48, 48, b"\0"), NotAnImage, "can't be decoded"),
    "16 bits": (lambda: data_of(Image.new("I;16", (48, 48)), "PNG"), NotAnImage, "save it as 8-bit RGB"),
    "CMYK": (lambda: data_of(Image.new("CMYK", (48, 48)), "JPEG"), NotAnImage, "save it as 8-bit RGB"),
    "moving": (
        lambda: data_of(picture(6), "WEBP", save_all=True, append_images=[picture(7)]),
        NotAnImage,
        "it is an animation",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pictures_are_refused(name: str) -> None:
    """Each in a sentence with a remedy, before its pixels are decoded where there are too many of them."""
    make, error, says = HOSTILE[name]
    with pytest.raises(error, match=says):
        still.read_image(make(), "x.png", PIXELS)


def test_a_flipped_bit_is_found() -> None:
    """PNG's own checksums are looked at."""
    data = bytearray(data_of(picture(6), "PNG"))
    data[len(data) // 2] ^= 1
    with pytest.raises(NotAnImage):
        still.read_image(bytes(data), "x.png", PIXELS)


def test_large_files_are_refused(
    loaded: model.VideoModel, folder: Path, memory: Callable[[str, bytes], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Locally and from a store, more bytes than the limit are never read as a picture."""
    monkeypatch.setattr(clip_files, "MOST_SMALL_BYTES", 1000)
    url = memory("one.png", (folder / "one.png").read_bytes())
    for failed in edited(work_of(loaded, folder), "one.png", url)[0]:
        assert failed["error"] == "ClipTooLarge" and failed["message"].endswith("give a smaller image")


@pytest.mark.parametrize("mode", still.MODES)
def test_every_allowed_mode_becomes_rgb(mode: str) -> None:
    """Palettes and transparency included."""
    image = picture(6).convert(mode)
    if mode == "P":
        image.info["transparency"] = bytes(range(256))
    read = still.read_image(data_of(image, "PNG"), "x.png", PIXELS)
    assert read.mode == "RGB" and read.size == (48, 48)
    if mode in ("RGB", "RGBA"):
        assert (np.asarray(read) == np.asarray(picture(6))).all()


def test_a_turned_photograph_stands_upright() -> None:
    """The orientation that cameras write is followed."""
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it
    data = data_of(picture(6).crop((0, 0, 48, 24)), "PNG", exif=exif)
    expected = picture(6).crop((0, 0, 48, 24)).transpose(Image.Transpose.ROTATE_270)
    assert (np.asarray(still.read_image(data, "x.png", PIXELS)) == np.asarray(expected)).all()


def test_pictures_are_fitted_as_clips_are() -> None:
    """A picture twice as wide: its middle, all of it between black bars, or squeezed; one of the size is untouched."""
    wide = np.zeros((50, 100, 3), np.uint8)
    wide[:, :25], wide[:, 25:75], wide[:, 75:] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    crop, pad, stretch = (first_frame.fitted(Image.fromarray(wide), 48, 48, fit) for fit in ("crop", "pad", "stretch"))
    assert crop.shape == pad.shape == stretch.shape == (48, 48, 3)
    assert crop[24, 24].tolist() == [0, 255, 0] and (crop[:, 2:-2] == (0, 255, 0)).all()
    assert not pad[:11].any() and not pad[-11:].any() and pad[24, 2].tolist() == [255, 0, 0]
    assert stretch[0, 2].tolist() == [255, 0, 0] and stretch[-1, -2].tolist() == [0, 0, 255]
    for fit in ("crop", "pad", "stretch"):
        assert (first_frame.fitted(picture(6), 48, 48, fit) == np.asarray(picture(6))).all()
