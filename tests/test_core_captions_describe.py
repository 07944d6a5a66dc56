"""Captions and edits of real clips, by a model behind a real HTTP server: what is asked, stored and put together."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_server import Answer, Endpoint, said

from cogvideo_core.captions.asking import CAPTIONS_KEY, INSTRUCTIONS_KEY, Job, Looked, check_specs
from cogvideo_core.captions.describe import describe_clip, filled
from cogvideo_core.endpoints import chat
from cogvideo_core.errors import BadSpec, ClipError, EndpointUnreachable, NotAVideo
from cogvideo_core.inputs.sources import read_clips
from cogvideo_core.media import video
from cogvideo_core.models.configuration import VideoShape
from cogvideo_core.settings.caption_specs import CaptionSpec, InstructionSpec
from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.shapes import world
from cogvideo_core.shapes.make import make_clips
from cogvideo_core.storage.ledger import Ledger

SHAPE = VideoShape(9, 32, 48, 8)
CAPTION, BLUE = "a red circle moves left", "a blue circle moves left"
EDITS = [
    {"target_prompt": BLUE, "instruction": "paint it blue", "edit_type": "colour"},
    {"target_prompt": "A blue circle moves left.", "instruction": "the same again"},
    {"target_prompt": "a red square moves left", "instruction": "a square, please"},
]


def question_of(request: dict[str, Any]) -> str:
    return str(request["messages"][0]["content"][-1]["text"])


def sensible(request: dict[str, Any]) -> Answer:
    return said(json.dumps(EDITS) if "JSON" in question_of(request) else CAPTION)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(chat, "WAIT_S", 0.01)
    with Endpoint(sensible) as found:
        yield found


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one clip, to be read only."""
    return make_clips(tmp_path_factory.mktemp("clips"), 1, prompts=1).parent


def clip_of(folder: Path, **fields: Any) -> dict[str, Any]:
    (found,) = read_clips(DatasetSpec(source=str(folder), prompts=str(folder / "manifest.jsonl")), need_targets=False)
    return dict(found) | {"source_prompt": "", "target_prompts": [], "own": [], "overrides": []} | fields


def job(root: Path, seer: str, count: int = 2, dataset: dict[str, Any] | None = None, **instructions: Any) -> Job:
    captions = CaptionSpec(url=seer, model="seer" if seer else "")
    return Job(
        DatasetSpec(**dataset or {}), SHAPE, captions, InstructionSpec(count=count, **instructions), Ledger(str(root))
    )


def test_a_clip_without_anything_gets_all(
    endpoint: Endpoint, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A caption by its stills; as many edits as are wanted by stills and caption; near-duplicates are dropped; the
    request carries model, temperature, seed and key."""
    monkeypatch.setenv(CAPTIONS_KEY, "s3cret")
    found = describe_clip(job(tmp_path, endpoint.url), clip_of(folder))
    assert (found["source_prompt"], found["asked"]) == (CAPTION, 2)
    assert found["edits"] == [EDITS[0], EDITS[2]]
    first, second = endpoint.asked
    assert [part["type"] for part in first["messages"][0]["content"]] == ["image_url"] * 4 + ["text"]
    assert (first["model"], first["temperature"], first["seed"], first["max_tokens"]) == ("seer", 0.0, 0, 300)
    assert f"described as: {CAPTION}\nThink of 2 different edits" in question_of(second)
    assert endpoint.headers[0]["Authorization"] == "Bearer s3cret"


def test_nothing_is_asked_twice(endpoint: Endpoint, folder: Path, tmp_path: Path) -> None:
    """A second run asks nothing and decodes nothing; the same frames under another name are known; another question,
    model or window is asked."""
    first = describe_clip(job(tmp_path, endpoint.url), clip_of(folder))
    asked = len(endpoint.asked)
    again = describe_clip(job(tmp_path, endpoint.url), clip_of(folder, uri="/gone.mp4"))
    copied = clip_of(folder, clip="copy.mp4", source_id="0" * 64)
    copy = describe_clip(job(tmp_path, endpoint.url), copied)
    assert again["edits"] == copy["edits"] == first["edits"] and again["asked"] == copy["asked"] == 0
    assert len(endpoint.asked) == asked
    assert describe_clip(job(tmp_path, endpoint.url, model="other"), clip_of(folder))["asked"] == 1
    assert describe_clip(job(tmp_path, endpoint.url, temperature=1.0), clip_of(folder))["asked"] == 1
    assert describe_clip(job(tmp_path, endpoint.url, dataset={"fit": "pad"}), clip_of(folder))["asked"] == 2


def test_the_window_is_the_one_that_is_edited(endpoint: Endpoint, tmp_path: Path) -> None:
    """Behind a cut, if the first scene is too short: its stills are those of the second scene alone; without a screen
    they are not."""
    first, second = (world.render(world.scene_from_seed(seed)) for seed in (1, 2))
    for name, frames in {"cut": np.concatenate([first[:5], second]), "second": second}.items():
        (tmp_path / name).mkdir()
        video.encode(frames, tmp_path / name / "a.mp4", 8, crf=1)
        (tmp_path / name / "m.jsonl").write_text('{"clip": "a.mp4"}')

    def seen(name: str, screen: ScreenSpec) -> np.ndarray:
        (found,) = read_clips(DatasetSpec(source=str(tmp_path / name / "m.jsonl")), need_targets=False)
        looked = Looked(replace(job(tmp_path / "answers", endpoint.url), screen=screen), dict(found))
        assert looked.sha256 == Looked(looked.job, dict(found) | {"uri": "/gone.mp4"}).sha256
        return looked.frames.astype(int)

    alone = seen("second", ScreenSpec())
    assert np.abs(seen("cut", ScreenSpec()) - alone).mean() < 4
    assert np.abs(seen("cut", ScreenSpec(cuts="ignore")) - alone).mean() > 10


def test_what_a_row_has_stays(endpoint: Endpoint, folder: Path, tmp_path: Path) -> None:
    """Its prompts come first, word by word, with settings, columns and an instruction; only the missing ones are asked
    for, told apart from those, and get the columns that the row's edits share."""
    own = [json.dumps({"id": 7, "licence": "CC0", "instruction": "mine"}), json.dumps({"id": 8, "licence": "CC0"})]
    row = clip_of(folder, source_prompt=CAPTION, target_prompts=[BLUE, "a green circle moves left"], own=own)
    row["overrides"] = ['{"recipe":"bold"}', '{"recipe":"bold","seed":3}']
    found = describe_clip(job(tmp_path, endpoint.url, count=3), row)
    assert found["edits"] == [
        {"recipe": "bold", "id": 7, "licence": "CC0", "instruction": "mine", "target_prompt": BLUE},
        {
            "recipe": "bold",
            "seed": 3,
            "id": 8,
            "licence": "CC0",
            "target_prompt": "a green circle moves left",
            "instruction": "change the red circle to a green circle",
        },
        {"licence": "CC0", "recipe": "bold", **EDITS[2]},
    ]
    assert "Think of 1 different" in question_of(endpoint.asked[0])
    assert f"like these: {BLUE} | a green circle moves left" in question_of(endpoint.asked[0])
    enough = describe_clip(job(tmp_path, endpoint.url, count=2), row)
    assert (len(enough["edits"]), enough["asked"]) == (2, 0)


def test_wrong_answers_are_asked_for_once_more(endpoint: Endpoint, folder: Path, tmp_path: Path) -> None:
    """With a sharper question; what is then right counts, and is stored with what was wrong."""
    answers = ["I'm sorry, I can't.", CAPTION, "no idea", json.dumps(EDITS)]
    endpoint.answer = lambda _: said(answers.pop(0))
    found = describe_clip(job(tmp_path, endpoint.url), clip_of(folder))
    assert (found["source_prompt"], len(found["edits"]), found["asked"]) == (CAPTION, 2, 4)
    assert "and nothing else: no list" in question_of(endpoint.asked[1])
    assert "Write nothing before or after the list" in question_of(endpoint.asked[3])
    assert describe_clip(job(tmp_path, endpoint.url), clip_of(folder))["asked"] == 0


def test_a_model_with_too_few_ideas_is_asked_for_the_rest(endpoint: Endpoint, folder: Path, tmp_path: Path) -> None:
    """Once; then fewer are enough."""
    answers = [json.dumps(EDITS[:1]), json.dumps(EDITS[:2])]
    endpoint.answer = lambda _: said(answers.pop(0))
    found = describe_clip(job(tmp_path, endpoint.url, count=3), clip_of(folder, source_prompt=CAPTION))
    assert [edit["target_prompt"] for edit in found["edits"]] == [BLUE]
    assert "list of 2 objects" in question_of(endpoint.asked[1]) and BLUE in question_of(endpoint.asked[1])


@pytest.mark.parametrize(("row", "told"), [({}, "no caption"), ({"source_prompt": CAPTION}, "no target prompt")])
def test_a_model_that_never_answers_costs_its_clip(
    endpoint: Endpoint, folder: Path, tmp_path: Path, row: dict[str, Any], told: str
) -> None:
    """One sentence with the clip, after two questions; neither answer is stored, so that another run asks again."""
    endpoint.answer = lambda _: said("")
    for _ in range(2):
        with pytest.raises(ClipError, match=rf"clip '.*mp4': the model gave {told} of use, asked twice; write"):
            describe_clip(job(tmp_path, endpoint.url), clip_of(folder, **row))
    assert len(endpoint.asked) == 4


def test_a_clip_that_is_no_video_is_not_asked_about(endpoint: Endpoint, folder: Path, tmp_path: Path) -> None:
    """The sentence of the decoder, as in a run."""
    (tmp_path / "bad.mp4").write_bytes(b"no video")
    with pytest.raises(NotAVideo, match=r"bad\.mp4"):
        describe_clip(job(tmp_path, endpoint.url), clip_of(folder, clip="bad.mp4", uri=str(tmp_path / "bad.mp4")))
    assert not endpoint.asked


def test_a_wrong_key_is_one_sentence(
    endpoint: Endpoint, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names setting, address, status and variable, and not the key, even where the endpoint says it back."""
    monkeypatch.setenv(CAPTIONS_KEY, "s3cret")
    endpoint.answer = lambda _: (401, b"wrong key s3cret", {})
    with pytest.raises(EndpointUnreachable) as caught:
        describe_clip(job(tmp_path, endpoint.url), clip_of(folder))
    told = f"field captions.url: {endpoint.url!r} gives no answer (status 401); check address, model and {CAPTIONS_KEY}"
    assert str(caught.value) == told


def test_the_instructions_may_have_an_endpoint_of_their_own(
    endpoint: Endpoint, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With its own key and model, and words alone where no stills are wanted: then no clip is opened."""
    monkeypatch.setenv(CAPTIONS_KEY, "for captions")
    monkeypatch.setenv(INSTRUCTIONS_KEY, "for instructions")
    asking = job(tmp_path, "", url=endpoint.url, model="writer", frames=0)
    found = describe_clip(asking, clip_of(folder, source_prompt=CAPTION, uri="/gone.mp4"))
    (request,) = endpoint.asked
    assert len(found["edits"]) == 2 and request["model"] == "writer"
    assert len(request["messages"][0]["content"]) == 1 and "frames" not in question_of(request)
    assert endpoint.headers[0]["Authorization"] == "Bearer for instructions"


def test_without_an_endpoint_the_grammar_speaks(folder: Path, tmp_path: Path) -> None:
    """Instructions for the row's prompts; a row without any is told, unless captions alone are wanted."""
    row = clip_of(folder, source_prompt=CAPTION, target_prompts=[BLUE], own=[""])
    told = {"target_prompt": BLUE, "instruction": "change the red circle to a blue circle"}
    assert describe_clip(job(tmp_path, "", by="template"), row)["edits"] == [told]
    assert describe_clip(job(tmp_path, "", by="none"), row)["edits"] == [{"target_prompt": BLUE}]
    bare = clip_of(folder, own=['{"id": 7}'])
    assert describe_clip(job(tmp_path, "", by="none"), bare)["edits"] == [{"id": 7}]
    with pytest.raises(ClipError, match="it has no target prompts; write them in its row, or name an endpoint"):
        describe_clip(job(tmp_path, "", by="template"), bare)


def test_a_file_that_changes_is_looked_at_again(folder: Path, tmp_path: Path) -> None:
    """The hash of the frames is kept by file, size and date; a store without dates is read each time."""
    asking = job(tmp_path, "")
    sha = Looked(asking, clip_of(folder)).sha256
    assert Looked(asking, clip_of(folder, uri="/gone.mp4")).sha256 == sha
    for changed in ({"source_id": "1" * 64}, {"stamp": ""}):
        with pytest.raises(ClipError):
            _ = Looked(asking, clip_of(folder, uri="/gone.mp4", **changed)).sha256


def test_a_part_is_what_is_looked_at(folder: Path, tmp_path: Path) -> None:
    """The window lies in the row's part of the clip, as in a run."""
    asking = replace(job(tmp_path, ""), shape=VideoShape(5, 32, 48, 8))
    whole, part = Looked(asking, clip_of(folder)), Looked(asking, clip_of(folder, source_id="2" * 64, start_s=0.25))
    assert whole.frames.shape == part.frames.shape and whole.sha256 != part.sha256
    assert (whole.frames[2:] == part.frames[:-2]).all()  # at 8 frames a second


def test_words_that_look_like_placeholders_are_left_alone() -> None:
    """What is filled in is not filled in again, and unknown braces mean themselves."""
    assert filled('{a} {b} {"a": 1}', {"a": "{b}", "b": "x"}) == '{b} x {"a": 1}'


@pytest.mark.parametrize(
    ("captions", "instructions", "told"),
    [
        ({}, {}, "field instructions.url: is empty"),
        ({"url": "http://x/v1"}, {}, "field captions.model: is empty"),
        ({}, {"url": "http://x/v1"}, "field instructions.model: is empty"),
    ],
)
def test_nobody_to_ask_is_told_before_anything(
    captions: dict[str, Any], instructions: dict[str, Any], told: str
) -> None:
    """The sentence names what to set; without questions nothing is needed."""
    with pytest.raises(BadSpec, match=told):
        check_specs(CaptionSpec(**captions), InstructionSpec(**instructions))
    check_specs(CaptionSpec(), InstructionSpec(by="template"))


@pytest.mark.parametrize(
    ("kind", "field", "value", "told"),
    [
        (
            CaptionSpec,
            "template",
            "What is {source_prompt}?",
            "{source_prompt} is no placeholder; there are {lang",
        ),
        (
            InstructionSpec,
            "template",
            "{nuber} edits",
            "{nuber} is no placeholder; there are {source_prompt}",
        ),
        (CaptionSpec, "url", "http://me:word@host/v1", "url"),
        (CaptionSpec, "url", "http://host/v1?key=1", "url"),
        (InstructionSpec, "count", 0, "count"),
        (InstructionSpec, "by", "magic", "by"),
    ],
)
def test_wrong_settings_are_told(kind: Any, field: str, value: Any, told: str) -> None:
    """Placeholders that there are not, keys in addresses, numbers out of bounds."""
    with pytest.raises(ValueError, match=told):
        kind(**{field: value})
    assert kind(template='Say {language}: [{"a": 1}]').template


@pytest.mark.parametrize("kind", [CaptionSpec, InstructionSpec])
def test_every_setting_is_described(kind: Any) -> None:
    """Title, description and default, in types that a form shows well."""
    for name, field in kind.model_fields.items():
        assert field.title and field.description and not field.is_required(), name
        assert field.annotation in (str, int, float, list[str]) or name == "by"
