"""The command write-manifest and its flow, on real clips and a real HTTP server: what is written, resumed and told."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from chat_server import Answer, Endpoint, said
from click.testing import Result
from typer.testing import CliRunner

from cogvideo_core.captions.asking import CAPTIONS_KEY
from cogvideo_core.endpoints import chat
from cogvideo_core.inputs.sources import read_clips
from cogvideo_core.settings.specs import DatasetSpec
from cogvideo_core.shapes.make import make_clips
from flows.cli.main import app

Invoke = Callable[..., Result]
CAPTION = "a red circle moves left over a road"
EDITS = [
    {"target_prompt": "a blue circle moves left over a road", "instruction": "paint it blue", "edit_type": "colour"},
    {"target_prompt": "a red square moves left over a road", "instruction": "make it a square", "edit_type": "object"},
]


def sensible(request: dict[str, Any]) -> Answer:
    text = request["messages"][0]["content"][-1]["text"]
    return said(json.dumps(EDITS) if "JSON" in text else CAPTION)


@pytest.fixture
def endpoint(monkeypatch: pytest.MonkeyPatch) -> Iterator[Endpoint]:
    monkeypatch.setattr(chat, "WAIT_S", 0.01)
    with Endpoint(sensible) as found:
        yield found


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    """A folder of two clips and a file that is no video."""
    folder = make_clips(tmp_path / "clips", 2, prompts=1).parent
    (folder / "manifest.jsonl").unlink()
    (folder / "bad.mp4").write_bytes(b"no video")
    return folder


@pytest.fixture
def write(prefect_harness: None, tiny_pipeline_folder: Path, endpoint: Endpoint, clips: Path) -> Invoke:
    """write(...): what `write-manifest CLIPS CLIPS/edits.jsonl` prints with these options more, and its exit code."""

    def call(*arguments: object) -> Result:
        asked = ["--endpoint", endpoint.url, "--endpoint-model", "seer", "--model", tiny_pipeline_folder]
        words = ["write-manifest", clips, clips / "edits.jsonl", *asked, "--set", "instructions.count=2", *arguments]
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "1")
            patch.setenv("HF_HUB_DISABLE_PROGRESS_BARS", "1")
            return CliRunner().invoke(app, list(map(str, words)), env={"COLUMNS": "400"}, catch_exceptions=False)

    return call


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def everything(folder: Path) -> bytes:
    """All that was written, names included."""
    return b"".join(str(path).encode() + path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file())


def test_a_folder_becomes_a_manifest(
    write: Invoke, endpoint: Endpoint, clips: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A row for each edit, which a run reads as it is; the bad clip stands in the report, and its sentence and the
    command to run are printed. A second call asks nothing and writes the same bytes. The key is nowhere."""
    monkeypatch.setenv(CAPTIONS_KEY, "s3cret-key")
    first = write()
    out = clips / "edits.jsonl"
    assert first.exit_code == 3, first.output
    assert "4 rows of 2 clips, 1 clips failed" in first.stdout
    assert f"To edit by it: cogvideo-edit run {out}" in first.stdout
    rows = lines(out)
    assert [{k: v for k, v in row.items() if k != "clip"} for row in rows[:2]] == [
        {"source_prompt": CAPTION, **edit} for edit in EDITS
    ]
    found = list(read_clips(DatasetSpec(source=str(out))))
    assert [clip.get("target_prompts") for clip in found] == [[edit["target_prompt"] for edit in EDITS]] * 2
    (error,) = lines(clips / "edits.jsonl.answers/errors.jsonl")
    assert (error["clip"], error["stage"], error["error"]) == ("bad.mp4", "describe", "NotAVideo")
    asked, written = len(endpoint.asked), out.read_bytes()
    assert asked == 4 and all(sent["Authorization"] == "Bearer s3cret-key" for sent in endpoint.headers)
    again = write()
    assert (again.exit_code, len(endpoint.asked), out.read_bytes()) == (3, asked, written)
    told = first.output + again.output + caplog.text + everything(clips).decode("utf-8", "replace")
    assert "s3cret" not in told


def test_what_failed_is_tried_again_and_a_persons_edits_stay(write: Invoke, endpoint: Endpoint, clips: Path) -> None:
    """One clip's questions fail at first: the other is written, and the next call asks for the missing one alone. Then
    an edit by hand stops the command, before a clip is opened, until it is told to overwrite."""
    (clips / "bad.mp4").unlink()
    first: list[str] = []  # the picture of the clip that is answered for

    def half(request: dict[str, Any]) -> Answer:
        picture = request["messages"][0]["content"][0]["image_url"]["url"]
        if not first:
            first.append(picture)
        return sensible(request) if picture == first[0] else (400, b"", {})

    endpoint.answer = half
    result = write("--set", "captions.parallel=1")
    assert result.exit_code == 3 and "2 rows of 1 clips, 1 clips failed" in result.stdout
    (error,) = lines(clips / "edits.jsonl.answers/errors.jsonl")
    assert error["error"] == "EndpointUnreachable" and "gives no answer (status 400)" in error["message"]
    endpoint.answer, before = sensible, len(endpoint.asked)
    second = write()
    assert second.exit_code == 0 and "4 rows of 2 clips, 0 clips failed" in second.stdout
    assert len(endpoint.asked) == before + 2
    assert not (clips / "edits.jsonl.answers/errors.jsonl").exists()
    out = clips / "edits.jsonl"
    out.write_text(mine := out.read_text("utf-8").replace("blue", "green"), "utf-8")
    refused = write()
    assert refused.exit_code == 2 and "was edited since; give another name or --overwrite" in refused.stderr
    assert out.read_text("utf-8") == mine
    assert write("--overwrite").exit_code == 0 and "green" not in out.read_text("utf-8")


def test_an_endpoint_that_is_down_ends_in_one_sentence(write: Invoke, endpoint: Endpoint, clips: Path) -> None:
    """Each clip stands in the report; nothing is written in place of a manifest."""
    endpoint.answer = lambda _: (503, b"", {})
    result = write()
    told = f"see {clips}/edits.jsonl.answers/errors.jsonl, which begins with: field captions.url"
    assert result.exit_code == 1 and told in result.stderr, result.output
    assert result.stderr.splitlines()[-1].startswith("failed: no clip could be described")
    errors = lines(clips / "edits.jsonl.answers/errors.jsonl")
    assert sorted(error["error"] for error in errors) == ["EndpointUnreachable", "EndpointUnreachable", "NotAVideo"]
    assert not (clips / "edits.jsonl").exists()


def test_first_clips_that_all_fail_alike_end_the_run(write: Invoke, endpoint: Endpoint, tmp_path: Path) -> None:
    """Ten clips are enough to know that a key is wrong; the others are not tried, the ten are in the report."""
    (tmp_path / "a.mp4").write_bytes(b"not opened")
    rows = [{"clip": "a.mp4", "source_prompt": f"car {number}"} for number in range(15)]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    endpoint.answer = lambda _: (401, b"", {})
    result = write("--set", "instructions.frames=0", "--set", f"dataset.source={tmp_path / 'list.jsonl'}")
    assert result.exit_code == 1
    assert "the first 10 clips all failed in the stage describe for the same reason" in result.stderr
    assert len(lines(tmp_path / "clips/edits.jsonl.answers/errors.jsonl")) == 10 == len(endpoint.asked)


def test_pairs_get_instructions_without_an_endpoint(
    prefect_harness: None, tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    """`--instructions template` opens no clip and asks nobody; the user's columns stay."""
    (tmp_path / "a.mp4").write_bytes(b"not opened")
    (tmp_path / "pairs.csv").write_text("clip,caption,target_prompt,id\na.mp4,a red car,a blue car,7\n")
    words = ["write-manifest", str(tmp_path / "pairs.csv"), str(tmp_path / "edits.jsonl"), "--instructions", "template"]
    result = CliRunner().invoke(app, [*words, "--model", str(tiny_pipeline_folder)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert lines(tmp_path / "edits.jsonl") == [
        {
            "clip": "a.mp4",
            "source_prompt": "a red car",
            "target_prompt": "a blue car",
            "id": "7",
            "instruction": "change the red car to a blue car",
        }
    ]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "field instructions.url: is empty; name an endpoint there or in captions.url"),
        (["--endpoint", "http://h/v1"], "field captions.model: is empty"),
        (["--endpoint", "ftp://h/v1"], "captions.url"),
        (["--set", "recipe.seeds=[1]"], "groups are dataset, model, screen, captions, instructions"),
        (["--set", "captions.tempalte=x"], "no such field; did you mean template?"),
        (["--instructions", "template", "--limit", "1"], "does not exist"),
    ],
)
def test_what_can_be_refused_is_refused_first(tmp_path: Path, arguments: list[str], told: str) -> None:
    """Exit code 2 and a sentence, before a server starts."""
    words = ["write-manifest", str(tmp_path / "none.jsonl"), str(tmp_path / "edits.jsonl"), *arguments]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "400"}, catch_exceptions=False)
    assert result.exit_code == 2 and told in " ".join(result.stderr.replace("│", " ").split()), result.stderr
