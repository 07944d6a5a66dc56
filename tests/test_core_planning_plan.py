"""The plan: sizes are refused before any clip is read, and all work is written down before it starts."""

from __future__ import annotations

import hashlib
import json
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cogvideo_core.errors import BadManifest, BadSpec, EditError, StorageError
from cogvideo_core.inputs import places
from cogvideo_core.media import video
from cogvideo_core.models import model
from cogvideo_core.planning import plan, tables
from cogvideo_core.settings.specs import (
    DatasetSpec,
    EngineSpec,
    InversionSpec,
    ModelSpec,
    OutputSpec,
    RecipeSpec,
    fingerprint,
)
from cogvideo_core.shapes import build, world
from cogvideo_core.stages.failures import is_failure
from cogvideo_core.stages.units import (
    Asked,
    Edit,
    edit_spec,
    frames_spec,
    latents_spec,
    levels_kept,
    pending_batches,
    planned_edits,
    source_spec,
    trajectory_spec,
)
from cogvideo_core.stages.wishes import Prompt

Record = dict[str, Any]
RECIPE = RecipeSpec(seeds=[0, 7], strengths=[0.5, 1.0], start="noised")


@pytest.fixture(scope="module")
def tiny() -> model.VideoModel:
    return model.VideoModel(build.build_pipeline("5b"), ModelSpec())


@pytest.fixture
def manifest(tmp_path: Path) -> Callable[..., Path]:
    """Writes a manifest of rows (clip, prompts); clips that are named get a file of a few bytes."""

    def write(*rows: tuple[str, list[str]], missing: tuple[str, ...] = ()) -> Path:
        for clip, _ in rows:
            if clip not in missing:
                (tmp_path / clip).write_bytes(clip.encode())
        lines = [json.dumps({"clip": clip, "target_prompts": prompts}) + "\n" for clip, prompts in rows]
        (tmp_path / "m.jsonl").write_text("".join(lines))
        return tmp_path / "m.jsonl"

    return write


@pytest.mark.parametrize(("field", "value"), [("height", 50), ("width", 52), ("height", 4)])
def test_sizes_that_the_model_cannot_take_are_refused(tiny: model.VideoModel, field: str, value: int) -> None:
    """4 pixels a latent cell times a patch of 2: every size must divide by 8; the sentence names field and number."""
    with pytest.raises(BadSpec, match=rf"^field {field}: {value} is no multiple of 8"):
        plan.check_shape(DatasetSpec(**{field: value}), tiny)
    plan.check_shape(DatasetSpec(**{field: 56}), tiny)


def test_learned_positions_take_their_own_size_only() -> None:
    """As in CogVideoX-5B-I2V, whose positions are a table."""
    fixed = model.VideoModel(build.build_pipeline("5b-i2v"), ModelSpec())
    plan.check_shape(DatasetSpec(), fixed)
    for other in ({"height": 56}, {"frames": 17}):
        with pytest.raises(BadSpec, match="9 frames of 48x48 only"):
            plan.check_shape(DatasetSpec(**other), fixed)


def test_the_plan_is_written_before_the_work(
    tiny: model.VideoModel, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    """Clips and edits as tables, batches cut from the plan, failures handed on but not planned."""
    path = manifest(
        ("a.mp4", ["x", "y"]), ("gone.mp4", ["x"]), ("b.mp4", ["x"]), ("c.mp4", ["z"]), missing=("gone.mp4",)
    )
    found = plan.planned_clips(DatasetSpec(source=str(path)), tiny)
    planned = tables.write_plan(str(tmp_path / "run"), found, RECIPE, EngineSpec(clips_per_batch=2))
    counts = {name: value for name, value in planned.items() if name != "plan"}
    assert counts == {"clips": 3, "edits": 16, "refused": 1, "batches": 2, "waves": 1}
    clips = pq.read_table(tmp_path / "run/plan/clips.parquet").to_pylist()
    assert [(row["clip"], row["batch"], row["target_prompts"]) for row in clips] == [
        ("a.mp4", 0, ["x", "y"]),
        ("b.mp4", 0, ["x"]),
        ("c.mp4", 1, ["z"]),
    ]
    edits = pq.read_table(tmp_path / "run/plan/edits.parquet").to_pylist()
    x = [("x", 0, 0.5), ("x", 0, 1.0), ("x", 7, 0.5), ("x", 7, 1.0)]
    assert [(row["target_prompt"], row["seed"], row["strength"]) for row in edits[:5]] == [*x, ("y", 0, 0.5)]
    assert len(edits) == 16 and {row["recipe"] for row in edits} == {"balanced"}
    batches = list(tables.read_batches(str(tmp_path / "run")))
    assert [[record["clip"] for record in batch] for batch in batches] == [["a.mp4", "b.mp4"], ["c.mp4"]]
    (refused,) = tables.read_refused(str(tmp_path / "run"))
    assert is_failure(refused) and (refused["clip"], refused["error"]) == ("gone.mp4", "MissingClip")


def test_rows_of_one_clip_share_a_batch(tiny: model.VideoModel, manifest: Callable[..., Path], tmp_path: Path) -> None:
    """Rows that follow each other and name the same clip are worked on in turn: it is inverted once for all of them."""
    path = manifest(("a.mp4", ["x"]), ("b.mp4", ["x"]))
    rows = [{"clip": clip, "source_prompt": str(i), "target_prompts": ["x"]} for i, clip in enumerate(("a.mp4",) * 3)]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"clip": "b.mp4", "target_prompts": ["x"]}]))
    tables.write_plan(
        str(tmp_path / "run"), plan.planned_clips(DatasetSpec(source=str(path)), tiny), RECIPE, EngineSpec()
    )
    records = [record for batch in tables.read_batches(str(tmp_path / "run")) for record in batch]
    assert [(record["clip"], record["batch"]) for record in records] == [("a.mp4", 0)] * 3 + [("b.mp4", 1)]


def test_a_plan_with_failures_alone_has_no_batches(
    tiny: model.VideoModel, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    """The tables are there, with their columns and no rows."""
    path = manifest(("gone.mp4", ["x"]), missing=("gone.mp4",))
    found = plan.planned_clips(DatasetSpec(source=str(path)), tiny)
    planned = tables.write_plan(str(tmp_path / "run"), found, RECIPE, EngineSpec())
    assert (planned["refused"], planned["clips"], planned["waves"]) == (1, 0, 0)
    assert list(tables.read_batches(str(tmp_path / "run"))) == []
    table = pq.read_table(tmp_path / "run/plan/clips.parquet")
    assert len(table) == 0 and table.schema.equals(tables.CLIPS_SCHEMA)


def test_no_clips_at_all_are_refused(tmp_path: Path) -> None:
    """One sentence, not an empty dataset."""
    with pytest.raises(BadManifest, match="no clips were found"):
        tables.write_plan(str(tmp_path), [], RECIPE, EngineSpec())


def test_a_root_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    """It names the table, and says that another try may succeed."""
    (tmp_path / "file").write_text("")
    record = dict.fromkeys(tables.CLIP_TEXTS, "") | {"target_prompts": [], "size": 0, "window": 0}
    with pytest.raises(StorageError, match=r"plan/clips\.parquet") as caught:
        tables.write_plan(str(tmp_path / "file" / "run"), [record], RECIPE, EngineSpec())
    assert caught.value.retryable


def test_windows_are_planned_and_a_clip_that_has_none_fails(
    tiny: model.VideoModel, manifest: Callable[..., Path], tmp_path: Path
) -> None:
    """20 frames hold two windows of 9, with source ids of their own; 5 frames none; a text none."""
    path = manifest(("two.mp4", ["x"]), ("short.mp4", ["x"]), ("text.mp4", ["x"]))
    frames = world.render(world.scene_from_seed(1))
    video.encode(np.concatenate([frames, frames, frames[:2]]), tmp_path / "two.mp4", 8)
    video.encode(frames[:5], tmp_path / "short.mp4", 8)
    records = list(plan.planned_clips(DatasetSpec(source=str(path), window="all"), tiny))
    assert [(record["clip"], record.get("window"), record.get("error")) for record in records] == [
        ("two.mp4", 0, None),
        ("two.mp4", 1, None),
        ("short.mp4", 0, "ClipTooShort"),
        ("text.mp4", 0, "NotAVideo"),
    ]
    assert records[0]["source_id"] != records[1]["source_id"] and records[0]["content"] == records[1]["content"]
    assert all(record["stage"] == "discover" for record in records[2:])


def test_probing_opens_the_clips(tiny: model.VideoModel, manifest: Callable[..., Path], tmp_path: Path) -> None:
    """The plan then has what each file says of itself and its hash; a file that can't be used is refused at once."""
    path = manifest(("good.mp4", ["x"]), ("text.mp4", ["x"]))
    video.encode(world.render(world.scene_from_seed(1)), tmp_path / "good.mp4", 8)
    for probe in (False, True):
        found = plan.planned_clips(DatasetSpec(source=str(path)), tiny, probe=probe)
        planned = tables.write_plan(str(tmp_path / "run"), found, RECIPE, EngineSpec())
        assert (planned["clips"], planned["refused"]) == ((1, 1) if probe else (2, 0))
        row = pq.read_table(tmp_path / "run/plan/clips.parquet").to_pylist()[0]
        content = hashlib.sha256((tmp_path / "good.mp4").read_bytes()).hexdigest()
        size = (row["source_frames"], row["source_height"], row["source_width"], row["source_fps"])
        assert (row["content"], size) == ((content, (9, 48, 48, 8.0)) if probe else (None, (None,) * 4))


def test_the_plan_learns_what_a_run_saw(tmp_path: Path) -> None:
    """Content and probe of opened clips fill the plan's columns, wave by wave; all else stays, and so does its hash."""
    engine, root, asked = EngineSpec(clips_per_batch=2, batches_per_wave=2), str(tmp_path), []
    planned = tables.write_plan(root, planned_rows(10), RECIPE, engine)
    before = pq.read_table(tmp_path / "plan/clips.parquet").to_pylist()
    probe = {"frames": 30, "height": 90, "width": 160, "fps": "30000/1001", "seconds": 1.001}

    def of_wave(wave: int) -> Iterator[Record]:
        asked.append(wave)
        for row in before[4 * wave : 4 * wave + 4]:
            opened = {"content": row["clip"], "probe": probe} if row["batch"] % 2 else {"stage": "encode"}
            yield {"source_id": row["source_id"], "window": row["window"]} | opened

    tables.fill_probed(root, of_wave)
    told = {"seconds": 1.001, "source_fps": 30000 / 1001, "source_frames": 30, "source_height": 90, "source_width": 160}
    after = pq.read_table(tmp_path / "plan/clips.parquet").to_pylist()
    assert after == [row | ({"content": row["clip"]} | told if row["batch"] % 2 else {}) for row in before]
    assert asked == [0, 1, 2] and tables.read_planned(root) == planned


def planned_rows(count: int) -> Iterator[Record]:
    """Clips that are nowhere, as a manifest of many rows gives them."""
    for index in range(count):
        texts = dict.fromkeys(tables.CLIP_TEXTS, "x" * 60) | {"source_id": fingerprint(index), "clip": f"{index}"}
        yield texts | {"target_prompts": ["a red circle", "a blue square"], "size": 1, "window": 0}


def test_a_wave_is_read_from_its_own_rows(tmp_path: Path) -> None:
    """Batches and waves are cut by number; reading some of them gives the same batches as reading all."""
    engine = EngineSpec(clips_per_batch=3, batches_per_wave=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tables, "ROWS_A_GROUP", 4)
        planned = tables.write_plan(str(tmp_path), planned_rows(20), RECIPE, engine)
        every = list(tables.read_batches(str(tmp_path)))
        parts = [list(tables.read_batches(str(tmp_path), {wave})) for wave in range(planned["waves"])]
    assert (planned["batches"], planned["waves"]) == (7, 4)
    assert [len(batch) for batch in every] == [3] * 6 + [2] and [len(part) for part in parts] == [2, 2, 2, 1]
    assert [batch for part in parts for batch in part] == every
    edits = pq.read_table(tmp_path / "plan/edits.parquet").to_pylist()
    assert [(row["source_id"], row["target_prompt"], row["seed"], row["strength"]) for row in edits] == [
        (record["source_id"], prompt, seed, strength)
        for batch in every
        for record in batch
        for prompt in record["target_prompts"]
        for seed in RECIPE.seeds
        for strength in RECIPE.strengths
    ]
    again = tables.write_plan(str(tmp_path), planned_rows(20), RECIPE, engine)
    other = tables.write_plan(str(tmp_path), planned_rows(19), RECIPE, engine)
    assert again["plan"] == planned["plan"] != other["plan"]


def test_memory_stays_flat_however_long_the_plan_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """6,000 rows more in the plan cost less than a megabyte of Python's memory while it is written and read; held as
    records they would take ten times that."""
    monkeypatch.setattr(tables, "ROWS_A_GROUP", 200)

    def peak(rows: int) -> int:
        tracemalloc.start()
        tables.write_plan(str(tmp_path), planned_rows(rows), RECIPE, EngineSpec())
        assert sum(len(batch) for batch in tables.read_batches(str(tmp_path))) == rows
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(10)  # what is imported and cached at first use
    assert peak(6_500) - peak(500) < 1_000_000


def test_keys_name_what_changes_bytes_and_nothing_else(tiny: model.VideoModel) -> None:
    """The recipe's name, its other seeds, an unused source prompt and unused iterations leave the keys alone."""

    def edit(recipe: RecipeSpec, source: str = "a", target: str = "b", seed: int = 0, strength: float = 1.0) -> Record:
        return edit_spec(
            "0" * 64, recipe, OutputSpec(), source, Asked(target_prompt=target, seed=seed, strength=strength)
        )

    base, by_source = RecipeSpec(start="noised"), RecipeSpec(start="noised", reference_prompt="source")
    assert edit(base) == edit(RecipeSpec(start="noised", name="mine", seeds=[0, 3], strengths=[1, 2]), source="other")
    assert edit(by_source) != edit(by_source, source="other")
    others = [edit(base, target="c"), edit(base, seed=1), edit(base, strength=2.0), edit(RecipeSpec()), edit(by_source)]
    assert all(edit(base) != other for other in others)

    def inverted(prompt: str = "p", **fields: Any) -> Record:
        return trajectory_spec("0" * 64, InversionSpec(**fields), tiny, prompt)

    assert inverted(method="ddim", iterations=2) == inverted(method="ddim", iterations=5)
    assert inverted(method="fixed_point", first_iterations=2) == inverted(method="fixed_point", first_iterations=5)
    assert inverted(iterations=2) != inverted(iterations=5)
    assert inverted(first_iterations=2) != inverted(first_iterations=5)
    assert inverted() != inverted("q") and inverted(steps=10) != inverted(steps=20)
    assert inverted() == inverted(container="zarr") and inverted() != inverted(dtype="float32")

    def kept(**fields: Any) -> list[int] | None:
        return levels_kept(InversionSpec(steps=10, **fields), RecipeSpec(start_at=0.0, reference_end=0.3), 2)

    assert kept(save_steps="window") == [8, 9, 10] and kept() is None
    assert kept(save_steps="window", method="none") is None  # nothing but the clean state is stored there
    windows = [trajectory_spec("0" * 64, InversionSpec(), tiny, "p", levels) for levels in ([9, 10], [10], None)]
    assert len({fingerprint(spec) for spec in windows}) == 3


def test_the_way_to_latents_is_named_by_what_matters(tiny: model.VideoModel) -> None:
    """Content, window and fit name the frames; the quality of the source video names that video, not the latents."""

    def frames(content: str = "c", index: int = 0, **fields: Any) -> Record:
        return frames_spec(DatasetSpec(**fields), tiny, content, index)

    others = [frames("d"), frames(index=1), frames(fit="pad"), frames(frames=17), frames(window="middle")]
    assert all(frames() != other for other in others)
    assert frames() == frames(window="all", max_seconds=1)
    small, large = OutputSpec(crf=30), OutputSpec(crf=5)
    assert source_spec(frames(), small) != source_spec(frames(), large)
    assert latents_spec(frames(), tiny) != latents_spec(frames("d"), tiny)


def edits(prompts: str) -> list[Edit]:
    return planned_edits("0" * 64, RecipeSpec(), OutputSpec(), "", [Prompt(text) for text in prompts])


def done(batch: list[Edit], count: int) -> dict[str, list[str]]:
    """What the ledger says of a batch of which the first `count` are committed."""
    return {edit["edit_key"]: [other["edit_key"] for other in batch] for edit in batch[:count]}


def test_pending_batches() -> None:
    """Nothing done: as planned. Whole batches stay. A broken batch comes back whole. New prompts come alone."""
    six = edits("abcdef")
    assert pending_batches(six, {}, 4) == [six[:4], six[4:]]
    assert pending_batches(six, done(six[:4], 4), 4) == [six[4:]]
    assert pending_batches(six, done(six[:4], 1), 4) == [six[:4], six[4:]]
    assert pending_batches(six, done(six[:4], 4) | done(six[4:], 2), 4) == []
    assert pending_batches(six, done(six[:4], 4) | done(six[4:], 1), 4) == [six[4:]]
    assert pending_batches(edits("abXcd"), done(edits("abcd"), 4), 4) == [edits("X")]
    assert pending_batches(edits("ab"), done(edits("abcd"), 2), 4) == []


def pending(keys: str, batch_of: dict[str, str], size: int) -> list[str]:
    """`pending_batches` of edits that are named by one letter each."""
    named = [Edit(edit_key=key, target_prompt=key, seed=0) for key in keys]
    return ["".join(edit["edit_key"] for edit in batch) for batch in pending_batches(named, batch_of, size)]


def test_a_split_batch_is_resumed_in_its_parts() -> None:
    """abcd was cut into ab and cd; d is missing: cd is redone, whatever abcd was recorded for a and b before."""
    assert pending("abcdef", {"a": "abcd", "b": "abcd", "c": "cd"}, 4) == ["cd", "ef"]


@given(
    keys=st.permutations("abcdefgh"),
    cuts=st.lists(st.integers(1, 4), min_size=8, max_size=8),
    kept=st.sets(st.sampled_from("abcdefgh")),
    size=st.integers(1, 9),
)
def test_every_missing_edit_is_computed_once(keys: list[str], cuts: list[int], kept: set[str], size: int) -> None:
    """Whatever sizes the batches had before: each missing edit once, in its old batch where that fits; a committed
    edit only beside a missing one of its own batch; never more than `size` at a time."""
    planned, batches, left = "".join(keys), [], "".join(keys)
    while left:
        batches.append(left[: cuts[len(batches)]])
        left = left[cuts[len(batches) - 1] :]
    batch_of = {key: batch for batch in batches for key in batch if key in kept}
    found = pending(planned, batch_of, size)
    assert sorted(key for batch in found for key in batch if key not in kept) == sorted(set(planned) - kept)
    assert all(len(batch) <= size and not kept.issuperset(batch) for batch in found)
    for batch in batches:
        if kept.intersection(batch) and not kept.issuperset(batch) and len(batch) <= size:
            assert batch in found
    assert all(set(batch) <= set(batch_of[key]) for batch in found for key in batch if key in kept)


def test_an_output_inside_the_source_folder_is_refused(tmp_path: Path) -> None:
    """A second run would edit what the first one made; beside the folder, or from a manifest in it, all is well."""
    (tmp_path / "clips").mkdir()
    inside = OutputSpec(root=str(tmp_path / "clips" / "out"))
    with pytest.raises(BadSpec, match=r"^field output.root: .* inside the source folder"):
        places.check_places(DatasetSpec(source=str(tmp_path / "clips")), inside)
    places.check_places(DatasetSpec(source=str(tmp_path / "clips")), OutputSpec(root=str(tmp_path / "clips-out")))
    places.check_places(DatasetSpec(source=str(tmp_path / "clips" / "m.jsonl")), inside)


@pytest.mark.parametrize("root", ["ftp://host/out", "simplecache::s3://bucket/out", "local://out"])
def test_outputs_that_could_not_be_collected_are_refused_first(root: str) -> None:
    """A store that the last step would refuse is refused before the first."""
    with pytest.raises(EditError, match="not allowed"):
        places.check_places(DatasetSpec(), OutputSpec(root=root))


def test_inversion_needs_no_target_prompts(tiny: model.VideoModel, manifest: Callable[..., Path]) -> None:
    """A row without a target prompt is a failure of an edit run and a good clip of an inversion run."""
    spec = DatasetSpec(source=str(manifest(("a.mp4", []), ("b.mp4", ["x"]))))
    assert [is_failure(record) for record in plan.planned_clips(spec, tiny)] == [True, False]
    records = list(plan.planned_clips(spec, tiny, need_targets=False))
    assert [record["target_prompts"] for record in records] == [[], ["x"]]
