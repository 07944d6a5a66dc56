"""What rows of a manifest ask for, from the plan to the edits: settings of their own, parts, what stays as it was."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from cogvideo_core.dataset import tables as dataset_tables
from cogvideo_core.inputs import sources
from cogvideo_core.judging import policy
from cogvideo_core.media import video
from cogvideo_core.models import model
from cogvideo_core.planning import estimate, tables
from cogvideo_core.settings.overrides import overridden, override_text
from cogvideo_core.settings.specs import DatasetSpec, EngineSpec, InversionSpec, ModelSpec, OutputSpec, RecipeSpec
from cogvideo_core.shapes import world
from cogvideo_core.stages import edit as edit_stages
from cogvideo_core.stages import prompts as prompt_stages
from cogvideo_core.stages import trajectory
from cogvideo_core.stages.encode import encode_clip
from cogvideo_core.stages.failures import attempt, is_failure
from cogvideo_core.stages.units import Readers, levels_kept
from cogvideo_core.stages.wishes import Prompt, asked_of, edits_by_recipe, fitting, recipes_of
from cogvideo_core.stages.work import Work
from cogvideo_core.storage.ledger import Ledger
from cogvideo_core.storage.trajectories import open_trajectory
from flows import waves
from tasks import work as verbs
from tasks.settings import Settings

Record = dict[str, Any]
MakeWork = Callable[..., Work]
INVERSION = InversionSpec(method="ddim", steps=2, gate="off")
RUN = RecipeSpec(start="noised", start_at=0.0, reference_end=0.5, guidance_end=1.0)
SEED = override_text({"seed": 7})
BOLD = override_text({"recipe": "bold", "negative_prompt": "blur"})


@pytest.fixture(scope="module")
def loaded(tiny_pipeline_folder: Path) -> model.VideoModel:
    return model.load(ModelSpec(path=str(tiny_pipeline_folder)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """a.mp4 has 20 frames at 8 a second: one scene in the first 9, another after them."""
    path = tmp_path_factory.mktemp("clips")
    one, two = (world.render(world.scene_from_seed(seed)) for seed in (5, 6))
    video.encode(np.concatenate([one, two, two[:2]]), path / "a.mp4", 8)
    return path


@pytest.fixture
def works(loaded: model.VideoModel, folder: Path, tmp_path: Path) -> MakeWork:
    """works(root, recipe={...}, ...): the settings of a run; equal roots share what is committed."""

    def make(root: str = "run", **groups: Record) -> Work:
        output = OutputSpec(**({"root": str(tmp_path / root)} | groups.get("output", {})))
        return Work(
            DatasetSpec(**({"source": str(folder), "frames": 9} | groups.get("dataset", {}))),
            InversionSpec(**(INVERSION.as_json() | groups.get("inversion", {}))),
            RecipeSpec(**(RUN.as_json() | groups.get("recipe", {}))),
            output,
            EngineSpec(),
            loaded,
            Ledger(output.root),
        )

    return make


def clips(folder: Path, *rows: Record) -> list[Record]:
    """The records of rows about a.mp4."""
    lines = [json.dumps({"clip": "a.mp4", "source_prompt": "a green circle"} | row) for row in rows]
    (folder / "m.jsonl").write_text("\n".join(lines))
    return [dict(record) for record in sources.read_clips(DatasetSpec(source=str(folder / "m.jsonl")))]


def edited(work: Work, record: Record) -> Record:
    return edit_stages.edit_clip(work, trajectory.invert_clip(work, encode_clip(work, record)))


def planned(work: Work, record: Record) -> dict[str, str]:
    """Edit key -> target prompt, as planned; the clip is encoded and not inverted."""
    ready = encode_clip(work, record)
    return {edit["edit_key"]: edit["target_prompt"] for edit in trajectory.plan_edits(work, ready)}


BLUE, RED = "a blue circle", "a red square"
OWN: Sequence[Record] = (
    {"target_prompt": BLUE, "id": 1},
    {"target_prompt": BLUE, "id": 2, "seed": 7},
    {"target_prompt": RED, "id": 3, "recipe": "bold", "negative_prompt": "blur"},
    {"target_prompt": RED, "id": 4, "strength": 2},
)


def test_rows_for_each_edit_and_a_list_of_edits_are_the_same_work(works: MakeWork, folder: Path) -> None:
    """The same keys in the same order, from one inversion, with each edit's own columns and settings in the tables; the
    second form reuses what the first has made."""
    (flat,), (nested,) = clips(folder, *OWN), clips(folder, {"edits": list(OWN)})
    work = works()
    first = edited(work, flat)
    before = work.model.evaluations
    again = edited(work, nested)
    assert [e["edit_key"] for e in again["edits"]] == [e["edit_key"] for e in first["edits"]]
    assert work.model.evaluations == before and all(edit["reused"] for edit in again["edits"])
    assert len(list(work.ledger.units("trajectories"))) == 1 and len(set(planned(work, flat))) == 4
    dataset_tables.collect_run(work.output, work.ledger, [again], {})
    rows = sorted(dataset_tables.read_table(work.output.root, "edits"), key=lambda row: row["id"])
    told = [tuple(row[name] for name in ("id", "recipe", "seed", "strength", "negative_prompt")) for row in rows]
    own = RUN.name
    assert told == [(1, own, 0, 1, ""), (2, own, 7, 1, ""), (3, "bold", 0, 1, "blur"), (4, own, 0, 2, "")]
    assert [row["candidates"] for row in rows] == [2, 2, 2, 2]  # of one prompt


def test_an_override_has_the_key_of_a_run_with_that_setting(works: MakeWork, folder: Path) -> None:
    """And a row without one that of the run as it was; a root that was made without overrides is reused."""
    (plain,), (own,) = clips(folder, {"target_prompts": [BLUE, RED]}), clips(folder, *OWN)
    before = edited(works(), plain)
    keys = {edit["target_prompt"]: edit["edit_key"] for edit in before["edits"]}
    seeded = planned(works(recipe={"seeds": [7]}), plain)
    strong = planned(works(recipe={"strengths": [2.0]}), plain)
    bold = planned(works(recipe=RecipeSpec(preset="bold", negative_prompt="blur").as_json()), plain)
    wanted = [keys[BLUE], *(k for k, p in seeded.items() if p == BLUE), *(k for k, p in bold.items() if p == RED)]
    assert list(planned(works(), own)) == [*wanted, *(k for k, p in strong.items() if p == RED)]
    made = edited(works(), own)
    assert [edit["reused"] for edit in made["edits"]] == [True, False, False, False]
    run = edited(works(recipe={"seeds": [7]}), plain)
    assert [edit["reused"] for edit in run["edits"]] == [True, False]  # the row has made it


def test_what_rows_ask_for_twice_is_made_once() -> None:
    """A row that names the run's own seed asks for the run's edit; the first row's columns stay."""
    prompts = [Prompt("x", "", "one"), Prompt("x", override_text({"seed": 0}), "two"), Prompt("x", SEED, "three")]
    found = asked_of(RUN, prompts)
    assert [(asked["seed"], own) for asked, own in found] == [(0, "one"), (7, "three")]


def test_overrides_narrow_the_runs_candidates() -> None:
    """A seed leaves rivals, strengths and ladder; a recipe takes the place of all; its name may be the run's."""
    run = RecipeSpec(recipes=["balanced", "fast"], ladder=["faithful"], strengths=[1, 2], guidance_scale=9)
    seeded = overridden(run, SEED)
    assert [len(rung) for rung in seeded.rungs] == [4, 2] and {v.seed for rung in seeded.rungs for v in rung} == {7}
    bold = overridden(run, BOLD)
    assert [(v.recipe, v.strength) for v in bold.rungs[0]] == [("bold", 1), ("bold", 2)] and len(bold.rungs) == 1
    assert bold.guidance_scale == RecipeSpec(preset="bold").guidance_scale and bold.negative_prompt == "blur"
    named = overridden(run, override_text({"recipe": "balanced"}))
    assert named.guidance_scale == 9 and len(named.rungs) == 1
    assert overridden(run, "") is run


@pytest.mark.parametrize(
    ("run", "override", "told"),
    [
        ({"seeds": [1, 2], "start": "noised"}, {"recipe": "bold"}, "an edit that starts from inverted noise draws"),
        ({}, {"recipe": "text", "strength": 2.0}, "strengths divide the reference weight, which is 0"),
    ],
)
def test_what_does_not_go_with_the_run_is_refused_when_planned(run: Record, override: Record, told: str) -> None:
    """That edit alone: one sentence, with the clip, the edit and what to change; the clip's other edits go on."""
    record = {
        "clip": "a.mp4",
        "target_prompts": ["x", "y"],
        "overrides": [override_text(override), SEED],
        "own": ["", "o"],
    }
    refused, rest = fitting(RecipeSpec(**run), record)
    assert (
        refused["message"].startswith("clip 'a.mp4': its edit 'x' can't be made with {") and told in refused["message"]
    )
    assert (rest["target_prompts"], rest["overrides"], rest["own"]) == (["y"], [SEED], ["o"])
    alone = record | {"target_prompts": ["x"], "overrides": [override_text(override)], "own": [""]}
    assert [is_failure(found) for found in fitting(RecipeSpec(**run), alone)] == [True]
    assert list(fitting(RecipeSpec(), record | {"overrides": ["", SEED]})) == [record | {"overrides": ["", SEED]}]


def test_a_recipe_may_be_one_that_the_runs_seeds_do_not_go_with(works: MakeWork, folder: Path) -> None:
    """In a run of two seeds, a row with a seed of its own may be edited by a preset that starts from inverted noise."""
    (record,) = clips(folder, {"target_prompt": BLUE}, {"target_prompt": BLUE, "recipe": "balanced", "seed": 0})
    work = works(recipe={"name": "mine", "seeds": [1, 2]})
    assert list(fitting(work.recipe, record)) == [record]
    assert [(e["recipe"], e["seed"]) for e in edited(work, record)["edits"]] == [
        ("mine", 1),
        ("mine", 2),
        ("balanced", 0),
    ]


@pytest.mark.parametrize("keep", [{"steps": 4, "save_steps": "window"}, {"steps": 4}])
def test_the_levels_that_a_rows_recipe_reads_are_kept(works: MakeWork, folder: Path, keep: Record) -> None:
    """On disk where only the window is kept, and in memory where nothing is: no edit lacks a level."""
    inverted = RecipeSpec(start="inverted", reference_end=0.25, start_at=0.0, name="early")
    rows = [{"target_prompt": BLUE}, {"target_prompt": BLUE, "recipe": "seed"}]
    (record,), (plain,) = clips(folder, *rows), clips(folder, rows[0])
    output = {} if len(keep) == 2 else {"output": {"keep_trajectories": "none"}}
    root = {"output": {"root": works().output.root} | output.get("output", {})}
    work = works(recipe=inverted.as_json(), inversion=keep, **root)
    assert len(edited(work, record)["edits"]) == 2
    few, more = (levels_kept(work.inversion, work.recipe, 2, Readers(r["overrides"])) for r in (plain, record))
    if len(keep) == 2:
        assert few and more and set(few) < set(more)
        (commit,) = work.ledger.units("trajectories")
        assert list(open_trajectory(work.ledger, commit).levels) == more
        alone = clips(folder, rows[1])[0]  # has the key of a run with that recipe
        run = works(recipe=RecipeSpec(preset="seed").as_json(), inversion=keep)
        assert set(planned(work, alone)) == set(planned(run, plain))


def test_only_rows_without_a_recipe_climb(works: MakeWork, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a prompt whose edits are all rejected, the row with a recipe of its own stays as it is; the one with a seed
    climbs with that seed."""
    rejected = SimpleNamespace(verdict="rejected")
    monkeypatch.setattr(policy, "decide", lambda *_: rejected)
    monkeypatch.setattr(edit_stages, "judge_stored", lambda *_: 0)
    (record,) = clips(folder, {"target_prompt": BLUE, "seed": 7}, {"target_prompt": RED, "recipe": "bold"})
    work = works(recipe={"ladder": ["fast"]})
    found = [(e["target_prompt"], e["recipe"], e["seed"]) for e in edited(work, record)["edits"]]
    assert found == [(BLUE, RUN.name, 7), (RED, "bold", 0), (BLUE, "fast", 7)]


def planned_rows(tmp_path: Path, folder: Path, rows: Sequence[Record], recipe: RecipeSpec) -> tuple[Any, list[Record]]:
    found = tables.write_plan(str(tmp_path), iter(clips(folder, *rows)), recipe, EngineSpec())
    return found, pq.read_table(tmp_path / "plan/edits.parquet").to_pylist()


def test_the_plan_lists_the_edits_of_rows(tmp_path: Path, folder: Path) -> None:
    """Each edit with its settings, counted by recipe; the plan is read back as it was; both ways of listing agree."""
    recipe = RecipeSpec(recipes=["balanced", "fast"], strengths=[1, 2])
    told, edits = planned_rows(tmp_path, folder, OWN, recipe)
    assert told["edits"] == len(edits) == 12 and told["recipes"] == {"balanced": 5, "fast": 5, "bold": 2}
    names = ("target_prompt", "recipe", "seed", "strength", "negative_prompt")
    assert [tuple(row[name] for name in names) for row in edits[-4:-2]] == [(RED, "bold", 0, s, "blur") for s in (1, 2)]
    ((record,),) = tables.read_batches(str(tmp_path))
    assert record["overrides"][:3] == ["", SEED, BOLD]
    assert edits_by_recipe(recipe, record).total() == len(edits) and tables.read_planned(str(tmp_path)) == told
    planned_rows(tmp_path, folder, [{"target_prompts": [BLUE, RED]}], recipe)
    sheet = pq.read_table(tmp_path / "plan/clips.parquet")
    assert tables.edits_of(sheet, recipe).equals(tables._overridden_edits(sheet, recipe))


def test_a_plan_without_overrides_and_parts_has_its_hash_of_before(tmp_path: Path, folder: Path) -> None:
    """Records as earlier versions wrote them, and those with empty new fields, are one plan; given ones are another."""
    (new,) = clips(folder, {"target_prompts": [BLUE]})
    old = {name: value for name, value in new.items() if name not in tables.LATER}
    others = [new | {"overrides": [SEED]}, new | {"start_s": 1.0}, new | {"end_s": 1.0}]
    plans = [
        tables.write_plan(str(tmp_path), iter([dict(record)]), RUN, EngineSpec()) for record in (old, new, *others)
    ]
    assert plans[0] == plans[1] and "recipes" not in plans[0] and len({found["plan"] for found in plans}) == 4


def test_an_older_plan_is_read(tmp_path: Path, folder: Path) -> None:
    """One whose table lacks the new columns: its clips are edited as the run says."""
    planned_rows(tmp_path, folder, [{"target_prompts": [BLUE]}], RUN)
    path = tmp_path / "plan/clips.parquet"
    pq.write_table(pq.read_table(path).drop_columns(list(tables.LATER)), path)
    ((record,),) = tables.read_batches(str(tmp_path))
    assert recipes_of(RUN, record.get("overrides")) == RUN.candidates and edits_by_recipe(RUN, record).total() == 1


def test_recipes_of_rows_cost_their_own(loaded: model.VideoModel) -> None:
    """An estimate counts the edits by the recipes that the rows name."""
    measured = estimate.Measured(0.1, 0.1, 9, 4, 0.0, 0.0)
    plan = tables.Planned(clips=1, edits=4, refused=0, batches=1, waves=1, plan="")
    args = (measured, loaded, loaded.shape, INVERSION)
    by_row = estimate.estimate(plan | {"recipes": {"seed": 4}}, *args, RecipeSpec())  # type: ignore[typeddict-item]
    assert by_row.edit_s == estimate.estimate(plan, *args, RecipeSpec(preset="seed")).edit_s
    assert by_row.edit_s != estimate.estimate(plan, *args, RecipeSpec()).edit_s


def test_a_run_plans_and_embeds_what_rows_name(
    works: MakeWork, folder: Path, tiny_pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A row that does not go with the run is refused and the rest planned; negative prompts of rows are embedded before
    the edits, and the source prompt where a row's recipe reads it."""
    work = works()
    rows = [*OWN, {"target_prompt": RED, "recipe": "text", "strength": 2}]
    clips(folder, *rows)
    settings = Settings(
        dataset=DatasetSpec(source=str(folder / "m.jsonl"), frames=9),
        model=ModelSpec(path=str(tiny_pipeline_folder)),
        inversion=INVERSION.model_copy(update={"prompt": "empty"}),
        recipe=work.recipe,
        output=work.output,
        engine=EngineSpec(),
    )
    monkeypatch.setattr(verbs, "get_run_logger", lambda: SimpleNamespace(info=lambda *_: 0, warning=lambda *_: 0))
    told = verbs.discover_clips.fn(settings)
    assert (told["clips"], told["edits"], told["refused"]) == (1, 4, 1) and waves._size(settings, 0) == (1, 4)
    (refused,) = tables.read_refused(work.output.root)
    assert "can't be made with" in refused["message"]
    wanted: list[str] = []
    monkeypatch.setattr(prompt_stages, "embed_missing", lambda model, ledger, prompts, verify: wanted.extend(prompts))
    verbs.embed_prompts.fn(settings, 0)
    assert set(wanted) == {"", BLUE, RED, "blur"}


def test_parts_are_edited_each_for_itself(works: MakeWork, folder: Path) -> None:
    """Two parts of a clip give two sources of their own frames, keys and sections; without a part all is as before."""
    parts = [{"start": 0, "end": 1.125}, {"start": "00:00:01.125"}]
    whole, second = clips(folder, {"target_prompt": BLUE}), clips(folder, *({"target_prompt": BLUE} | p for p in parts))
    work = works()
    made = [edited(work, record) for record in [*whole, *second]]
    assert len({record["latents_key"] for record in made}) == 3
    frames = [source_of(work, record) for record in made]
    assert np.array_equal(frames[0], frames[1]) and abs(frames[1].astype(int) - frames[2]).mean() > 5
    counts = dataset_tables.collect_run(work.output, work.ledger, made, {})
    assert (counts["edits"], counts["clips"]) == (3, 3)
    rows = dataset_tables.read_table(work.output.root, "edits")
    assert [(row["start_s"], row["end_s"], row["candidates"]) for row in rows] == [
        (0, 0, 1),
        (0, 1.125, 1),
        (1.125, 0, 1),
    ]
    assert "a.mp4, 1.125-end s" in Path(work.output.root, "index.html").read_text()


def source_of(work: Work, record: Record) -> np.ndarray:
    commit = work.ledger.find("sources", record["source_key"])
    assert commit is not None
    path, limits = Path(work.ledger.open_url(commit, "source.mp4")[1]), video.Limits.of(work.dataset)
    found = video.probe(path, "source", limits)
    return video.decode(path, "source", found, video.Window(0, 0.0, 9), video.View(48, 48, 8), limits)


@pytest.mark.parametrize(
    ("part", "told"),
    [
        ({"start": 9}, "its start 9 s is beyond the clip's end at 2.500 s; correct start, or remove the row"),
        ({"end": 3}, "its end 3 s is beyond the clip's end at 2.500 s; correct end, or remove the row"),
        (
            {"start": 1, "end": 2},
            "from start 1 s to end 2 s there are fewer than the 1.125 s that 9 frames at 8 fps need",
        ),
    ],
)
def test_a_part_that_the_clip_does_not_have_is_one_sentence(
    works: MakeWork, folder: Path, part: Record, told: str
) -> None:
    """Found when the clip is opened, with the field and the remedy."""
    (record,) = clips(folder, {"target_prompt": BLUE} | part)
    failed = attempt(lambda r: encode_clip(works(), r), record, "encode")
    assert is_failure(failed) and failed["message"].startswith("clip 'a.mp4': ") and told in failed["message"]
