"""The command line: help with examples, settings from --set, exit codes for scripts, and what each command does."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from click.testing import Result
from PIL import Image
from typer.testing import CliRunner

from cogvideo_core.dataset.tables import read_table
from cogvideo_core.settings.presets import PRESETS
from cogvideo_core.shapes.make import make_clips
from flows.cli.main import app
from flows.settings import parse_sets, settings_of

Invoke = Callable[..., Result]
COMMANDS = (
    "run",
    "plan",
    "campaign",
    "retry-failed",
    "invert",
    "demo",
    "collect",
    "judge",
    "calibrate",
    "export",
    "screen",
    "write-manifest",
    "inspect",
    "verify",
    "gc",
    "du",
    "shapes make",
    "study inversion",
    *(f"benchmark {name}" for name in ("run", "manifest", "lay-out", "score")),
)
FAST = ("--set", "inversion.steps=4", "--set", "inversion.first_iterations=1")


@pytest.fixture(scope="module")
def invoke() -> Invoke:
    """invoke("run", ...): what the command prints and its exit code; an exception that escapes it fails the test."""

    def call(*arguments: object) -> Result:
        # wide: no sentence is broken into lines; and no variable that a command sets outlives it
        with pytest.MonkeyPatch.context() as patch:
            for name in ("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "HF_HUB_DISABLE_PROGRESS_BARS"):
                patch.setenv(name, "1")
            return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "400"}, catch_exceptions=False)

    return call


@pytest.fixture(scope="module")
def fast(prefect_harness: None, tiny_pipeline_folder: Path) -> tuple[str, ...]:
    """Options that run a flow on the tiny model in seconds."""
    return ("--set", f"model.path={tiny_pipeline_folder}", *FAST)


@pytest.fixture(scope="module")
def demo(invoke: Invoke, fast: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Result]:
    """The root of a finished demo of two clips, to be read only, and what it printed."""
    root = tmp_path_factory.mktemp("demo") / "run"
    return root, invoke("demo", "--output", root, "--clips", 2, *fast)


@pytest.fixture
def copied(demo: tuple[Path, Result], tmp_path: Path) -> Path:
    return Path(shutil.copytree(demo[0], tmp_path / "run"))


def count(output: str, label: str) -> int:
    """A number of the closing table."""
    (line,) = (line for line in output.splitlines() if re.match(rf"│ {label} +│", line))
    return int(line.split("│")[2])


def tree(root: Path, *parts: str) -> dict[str, bytes]:
    files = (
        path for part in parts for path in ([root / part] if (root / part).is_file() else (root / part).rglob("*"))
    )
    return {str(path.relative_to(root)): path.read_bytes() for path in files if path.is_file()}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(invoke: Invoke, command: str) -> None:
    """Each command shows itself in use, on a line of its own."""
    result = invoke(*command.split(), "--help")
    assert result.exit_code == 0
    assert any(line.strip().startswith(f"cogvideo-edit {command} ") for line in result.output.splitlines())


def test_no_command_is_a_page_of_help(invoke: Invoke) -> None:
    """It names all commands, and is an error for scripts."""
    result = invoke()
    assert result.exit_code == 2 and all(command.split()[0] in result.output for command in COMMANDS)


def test_help_does_not_wait_for_the_model() -> None:
    """Importing the command line imports neither torch nor Prefect."""
    heavy = "{'torch', 'prefect', 'diffusers'}"
    code = f"import sys, flows.cli; sys.exit(' '.join({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_sets_are_json_where_they_can_be() -> None:
    """Numbers, lists and booleans by their JSON; all else is text; an = may stand in a value; the last one wins."""
    pairs = [
        "recipe.seeds=[0,1]",
        "output.gallery=false",
        "recipe.negative_prompt=a = b",
        "model.path=x",
        "model.path=y",
    ]
    assert parse_sets(pairs) == {
        "recipe": {"seeds": [0, 1], "negative_prompt": "a = b"},
        "output": {"gallery": False},
        "model": {"path": "y"},
    }


def test_settings_come_from_preset_options_and_sets() -> None:
    """--set wins over a command's own option, and changes one field of the preset only."""
    given = {"output": {"root": "there"}, "dataset": {"source": "in"}}
    settings = settings_of("bold", given, ["recipe.guidance_scale=3", "output.root=here"])
    assert settings["recipe"] == PRESETS["bold"].model_copy(update={"guidance_scale": 3.0})
    assert (settings["output"].root, settings["dataset"].source, settings["engine"].retries) == ("here", "in", 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ("nonsense", ["'nonsense' is not group.field=value", "dataset, model, inversion, recipe, output, engine"]),
        ("recipe.name", ["'recipe.name' is not group.field=value"]),
        ("recipes.name=x", ["'recipes.name=x' is not group.field=value"]),
        ("[/b].x=1", ["'[/b].x=1' is not group.field=value"]),
        ("recipe.reference_start=2", ["recipe", "reference_start", "less than or equal to 1"]),
        ("recipe.nonsense=1", ["recipe", "nonsense"]),
        ("recipe.guidance_scale=NaN", ["recipe", "guidance_scale", "finite"]),
        ("inversion.method=magic", ["inversion", "method", "'fixed_point', 'ddim' or 'none'"]),
        ("dataset.frames=10", ["dataset", "frames must be 8k+1", "use 9"]),
    ],
)
def test_wrong_sets_name_group_and_field(invoke: Invoke, given: str, words: list[str]) -> None:
    """Exit code 2, and a sentence; nothing has started."""
    result = invoke("run", "clips", "--set", given)
    assert result.exit_code == 2
    assert all(word.lower() in result.stderr.lower() for word in words), result.stderr
    with pytest.raises(typer.BadParameter):
        settings_of("balanced", {}, [given])


def test_an_unknown_preset_lists_the_known(invoke: Invoke) -> None:
    """Exit code 2."""
    result = invoke("run", "clips", "--recipe", "tasty")
    assert result.exit_code == 2 and "balanced, faithful, bold, fast, insert, remove, seed, text" in result.stderr


def test_demo(demo: tuple[Path, Result]) -> None:
    """Two clips, four prompts each; the closing table, where things are, and exit code 0."""
    root, result = demo
    assert result.exit_code == 0, result.output
    assert [count(result.stdout, what) for what in ("clips", "failed", "edits made", "edits reused")] == [2, 0, 8, 0]
    assert f"{root}/dataset" in result.stdout and (root / "index.html").is_file()
    assert len((root / "dataset/metadata.jsonl").read_text().splitlines()) == 8


def test_a_second_demo_reuses_everything(invoke: Invoke, fast: tuple[str, ...], demo: tuple[Path, Result]) -> None:
    """It says how many edits, the model is not asked, and no byte of what was made changes."""
    root, parts = demo[0], ("dataset", "edits", "trajectories", "input", "index.html")
    before = tree(root, *parts)
    result = invoke("demo", "--output", root, "--clips", 2, *fast)
    assert result.exit_code == 0
    assert [count(result.stdout, what) for what in ("edits made", "edits reused", "model evaluations")] == [0, 8, 0]
    assert tree(root, *parts) == before


def test_run_and_invert_end_with_their_exit_codes(invoke: Invoke, fast: tuple[str, ...], tmp_path: Path) -> None:
    """0 where all is done, 3 where some clips failed, 1 where too few succeeded; the error names the table."""
    make_clips(tmp_path / "in", 1, prompts=1)
    (tmp_path / "in/bad.mp4").write_bytes(b"no video")
    (tmp_path / "prompts.txt").write_text("a blue circle\n")
    for file in ("manifest.jsonl", "bad.mp4"):
        good = [tmp_path / "in", "--prompts", tmp_path / "prompts.txt", "--output", tmp_path / file, *fast]
        command = "invert" if file == "manifest.jsonl" else "run"
        result = invoke(command, *good)
        assert result.exit_code == 3, result.output
        assert (count(result.stdout, "clips"), count(result.stdout, "failed")) == (2, 1)
    strict = invoke("run", *good, "--set", "engine.min_success_ratio=1")
    assert strict.exit_code == 1
    assert f"{tmp_path / 'bad.mp4'}/tables/errors.parquet" in strict.stderr
    (tmp_path / "in/bad.mp4").unlink()
    assert invoke("run", *good).exit_code == 0


@pytest.mark.parametrize("name", ["none.jsonl", "no [red]such[/red] [/b].jsonl"])
def test_a_source_that_is_not_there(invoke: Invoke, fast: tuple[str, ...], tmp_path: Path, name: str) -> None:
    """Exit code 2 and the sentence as it is, whatever the name would mean to the terminal's markup."""
    result = invoke("run", tmp_path / name, "--output", tmp_path / "run", *fast)
    assert result.exit_code == 2
    assert f"{name}' does not exist; check the path" in result.stderr


def test_a_wrong_model_is_one_sentence(invoke: Invoke, prefect_harness: None, tmp_path: Path) -> None:
    """No traceback; what to give instead."""
    manifest = make_clips(tmp_path / "in", 1)
    result = invoke("run", manifest, "--output", tmp_path / "run", "--model", tmp_path)
    assert result.exit_code == 2 and "has no model_index.json; give a folder in the diffusers layout" in result.stderr


def test_plan_says_what_a_run_will_cost(invoke: Invoke, fast: tuple[str, ...], tmp_path: Path) -> None:
    """Nothing is edited; the plan lies there, probed; the table has the hours; a refused row is exit code 3."""
    manifest = make_clips(tmp_path / "in", 2, prompts=2)
    root = tmp_path / "run"
    result = invoke("plan", manifest, "--output", root, "--probe", *fast)
    assert result.exit_code == 0, result.output
    assert "GPU-hours" in result.output and "inversion step" in result.output
    assert sorted(path.name for path in root.iterdir()) == [
        "plan",
        "screens",
    ]  # what was seen of the opened clips is kept
    (tmp_path / "in" / "text.mp4").write_bytes(b"no video")
    with open(manifest, "a") as rows:
        rows.write(json.dumps({"clip": "text.mp4", "target_prompts": ["x"]}) + "\n")
    result = invoke("plan", manifest, "--output", root, "--probe", "--no-estimate", *fast)
    assert result.exit_code == 3 and "GPU-hours" not in result.output


def test_retry_failed_is_a_command(invoke: Invoke, copied: Path) -> None:
    """With nothing failed it does nothing and ends well; where nothing was run it is one sentence."""
    result = invoke("retry-failed", copied)
    assert result.exit_code == 0 and count(result.output, "clips") == 0
    assert count(result.output, "edits in the dataset") == 8


def test_collect_rebuilds_what_was_deleted(invoke: Invoke, copied: Path) -> None:
    """Dataset, card, tables and gallery: equal bytes, from what is committed."""
    parts = ("dataset", "tables/edits.parquet", "tables/errors.parquet", "index.html")
    before = tree(copied, *parts)
    assert len(before) == 2 + 10 + 2 + 1
    shutil.rmtree(copied / "dataset")
    (copied / "index.html").unlink()
    result = invoke("collect", copied)
    assert result.exit_code == 0 and "8 edits of 2 clips, 0 errors" in result.stdout
    after = tree(copied, *parts)
    assert [name for name in before if before[name] != after.get(name)] == []
    shutil.rmtree(copied / "tables")
    assert invoke("collect", copied).exit_code == 0
    assert tree(copied, *parts) == before


def test_collect_refuses_what_is_no_run(invoke: Invoke, tmp_path: Path) -> None:
    """A mistyped root is not made into an empty dataset."""
    result = invoke("collect", tmp_path / "typo")
    assert result.exit_code == 2 and "typo'; give the root of a run" in result.stderr
    assert not (tmp_path / "typo").exists()
    assert invoke("collect", "ssh://host/x").exit_code == 2


def test_inspect_a_key_and_a_folder(invoke: Invoke, demo: tuple[Path, Result]) -> None:
    """The beginning of a key or the unit's folder: its files with checksums, and what determined it."""
    root = demo[0]
    row = json.loads((root / "dataset/metadata.jsonl").read_text().splitlines()[0])
    key = row["edit_key"]
    by_key = invoke("inspect", key[:12], "--root", root)
    by_folder = invoke("inspect", root / "edits" / key[:2] / key)
    assert by_key.exit_code == by_folder.exit_code == 0
    assert by_key.stdout == by_folder.stdout
    assert f"edits {key}" in by_key.stdout and row["target_prompt"] in by_key.stdout
    assert re.search(r"edit\.mp4  [\d,]+ bytes  sha256 [0-9a-f]{16}  ok", by_key.stdout)
    trajectory = invoke("inspect", row["trajectory_key"], "--root", root)
    assert '"levels": 5' in trajectory.stdout and '"iterations": 1' in trajectory.stdout


def test_inspect_a_damaged_unit(invoke: Invoke, copied: Path) -> None:
    """Exit code 1, the file is named, and nothing on disk has changed."""
    (file, *_) = sorted(copied.glob("edits/*/*/*/edit.mp4"))
    raw = bytearray(file.read_bytes())
    raw[-1] ^= 1
    file.write_bytes(raw)
    before = tree(copied, "edits")
    result = invoke("inspect", file.parents[1])
    assert result.exit_code == 1 and "does not match its sha256" in result.stdout
    assert tree(copied, "edits") == before and not (copied / "quarantine").exists()


def test_inspect_draws_a_strip(
    invoke: Invoke, demo: tuple[Path, Result], tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    """With a model: frames of the latents, and levels of the trajectory from clean to noise, side by side as PNG."""
    row = json.loads((demo[0] / "dataset/metadata.jsonl").read_text().splitlines()[0])
    for name, count in (("latents_key", 6), ("trajectory_key", 5)):
        strip = tmp_path / "new" / f"{name}.png"
        result = invoke("inspect", row[name], "--root", demo[0], "--model", tiny_pipeline_folder, "--strip", strip)
        assert result.exit_code == 0 and str(strip) in result.stdout
        with Image.open(strip) as picture:
            assert picture.format == "PNG" and picture.size == (count * row["width"], row["height"])
    result = invoke("inspect", row["edit_key"], "--root", demo[0], "--model", "any", "--strip", tmp_path / "no.png")
    assert result.exit_code == 2 and "holds no latents" in result.stderr and not (tmp_path / "no.png").exists()


def test_verify_names_what_is_damaged(invoke: Invoke, demo: tuple[Path, Result], copied: Path) -> None:
    """Exit code 0 for a whole tree; 1, with the objects' names, for a flipped shard and a lost collected video."""
    whole = invoke("verify", demo[0])
    assert whole.exit_code == 0 and whole.stdout == f"0 problems under {demo[0]}\n"
    shard, video = sorted(copied.glob("trajectories/*/*/*/*"))[0], sorted(copied.glob("dataset/videos/*"))[0]
    raw = bytearray(shard.read_bytes())
    raw[len(raw) // 2] ^= 4
    shard.write_bytes(raw)
    video.unlink()
    result = invoke("verify", copied)
    names = [str(path.relative_to(copied)) for path in (shard, video)]
    assert result.exit_code == 1 and "2 problems" in result.stderr
    assert result.stdout.splitlines() == [f"{names[0]}: does not match its sha256", f"{names[1]}: is missing"]
    assert invoke("verify", copied, "--how", "size").stdout.splitlines() == [f"{names[1]}: is missing"]
    assert invoke("verify", copied / "typo").exit_code == 2


def test_gc_says_first_and_removes_on_demand(invoke: Invoke, copied: Path) -> None:
    """A dry run changes nothing; --delete removes just what was said; the rest still verifies."""
    before = tree(copied, ".")
    asked = ("gc", copied, "--keep", "none", "--older-than", 0)
    dry = invoke(*asked)
    assert dry.exit_code == 0 and "would go" in dry.stdout and tree(copied, ".") == before
    assert "0 objects" in invoke("gc", copied, "--keep", "none").stdout  # younger than a day
    assert "0 objects" in invoke("gc", copied, "--older-than", 0).stdout  # the run keeps all
    done = invoke(*asked, "--delete")
    assert done.exit_code == 0 and done.stdout.splitlines()[:-1] == dry.stdout.splitlines()[:-1]
    gone = set(before) - set(tree(copied, "."))
    assert gone == {line.partition(": ")[0] for line in dry.stdout.splitlines()[:-1]}
    assert all(name.startswith("trajectories/") for name in gone) and invoke("verify", copied).exit_code == 0


def test_du_adds_up(invoke: Invoke, demo: tuple[Path, Result]) -> None:
    """A line for each stage, and a sum that is the tree's size."""
    result = invoke("du", demo[0])
    total = sum(path.stat().st_size for path in demo[0].rglob("*") if path.is_file())
    assert result.exit_code == 0 and f"{total:,}" in result.stdout
    assert all(stage in result.stdout for stage in ("latents", "trajectories", "edits", "dataset"))


@pytest.mark.parametrize("target", ["0000000000", "abc", "", "edits/[/b]"])
def test_inspect_what_is_not_there(invoke: Invoke, demo: tuple[Path, Result], target: str) -> None:
    """Exit code 1 and a sentence; fewer than four characters match nothing."""
    result = invoke("inspect", target, "--root", demo[0])
    assert result.exit_code == 1 and "nothing committed" in result.stderr and result.stdout == ""


def test_inspect_a_wrong_root(invoke: Invoke) -> None:
    """A sentence and exit code 2, no traceback."""
    result = invoke("inspect", "0123abcd", "--root", "no-such-protocol://x")
    assert result.exit_code == 2 and "give a local path or an fsspec URL" in result.stderr


def test_shapes_make(invoke: Invoke, tmp_path: Path) -> None:
    """So many clips, a manifest with so many prompts each, whose path is printed; again it changes nothing."""
    command = ("shapes", "make", tmp_path / "clips", "--clips", 3, "--prompts", 2)
    result = invoke(*command)
    assert result.exit_code == 0 and result.stdout.strip() == str(tmp_path / "clips/manifest.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "clips/manifest.jsonl").read_text().splitlines()]
    assert sorted(path.name for path in tmp_path.glob("clips/*.mp4")) == sorted(row["clip"] for row in rows)
    assert len(rows) == 3 and all(len(set(row["target_prompts"])) == 2 for row in rows)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.glob("clips/*.mp4")}
    assert invoke(*command).exit_code == 0
    assert {path: path.stat().st_mtime_ns for path in tmp_path.glob("clips/*.mp4")} == times


def test_shapes_make_of_another_seed_is_other_clips(invoke: Invoke, tmp_path: Path) -> None:
    """--seed 2 goes on where three clips from 0 have their last one."""
    for seed, name in ((0, "a"), (2, "b")):
        assert invoke("shapes", "make", tmp_path / name, "--clips", 3, "--seed", seed).exit_code == 0
    first, second = (tree(tmp_path / name, ".") for name in ("a", "b"))
    shared = {name for name in first if name.endswith(".mp4")} & set(second)
    assert len(shared) == 1 and all(first[name] == second[name] for name in shared)


@pytest.mark.parametrize("arguments", [("demo", "--clips", 0), ("shapes", "make", "x", "--prompts", 5), ("run",)])
def test_wrong_arguments(invoke: Invoke, arguments: tuple[object, ...]) -> None:
    """Exit code 2, with what is allowed."""
    assert invoke(*arguments).exit_code == 2


def test_a_run_is_judged_again_and_calibrated(invoke: Invoke, copied: Path, tmp_path: Path) -> None:
    """judge adds verdicts to a run that had none and makes nothing anew; calibrate fits limits to labels, keeps them
    under the root, and says in one sentence what is wrong with a label file."""
    before = tree(copied, "edits")
    result = invoke("judge", copied, "--text", "shapes", "--set", "judge.least_text_similarity=0.99")
    assert result.exit_code == 0, result.output
    rows = read_table(str(copied), "edits")
    assert "0 in the dataset, 8 rejected" in result.output and tree(copied, "edits") == before
    assert {row["verdict"] for row in rows} == {"rejected"}
    assert all("text similarity" in row["rejected_because"] for row in rows)
    assert invoke("judge", copied, "--preset", "off").exit_code == 0
    assert {row["verdict"] for row in read_table(str(copied), "edits")} == {"unjudged"}

    gone = invoke("judge", copied, "--text", "shapes", "--set", f"judge.calibration={tmp_path / 'gone.json'}")
    assert gone.exit_code == 2 and "field judge.calibration" in gone.stderr
    labels = tmp_path / "labels.csv"
    labels.write_text("edit_key,label\nnothing,accept\n")
    unknown = invoke("calibrate", copied, "--labels", labels)
    assert unknown.exit_code == 2 and "'nothing' is no edit of" in unknown.stderr
    labels.write_text("edit_key,label\n" + "".join(f"{row['edit_key']},accept\n" for row in rows))
    few = invoke("calibrate", copied, "--labels", labels)
    assert few.exit_code == 2 and "8 accepted and 0 rejected" in few.stderr
    labels.write_text("edit_key,label\nx,perhaps\n")
    word = invoke("calibrate", copied, "--labels", labels)
    assert word.exit_code == 2 and "row 1" in word.stderr and "'perhaps'" in word.stderr
