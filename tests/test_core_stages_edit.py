"""One clip's way through encode, invert and edit: what is made once, what is made again, and what is never trusted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from cogvideo_core.dataset import tables
from cogvideo_core.diffusion.editing import edit_evaluations
from cogvideo_core.diffusion.inversion import evaluations as inversion_evaluations
from cogvideo_core.diffusion.inversion import noised_source
from cogvideo_core.errors import FrozenEdit, OutOfMemory, StorageError
from cogvideo_core.inputs import sources
from cogvideo_core.judging import judges, policy
from cogvideo_core.media import video
from cogvideo_core.models import memory, model
from cogvideo_core.planning import plan
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.settings.specs import (
    DatasetSpec,
    EngineSpec,
    InversionSpec,
    ModelSpec,
    OutputSpec,
    RecipeSpec,
    fingerprint,
)
from cogvideo_core.shapes import world
from cogvideo_core.stages import edit as edit_stages
from cogvideo_core.stages import judge as stages_judge
from cogvideo_core.stages import trajectory
from cogvideo_core.stages.encode import encode_clip, read_latents
from cogvideo_core.stages.failures import attempt, is_failure, kind_of
from cogvideo_core.stages.prompts import embeddings, prompt_spec
from cogvideo_core.stages.work import Work
from cogvideo_core.storage import virtual
from cogvideo_core.storage.ledger import Commit, Ledger
from cogvideo_core.storage.trajectories import open_trajectory

Record = dict[str, Any]
MakeWork = Callable[..., Work]
STEPS = 4
INVERSION = InversionSpec(method="fixed_point", steps=STEPS, gate="off")
RECIPE = RecipeSpec(start_at=0.0, reference_end=0.5)
INVERTED = STEPS * 2  # evaluations of one inversion


@pytest.fixture(scope="module")
def loaded(tiny_pipeline_folder: Path) -> model.VideoModel:
    return model.load(ModelSpec(path=str(tiny_pipeline_folder)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.mp4 and its copy b.mp4 have 9 frames, long.mp4 has 22 with a cut after each 9."""
    path = tmp_path_factory.mktemp("clips")
    frames = world.render(world.scene_from_seed(5))
    video.encode(frames, path / "a.mp4", 8)
    (path / "b.mp4").write_bytes((path / "a.mp4").read_bytes())
    other = world.render(world.scene_from_seed(6))
    video.encode(np.concatenate([frames, other, frames[:4]]), path / "long.mp4", 8)
    return path


@pytest.fixture
def works(loaded: model.VideoModel, folder: Path, tmp_path: Path) -> MakeWork:
    """works(root, dataset={...}, ...): the settings of a run; equal roots share what is committed."""

    def make(root: str = "run", **groups: Record) -> Work:
        output = OutputSpec(**({"root": str(tmp_path / root)} | groups.get("output", {})))
        return Work(
            DatasetSpec(**({"source": str(folder), "frames": 9} | groups.get("dataset", {}))),
            InversionSpec(**(INVERSION.as_json() | groups.get("inversion", {}))),
            RecipeSpec(**(RECIPE.as_json() | groups.get("recipe", {}))),
            output,
            EngineSpec(**groups.get("engine", {})),
            loaded,
            Ledger(output.root),
        )

    return make


def clip(folder: Path, name: str = "a.mp4", prompts: tuple[str, ...] = ("a blue circle", "a red square")) -> Record:
    """A clip's record, as `read_clips` gives it."""
    rows = [{"clip": name, "source_prompt": "a green circle", "target_prompts": prompts}]
    manifest = folder / "one.jsonl"
    manifest.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (record,) = sources.read_clips(DatasetSpec(source=str(manifest)))
    return dict(record)


def edited(work: Work, record: Record) -> Record:
    return edit_stages.edit_clip(work, trajectory.invert_clip(work, encode_clip(work, record)))


def spent(work: Work, record: Record) -> tuple[Record, int]:
    """The finished record and the model's evaluations that it cost."""
    before = work.model.evaluations
    return edited(work, record), work.model.evaluations - before


def bytes_of(work: Work, record: Record) -> list[bytes]:
    """The edits' files, in planned order."""
    return [edit_file(work, edit["edit_key"]).read_bytes() for edit in record["edits"]]


def edit_file(work: Work, key: str) -> Path:
    commit = work.ledger.find("edits", key)
    assert commit is not None
    return Path(work.ledger.open_url(commit, "edit.mp4")[1])


def flip(path: Path, at: int = -200) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0x40
    path.write_bytes(raw)


def cost(edits: int) -> int:
    return edit_evaluations(RECIPE, STEPS, edits, layer_count=2)


def test_a_clip_costs_what_is_counted_and_nothing_the_second_time(works: MakeWork, folder: Path) -> None:
    """Timings name exactly the evaluations that the model made; done again, all is reused and nothing is computed."""
    work, record = works(), clip(folder)
    first, made = spent(work, record)
    assert made == INVERTED + cost(2) == sum(row["evaluations"] for row in first["timings"])
    second, again = spent(work, record)
    assert again == 0 and all(row["reused"] for row in second["timings"])
    assert [edit["reused"] for edit in first["edits"] + second["edits"]] == [False, False, True, True]
    assert bytes_of(work, first) == bytes_of(work, second)


def test_edits_differ_by_prompt_and_are_videos_as_asked(works: MakeWork, folder: Path) -> None:
    """Each edit has 9 frames of 48x48 at 8 a second; two prompts give two videos."""
    work = works()
    record = edited(work, clip(folder))
    one, two = bytes_of(work, record)
    assert one != two
    for edit in record["edits"]:
        path = edit_file(work, edit["edit_key"])
        found = video.probe(path, "edit", video.Limits.of(work.dataset))
        assert (found.frames, found.width, found.height, found.fps) == (9, 48, 48, 8)


@pytest.mark.parametrize("keep", ["until_edited", "none"])
def test_trajectories_go_once_edited(works: MakeWork, folder: Path, keep: str) -> None:
    """Nothing of a trajectory is left on disk, a second run needs none, and a new prompt makes it anew."""
    work = works(output={"keep_trajectories": keep, "root": works().output.root})
    first, made = spent(work, clip(folder))
    assert made == INVERTED + cost(2) == sum(row["evaluations"] for row in first["timings"])
    left = [path for path in Path(work.output.root, "trajectories").rglob("*") if path.is_file()]
    assert left == [] and list(work.ledger.units("trajectories")) == []
    again, made = spent(work, clip(folder))
    assert made == 0 and all(row["reused"] for row in again["timings"])
    more = clip(folder, prompts=("a blue circle", "a red square", "a yellow triangle"))
    assert spent(work, more)[1] == INVERTED + cost(1)


def test_a_new_prompt_costs_itself_alone(works: MakeWork, folder: Path) -> None:
    """Edits that were made in a whole batch stay, also where a batch would have had room for the new one."""
    work = works()
    old, _ = spent(work, clip(folder))
    kept = bytes_of(work, old)
    grown, made = spent(work, clip(folder, prompts=("a yellow triangle", "a blue circle", "a red square")))
    assert made == cost(1)
    assert [edit["reused"] for edit in grown["edits"]] == [False, True, True]
    assert bytes_of(work, grown)[1:] == kept


class Stop(BaseException):
    """What `kill` and Prefect's cancelling look like from inside."""


@pytest.mark.parametrize("after", [0, 3, INVERTED + 2, INVERTED + STEPS + 3])
def test_an_interrupted_clip_ends_in_equal_bytes(works: MakeWork, folder: Path, after: int) -> None:
    """Stopped in its inversion, in its first or in its second batch of edits, then run again: as if nothing was."""
    prompts = ("a blue circle", "a red square", "a yellow triangle")
    whole = edited(calm := works("calm", engine={"edits_per_batch": 2}), clip(folder, prompts=prompts))
    ticks = iter(range(after))

    def on_step(stage: str) -> None:
        if next(ticks, None) is None:
            raise Stop

    work = replace(works("stopped", engine={"edits_per_batch": 2}), on_step=on_step)
    with pytest.raises(Stop):
        edited(work, clip(folder, prompts=prompts))
    assert len(list(work.ledger.units("edits"))) < 3
    resumed = edited(replace(work, on_step=lambda stage: None), clip(folder, prompts=prompts))
    assert bytes_of(work, resumed) == bytes_of(calm, whole)
    assert [e["edit_key"] for e in resumed["edits"]] == [e["edit_key"] for e in whole["edits"]]


@pytest.mark.parametrize("method", ["multistep", "fixed_point"])
def test_a_stop_is_heard_before_the_next_evaluation(works: MakeWork, folder: Path, method: str) -> None:
    """Whether it is asked for in the first level with its many evaluations, further up or in the gate: not one more is
    made, and nothing is committed."""
    work = works(inversion={"method": method, "gate": "full", "gate_threshold_db": 100})
    record = encode_clip(work, clip(folder))
    for asked in range(1, inversion_evaluations(work.inversion) + STEPS):
        before = work.model.evaluations

        def on_step(stage: str, last: int = before + asked) -> None:
            if work.model.evaluations >= last:
                raise Stop

        with pytest.raises(Stop):
            trajectory.invert_clip(replace(work, on_step=on_step), record)
        assert work.model.evaluations - before == asked
    assert not list(work.ledger.units("trajectories"))


def test_an_interrupted_batch_is_computed_whole_and_keeps_what_was_committed(
    works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped between the commits of one batch: all of the batch is denoised again, the committed edit stays."""
    whole = edited(calm := works("calm"), clip(folder))
    work, commit = works("stopped"), Ledger.commit

    def once(ledger: Ledger, stage: Any, *rest: Any) -> Commit:
        if stage == "edits" and list(ledger.units("edits")):
            raise Stop
        return commit(ledger, stage, *rest)

    monkeypatch.setattr(Ledger, "commit", once)
    with pytest.raises(Stop):
        edited(work, clip(folder))
    monkeypatch.undo()
    (done,) = work.ledger.units("edits")
    resumed, made = spent(work, clip(folder))
    assert made == cost(2) and [edit["reused"] for edit in resumed["edits"]] == [True, False]
    assert work.ledger.find("edits", done.key) == done
    assert bytes_of(work, resumed) == bytes_of(calm, whole)


def test_equal_content_is_inverted_and_edited_once(works: MakeWork, folder: Path) -> None:
    """Under a second path all keys are the same, nothing is computed, and the dataset has a row for each path."""
    work = works()
    first, _ = spent(work, clip(folder))
    second, made = spent(work, clip(folder, "b.mp4"))
    assert made == 0 and first["source_id"] != second["source_id"]
    assert first["trajectory_key"] == second["trajectory_key"]
    assert len(list(work.ledger.units("trajectories"))) == 1
    counts = tables.collect_run(work.output, work.ledger, [first, second], {})
    rows = tables.read_table(work.output.root, "edits")
    assert counts["edits"] == 4 and [row["clip"] for row in rows] == ["a.mp4", "a.mp4", "b.mp4", "b.mp4"]
    assert len({row["edit_key"] for row in rows}) == 2


def test_a_touched_clip_is_the_same_clip(works: MakeWork, folder: Path, tmp_path: Path) -> None:
    """A new modification time makes no work and no second rows."""
    (tmp_path / "in").mkdir()
    path = tmp_path / "in" / "a.mp4"
    path.write_bytes((folder / "a.mp4").read_bytes())
    work = works(dataset={"source": str(tmp_path / "in")})
    first = edited(work, clip(tmp_path / "in"))
    tables.collect_run(work.output, work.ledger, [first], {})
    path.touch()
    second, made = spent(work, clip(tmp_path / "in"))
    assert made == 0 and second["source_id"] != first["source_id"]
    assert tables.collect_run(work.output, work.ledger, [second], {})["edits"] == 2


@pytest.mark.parametrize("container", ["arrow", "zarr"])
def test_a_damaged_trajectory_is_set_aside_and_made_anew(works: MakeWork, folder: Path, container: str) -> None:
    """Sizes agree, one bit does not: the read notices, the clip is inverted anew, and the edit is the right one."""
    prompts = ("a blue circle", "a red square", "a yellow triangle")
    calm, work = works("calm", inversion={"container": container}), works(inversion={"container": container})
    for each in (calm, work):
        edited(each, clip(folder))
    (commit,) = work.ledger.units("trajectories")
    step = commit.record["steps"][-1]
    flip(Path(work.ledger.open_url(commit, step["object"])[1]), step["offset"] + 11)
    repaired, made = spent(work, clip(folder, prompts=prompts))
    assert made == INVERTED + cost(1)  # the start is read before anything is denoised
    why = json.loads(next(Path(work.output.root, "quarantine", "trajectories").rglob("why.json")).read_text())
    assert (why["stage"], why["key"]) == ("trajectories", commit.key)
    assert bytes_of(work, repaired) == bytes_of(calm, edited(calm, clip(folder, prompts=prompts)))


def test_a_damaged_edit_is_redone_with_its_batch(works: MakeWork, folder: Path) -> None:
    """verify=full finds the flipped bit; the result has the bytes it had."""
    work = works(output={"verify": "full", "root": works().output.root})
    first = edited(work, clip(folder))
    good = bytes_of(work, first)
    flip(edit_file(work, first["edits"][1]["edit_key"]))
    second, made = spent(work, clip(folder))
    assert made == cost(2) and [edit["reused"] for edit in second["edits"]] == [True, False]
    assert bytes_of(work, second) == good


@pytest.mark.parametrize("stage", ["latents", "sources", "trajectories", "edits"])
def test_a_file_that_is_gone_is_made_again(works: MakeWork, folder: Path, stage: Any) -> None:
    """verify=size notices, and the edits come out with the bytes they had."""
    work = works()
    good = bytes_of(work, edited(work, clip(folder)))
    commit = next(work.ledger.units(stage))
    for name in commit.files:
        Path(work.ledger.open_url(commit, name)[1]).unlink()
    assert bytes_of(work, edited(work, clip(folder))) == good
    assert work.ledger.find(stage, commit.key, "full") is not None


def test_damaged_latents_are_a_failure_that_the_next_run_repairs(works: MakeWork, folder: Path) -> None:
    """They are always read in full: a flipped bit is never inverted."""
    work = works()
    encoded = encode_clip(work, clip(folder))
    (commit,) = work.ledger.units("latents")
    flip(Path(work.ledger.open_url(commit, "latents.safetensors")[1]))
    failed = attempt(lambda record: trajectory.invert_clip(work, record), encoded, "invert")
    assert (failed["error"], failed["stage"]) == ("CorruptObject", "invert") and "run again" in failed["message"]
    assert not list(work.ledger.units("trajectories"))
    assert len(edited(work, clip(folder))["edits"]) == 2


def test_a_damaged_prompt_embedding_is_made_again(works: MakeWork) -> None:
    """Whatever the run verifies: the embedding that is used is the one that the model gives."""
    work, prompt = works(output={"verify": "none", "root": works().output.root}), "a red circle"
    good = embeddings(work.model, work.ledger, [prompt])
    commit = work.ledger.find("prompts", fingerprint(prompt_spec(work.model, prompt)))
    assert commit is not None
    flip(Path(work.ledger.open_url(commit, "embedding.safetensors")[1]), -2)
    for _ in range(2):
        assert embeddings(work.model, work.ledger, [prompt]).equal(good)
    assert work.ledger.find("prompts", commit.key, "full") is not None


def test_every_window_of_a_longer_clip_is_a_unit(works: MakeWork, folder: Path) -> None:
    """22 frames give two windows of 9, planned before any work, with a trajectory, edits and rows for each."""
    manifest = folder / "long.jsonl"
    manifest.write_text(json.dumps({"clip": "long.mp4", "source_prompt": "x", "target_prompts": ["a red square"]}))
    work = works(dataset={"source": str(manifest), "window": "all"})
    records = list(plan.planned_clips(work.dataset, work.model))
    assert [record["window"] for record in records] == [0, 1]
    done = [edited(work, record) for record in records]
    assert len({record["trajectory_key"] for record in done}) == 2
    counts = tables.collect_run(work.output, work.ledger, done, {})
    assert (counts["edits"], counts["clips"], counts["errors"]) == (2, 2, 0)
    rows = tables.read_table(work.output.root, "edits")
    assert [(row["clip"], row["window"]) for row in rows] == [("long.mp4", 0), ("long.mp4", 1)]
    assert len({row["source_object"] for row in rows}) == 2


def test_containers_and_codecs_give_the_same_edits(works: MakeWork, folder: Path) -> None:
    """However a trajectory is packed: the same key, the same states, bit for bit, and the same bytes of the edits."""
    found = []
    for container, codec in (("arrow", "none"), ("zarr", "shuffle-zstd"), ("arrow", "xor-shuffle-zstd")):
        work = works(container + codec, inversion={"container": container, "codec": codec})
        record = edited(work, clip(folder))
        (commit,) = work.ledger.units("trajectories")
        states = [state for _, state in open_trajectory(work.ledger, commit).stream()]
        found.append((commit.key, torch.stack(states), bytes_of(work, record)))
    (key, states, edits), *others = found
    assert len(states) == STEPS + 1
    assert all(other[0] == key and other[1].equal(states) and other[2] == edits for other in others)


def stored_bytes(work: Work) -> int:
    return sum(stored.size for commit in work.ledger.units("trajectories") for stored in commit.files.values())


@pytest.mark.parametrize("start", ["inverted", "noised"])
def test_only_the_steps_that_the_recipe_reads(works: MakeWork, folder: Path, start: str) -> None:
    """save_steps=window stores those levels and no others, gives the same edits from disk and from memory, and another
    window inverts anew."""
    recipe = {"start": start}
    whole = edited(calm := works("calm", recipe=recipe), clip(folder))
    for root, keep in (("disk", "all"), ("memory", "none")):
        work = works(root, recipe=recipe, inversion={"save_steps": "window"})
        work = replace(work, output=work.output.model_copy(update={"keep_trajectories": keep}))
        assert bytes_of(work, edited(work, clip(folder))) == bytes_of(calm, whole)
    work = works("disk", recipe=recipe, inversion={"save_steps": "window"})
    (commit,) = work.ledger.units("trajectories")
    assert [step["level"] for step in commit.record["steps"]] == ([3, 4] if start == "inverted" else [0, 3, 4])
    assert stored_bytes(work) < stored_bytes(calm)
    start_low = {"start_at": 0.5, "guidance_end": 1.0, "reference_end": 1.0}
    low, fleeting = works("low", recipe=start_low, inversion={"save_steps": "window"}), works("fleet", recipe=start_low)
    fleeting = replace(fleeting, output=fleeting.output.model_copy(update={"keep_trajectories": "none"}))
    for each in (low, fleeting):  # one that is kept nowhere ends there as well
        record, made = spent(each, clip(folder))
        assert made == sum(row["evaluations"] for row in record["timings"])
        assert sum(row["evaluations"] for row in record["timings"] if row["stage"] == "invert") == INVERTED // 2
    longer = works("disk", recipe=recipe | {"reference_end": 1.0}, inversion={"save_steps": "window"})
    assert spent(longer, clip(folder))[1] >= INVERTED and len(list(work.ledger.units("trajectories"))) == 2
    shorter = works("disk", recipe=recipe | {"reference_weight": 2.0}, inversion={"save_steps": "window"})
    assert spent(shorter, clip(folder))[1] == cost(2)  # the same levels: the trajectory that is there


def test_a_trajectory_without_inversion_is_not_stored(works: MakeWork, folder: Path) -> None:
    """method=none keeps the clean state and a seed: a fraction of the room, every level there, the same edits from disk
    and from memory, no evaluations."""
    work, fleeting = works(inversion={"method": "none"}), works("memory", inversion={"method": "none"})
    fleeting = replace(fleeting, output=fleeting.output.model_copy(update={"keep_trajectories": "none"}))
    record, made = spent(work, clip(folder))
    assert made == cost(2) and bytes_of(fleeting, edited(fleeting, clip(folder))) == bytes_of(work, record)
    (commit,) = work.ledger.units("trajectories")
    trajectory, schedule = open_trajectory(work.ledger, commit), work.model.schedule(STEPS)
    assert commit.record["kind"] == "noised" and trajectory.levels == tuple(range(STEPS + 1))
    x_0 = trajectory.read(0)
    assert x_0.equal(read_latents(work, record["latents_key"])["latents"].half().float())
    for (level, state), plain in zip(trajectory.stream(range(5)), noised_source(x_0, schedule), strict=True):
        assert state.allclose(plain, atol=1e-6), level
    edited(inverted := works("inverted"), clip(folder))
    bits = 2 * x_0.numel()
    assert stored_bytes(inverted) - stored_bytes(work) >= STEPS * bits


def test_another_noise_is_noticed(works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where torch draws other numbers than those of the commit, the unit is set aside and made anew."""
    work = works(inversion={"method": "none"})
    with monkeypatch.context() as patch:
        patch.setattr(virtual, "noise_sha256", lambda shape, seed: "0" * 64)
        edited(work, clip(folder))
    (old,) = work.ledger.units("trajectories")
    edited(work, clip(folder, prompts=("a blue circle", "a red square", "a yellow triangle")))
    (new,) = work.ledger.units("trajectories")
    assert new.key == old.key and new != old and Path(work.output.root, "quarantine", "trajectories").is_dir()


def test_tables_are_made_again_from_what_is_committed(works: MakeWork, folder: Path) -> None:
    """A run that was killed before its tables, or whose tables are lost: the same dataset, to the byte."""
    work = works()
    record = edited(work, clip(folder))
    tables.collect_run(work.output, work.ledger, [record], {})
    root = Path(work.output.root)
    files = [root / name for name in ("dataset/metadata.jsonl", "tables/edits.parquet", "index.html")]
    before = [file.read_bytes() for file in files]
    for part in ("dataset", "tables"):
        shutil.rmtree(root / part)
    assert tables.collect_run(work.output, work.ledger, [], {})["edits"] == 2
    assert [file.read_bytes() for file in files] == before


def test_seeds_are_edits_of_their_own(works: MakeWork, folder: Path) -> None:
    """From noise, each seed gives its own video, the same in any batch."""
    recipe = {"start": "fresh", "seeds": [0, 1]}
    work = works(recipe=recipe)
    record = edited(work, clip(folder, prompts=("a blue circle",)))
    assert [edit["seed"] for edit in record["edits"]] == [0, 1] and len(set(bytes_of(work, record))) == 2


def test_a_ladder_of_strengths_reuses_the_plain_edit(works: MakeWork, folder: Path) -> None:
    """Each strength is an edit of its own, in the tables too; one that was made without the ladder is found again."""
    plain = edited(works(), clip(folder, prompts=("a blue circle",)))
    work = works(recipe={"strengths": [0.5, 1.0, 2.0]})
    record = edited(work, clip(folder, prompts=("a blue circle",)))
    assert [(edit["strength"], edit["reused"]) for edit in record["edits"]] == [(0.5, False), (1.0, True), (2.0, False)]
    assert record["edits"][1]["edit_key"] == plain["edits"][0]["edit_key"] and len(set(bytes_of(work, record))) == 3
    tables.collect_run(work.output, work.ledger, record["edits"], {})
    rows = [json.loads(line) for line in Path(work.output.root, "dataset/metadata.jsonl").read_text().splitlines()]
    assert sorted(row["strength"] for row in rows) == [0.5, 1.0, 2.0]


def test_what_a_failed_edit_had_finished_is_kept(
    works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A store that fails between two batches: the second try makes the second batch only; counts tell both."""
    monkeypatch.setattr("time.sleep", lambda seconds: None)
    work, broken = works(engine={"edits_per_batch": 1}), iter([True])
    inverted = trajectory.invert_clip(work, encode_clip(work, clip(folder)))
    commit = Ledger.commit

    def unsure(ledger: Ledger, stage: Any, *rest: Any) -> Commit:
        if stage == "edits" and list(ledger.units("edits")) and next(broken, False):
            raise StorageError("the store is away; run again")
        return commit(ledger, stage, *rest)

    monkeypatch.setattr(Ledger, "commit", unsure)
    before = work.model.evaluations
    record = attempt(lambda r: edit_stages.edit_clip(work, r), inverted, "edit", retries=1)
    assert not is_failure(record) and len(record["edits"]) == 2
    assert work.model.evaluations - before == 3 * cost(1)


PROMPTS = ("a blue circle", "a red square", "a yellow triangle", "a green circle")


def latents_by_prompt(work: Work, monkeypatch: pytest.MonkeyPatch, most: int = 64) -> dict[str, Any]:
    """Final latents by prompt, as they are denoised from now on; more than `most` edits a call run out of memory."""
    found, denoise = {}, edit_stages.denoise_batch

    def limited(work: Work, record: Record, batch: Any, trajectory: Any, shared: Any) -> Any:
        if len(batch) > most:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory")
        done = denoise(work, record, batch, trajectory, shared)
        found.update({edit["target_prompt"]: final for edit, final in zip(done.edits, done.latents, strict=True)})
        return done

    monkeypatch.setattr(edit_stages, "denoise_batch", limited)
    monkeypatch.setattr(work.model, "room", memory.Room())
    return found


def test_a_batch_that_is_too_large_is_halved(
    works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Memory for two edits of four: two calls of two, told once, latents as in one call within 1e-4; timings count
    what was made; the next clip begins with two."""
    calm, work = works("calm"), works()
    with monkeypatch.context() as patch:
        whole = latents_by_prompt(calm, patch)
        edited(calm, clip(folder, prompts=PROMPTS))
    split = latents_by_prompt(work, monkeypatch, most=2)
    record, made = spent(work, clip(folder, prompts=PROMPTS))
    assert made == INVERTED + 2 * cost(2) == sum(row["evaluations"] for row in record["timings"])
    assert max(float((split[prompt] - whole[prompt]).abs().max()) for prompt in PROMPTS) < 1e-4
    edited(work, clip(folder, "long.mp4", PROMPTS))
    assert [r.getMessage() for r in caplog.records] == ["memory ran out with 4 edits in a call; going on with 2"]


def test_one_edit_too_many_is_a_failure(works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where not even one edit fits, the clip fails with its name and a remedy; what ran before stays."""
    work = works()
    latents_by_prompt(work, monkeypatch, most=0)
    failed = attempt(lambda record: edited(work, record), clip(folder), "edit", retries=3)
    assert (failed["kind"], failed["attempts"], failed["retryable"]) == ("out_of_memory", 1, False)
    assert "'a.mp4'" in failed["message"] and list(work.ledger.units("trajectories"))


def test_decoding_beside_the_next_batch_changes_no_byte(
    works: MakeWork, folder: Path, tiny_pipeline_folder: Path
) -> None:
    """Two clips at a time on one model, whose VAE has a lane of its own: keys and bytes of all edits are those of one
    clip after the other in turn."""
    names, calm = ("a.mp4", "long.mp4"), works("calm")
    beside = model.load(ModelSpec(path=str(tiny_pipeline_folder), vae_overlap="on"))
    busy = replace(works("busy"), model=beside)
    clips = [clip(folder, name, PROMPTS) for name in names]
    expected = [edited(calm, record) for record in clips]
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda record: edited(busy, record), clips))
    assert beside.vae.lane.beside and not calm.model.vae.lane.beside
    for one, other in zip(found, expected, strict=True):
        assert [edit["edit_key"] for edit in one["edits"]] == [edit["edit_key"] for edit in other["edits"]]
        assert bytes_of(busy, one) == bytes_of(calm, other)


@pytest.mark.parametrize("later", [1, 2, 4, 16])
def test_an_interrupted_batch_stays_itself_when_the_size_changes(
    works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch, later: int
) -> None:
    """Two of four edits by twos are lost, one of each batch. Run again with more room: equal bytes, each batch as it
    was. With less room the batch is cut, and latents agree within 1e-4."""
    calm, work = works("calm", engine={"edits_per_batch": 2}), works("later", engine={"edits_per_batch": later})
    before = latents_by_prompt(calm, monkeypatch)
    whole = edited(calm, clip(folder, prompts=PROMPTS))
    good, first = bytes_of(calm, whole), dict(before)
    shutil.copytree(calm.output.root, work.output.root)
    for edit in (whole["edits"][0], whole["edits"][3]):
        edit_file(work, edit["edit_key"]).unlink()
    resumed, made = spent(work, clip(folder, prompts=PROMPTS))
    assert made == (2 * cost(2) if later > 1 else 2 * cost(1))
    assert later == 1 or bytes_of(work, resumed) == good
    assert max(float((before[prompt] - first[prompt]).abs().max()) for prompt in PROMPTS) < 1e-4


def test_a_frozen_edit_of_a_moving_clip_is_a_failure(
    works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An edit whose frames are all equal is the model's failure, told by its prompt; the others are kept."""
    work, record = works(), clip(folder)
    decode, calls = work.model.decode, []

    def frozen(latents: Tensor) -> np.ndarray:
        calls.append(1)
        return decode(latents) * (0 if len(calls) == 1 else 1)

    prepared = trajectory.invert_clip(work, encode_clip(work, record))
    monkeypatch.setattr(work.model, "decode", frozen)
    with pytest.raises(FrozenEdit, match=r"clip 'a\.mp4'.*'a blue circle' stands still.*vae_dtype") as failed:
        edit_stages.edit_clip(work, prepared)
    assert kind_of(failed.value) == ("model", False)
    one, other = (work.ledger.find("edits", edit["edit_key"]) for edit in trajectory.plan_edits(work, prepared))
    assert one is None and other is not None


def test_a_still_clip_may_stay_still(works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the source does not move, an edit that stands still is no failure."""
    video.encode(np.repeat(world.render(world.scene_from_seed(5))[:1], 9, axis=0), folder / "still.mp4", 8)
    work = works()
    decode = work.model.decode
    monkeypatch.setattr(work.model, "decode", lambda latents: np.repeat(decode(latents)[:1], 9, axis=0))
    assert len(edited(work, clip(folder, "still.mp4"))["edits"]) == 2


def test_memory_that_runs_out_in_an_inversion_is_said(
    works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One row of the transformer that does not fit: class out_of_memory, with the clip and what helps."""
    work, record = works("small"), clip(folder)
    prepared = encode_clip(work, record)

    def full(*_: Any, **__: Any) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(work.model, "velocity", full)
    with pytest.raises(OutOfMemory, match=r"clip 'a\.mp4', being inverted.*model\.dtype.*model\.offload"):
        trajectory.invert_clip(work, prepared)


def test_edits_are_judged_as_they_are_made(works: MakeWork, folder: Path) -> None:
    """Each committed edit has its judgement, made of the frames at hand and before its commit; a second run adds none,
    and another judge judges the committed videos without any model work."""
    work = replace(works(), judge=JudgeSpec(text="shapes", frames=2))
    record, _ = spent(work, clip(folder))
    made = {commit.spec["edit"]: commit.record["scores"] for commit in work.ledger.units("judgements")}
    assert made.keys() == {edit["edit_key"] for edit in record["edits"]}
    assert all({"text_similarity", "kept_db"} <= scores.keys() for scores in made.values())
    spent(work, clip(folder))
    assert len(list(work.ledger.units("judgements"))) == 2
    _, evaluations = spent(replace(work, judge=JudgeSpec(text="shapes", frames=3)), clip(folder))
    assert evaluations == 0 and len(list(work.ledger.units("judgements"))) == 4


class Judge:
    """A judge that gives each edit the score that `score` says, by what it was asked for."""

    def __init__(self, score: Callable[[str, int], float]) -> None:
        self.score, self.seen = score, dict[str, int]()

    def scores(self, source: Any, edits: Any, wishes: Any) -> list[dict[str, float]]:
        (wish,) = wishes
        number = self.seen[wish.target_prompt] = self.seen.get(wish.target_prompt, 0) + 1
        return [{"text_choice": self.score(wish.target_prompt, number), "text_similarity": 0.5}]


def judged(works: MakeWork, monkeypatch: pytest.MonkeyPatch, by: Judge, root: str = "run", **groups: Record) -> Work:
    spec = JudgeSpec(text="shapes", **{"preset": "off", "least_text_choice": 0.5} | groups.pop("judge", {}))
    monkeypatch.setattr(judges, "loaded", lambda _: by)
    return replace(works(root, **groups), judge=spec)


RIVALS = {"recipes": ["balanced", "bold"], "ladder": ["faithful", "fast"]}


def test_rivals_share_one_inversion(works: MakeWork, folder: Path) -> None:
    """Two presets for two prompts: one trajectory, four edits, and each with the key that it has on its own."""
    record, _ = spent(works(recipe={"recipes": ["balanced", "bold"]}), clip(folder))
    assert sum(row["stage"] == "invert" and not row["reused"] for row in record["timings"]) == 1
    asked = [(row["target_prompt"], row["recipe"]) for row in record["edits"]]
    assert asked == [(prompt, name) for prompt in ("a blue circle", "a red square") for name in ("balanced", "bold")]
    bold = RecipeSpec(preset="bold").as_json()
    alone, cost_alone = spent(works(recipe=bold), clip(folder))
    assert cost_alone == 0 and {row["edit_key"] for row in alone["edits"]} < {
        row["edit_key"] for row in record["edits"]
    }


def test_only_failures_climb_the_ladder(works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt that passes gets no third candidate; one whose third passes no fourth; a second run does nothing."""
    judge = Judge(lambda prompt, number: 0.9 if "blue" in prompt or number == 3 else 0.1)
    work = judged(works, monkeypatch, judge, recipe=RIVALS)
    record, _ = spent(work, clip(folder))
    names = {
        prompt: [r["recipe"] for r in record["edits"] if prompt in r["target_prompt"]] for prompt in ("blue", "red")
    }
    assert names == {"blue": ["balanced", "bold"], "red": ["balanced", "bold", "faithful"]}
    again, made = spent(work, clip(folder))
    assert made == 0 and [row["edit_key"] for row in again["edits"]] == [row["edit_key"] for row in record["edits"]]


def test_one_text_in_two_ways_climbs_by_itself(works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A prompt that two rows ask for, each with a seed of its own: the one whose edit is rejected goes on, whatever
    becomes of the other's."""
    work = judged(works, monkeypatch, Judge(lambda _, number: 0.9 if number == 1 else 0.1), recipe={"ladder": ["fast"]})
    asked = clip(folder)
    text = asked["target_prompts"][0]
    asked |= {"target_prompts": [text, text], "overrides": ['{"seed":1}', '{"seed":2}'], "own": ["", ""]}
    record, _ = spent(work, asked)
    assert [(row["recipe"], row["seed"]) for row in record["edits"]] == [("balanced", 1), ("balanced", 2), ("fast", 2)]


def test_the_ladder_ends_at_most_candidates(works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing passes, each prompt has as many edits as are allowed; unjudged edits climb nothing."""
    hopeless = judged(works, monkeypatch, Judge(lambda *_: 0.1), recipe=RIVALS | {"most_candidates": 3})
    assert len(spent(hopeless, clip(folder))[0]["edits"]) == 6
    unjudged = works("other", recipe=RIVALS)
    assert len(spent(unjudged, clip(folder))[0]["edits"]) == 4


def early(limit: float) -> policy.Calibration:
    """A calibration that looks at text_choice alone, with a look after half of the steps."""
    look = policy.Calibration({"text_choice": 1.0}, {"text_choice": 0.0}, {"text_choice": 1.0}, 0.0, {"stop": limit})
    return policy.Calibration({}, {}, {}, 0.0, {}, {"0.5": look})


def test_hopeless_edits_are_given_up_early(works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rejected edit leaves the batch, is recorded with its step and what it saved, and is not tried again; the one
    that stays is what it would have been, within 1e-4; without early stop it is made after all."""
    judge = Judge(lambda prompt, _: 0.9 if "blue" in prompt else 0.1)
    plain = judged(works, monkeypatch, judge, "plain", recipe={"start_at": 0.0})
    wanted = latents_by_prompt(plain, monkeypatch)
    spent(plain, clip(folder))
    monkeypatch.setattr(stages_judge, "_calibration_of", lambda *_: early(0.5))
    settings = {"early_stop": "on", "early_steps": [0.5]}
    work = judged(works, monkeypatch, judge, recipe={"start_at": 0.0}, judge=settings)
    found = latents_by_prompt(work, monkeypatch)
    record, made = spent(work, clip(folder))
    stopped, done = sorted(record["edits"], key=lambda row: row["state"], reverse=True)
    assert (stopped["target_prompt"], stopped["state"], done["state"]) == ("a red square", "stopped", "done")
    assert stopped["rejected_because"].startswith("stopped after 2 of 4 steps: confidence")
    assert stopped["saved_evaluations"] > 0 and made == sum(row["evaluations"] for row in record["timings"])
    assert found.keys() == {"a blue circle"}
    torch.testing.assert_close(found["a blue circle"], wanted["a blue circle"], rtol=0, atol=1e-4)
    again, made = spent(work, clip(folder))
    assert made == 0 and [row["state"] for row in again["edits"]] == ["done", "stopped"]
    frugal = replace(work, output=work.output.model_copy(update={"keep_trajectories": "until_edited"}))
    edited(frugal, clip(folder))  # drops the trajectory, which nothing is left to need
    assert spent(frugal, clip(folder))[1] == 0
    off = replace(work, judge=work.judge.model_copy(update={"early_stop": "off"}))
    assert {row["state"] for row in spent(off, clip(folder))[0]["edits"]} == {"done"}


def test_early_scores_can_be_measured_alone(works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """measure: no edit is given up, and each judgement holds the scores of its clean estimates."""
    judge = Judge(lambda *_: 0.1)
    settings = {"early_stop": "measure", "early_steps": [0.5, 0.75]}
    work = judged(works, monkeypatch, judge, recipe={"start_at": 0.0}, judge=settings)
    record, _ = spent(work, clip(folder))
    held = [commit.record["early"] for commit in work.ledger.units("judgements")]
    assert len(record["edits"]) == 2 == len(held)
    assert all(looks.keys() == {"0.5", "0.75"} and looks["0.5"]["text_choice"] == 0.1 for looks in held)


def test_a_whole_batch_can_be_given_up(works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where every edit is hopeless the denoising ends there, and the clip has no failure."""
    monkeypatch.setattr(stages_judge, "_calibration_of", lambda *_: early(1.0))
    settings = {"early_stop": "on", "early_steps": [0.5]}
    work = judged(works, monkeypatch, Judge(lambda *_: 0.1), recipe={"start_at": 0.0}, judge=settings)
    record, made = spent(work, clip(folder))
    assert [row["state"] for row in record["edits"]] == ["stopped", "stopped"]
    assert made == sum(row["evaluations"] for row in record["timings"])
