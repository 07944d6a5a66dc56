"""A study as a whole: on a model folder and clips of one's own, resumed, and what it says of its findings."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from cogvideo_core.errors import BadManifest
from cogvideo_core.models import model
from cogvideo_core.settings.specs import DatasetSpec, ModelSpec
from cogvideo_core.shapes import build, world
from cogvideo_core.shapes.make import make_clips
from cogvideo_core.study import bench as benches
from cogvideo_core.study import causes, clips, combined, findings, published, run
from cogvideo_core.study import inversion as study
from flows.cli.main import app

FEW = ("ddim", "ddim_null", "fixed_point_5", "multistep_15", "multistep_30_3")


@pytest.fixture(scope="module")
def tiny() -> model.VideoModel:
    return model.VideoModel(build.build_pipeline("5b"), ModelSpec(device="cpu"))


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips of the shapes world with captions; the manifest that lists them."""
    folder = tmp_path_factory.mktemp("clips")
    make_clips(folder, 2, 1, 0)
    return folder / "manifest.jsonl"


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the inverters that other rows and findings read."""
    monkeypatch.setattr(study, "INVERTERS", {name: study.INVERTERS[name] for name in FEW})


def test_the_command_takes_a_folder_and_own_clips(
    tiny_pipeline_folder: Path, own: Path, tmp_path: Path, few: None
) -> None:
    """It writes the JSON, begins a page with every table, and prints whether each finding holds."""
    page, file = tmp_path / "mine.md", tmp_path / "mine.json"
    words = ["study", "inversion", "--model", str(tiny_pipeline_folder), "--clips", str(own), "--json", str(file)]
    words += ["--page", str(page), "--steps", "4", "--set", "model.device=cpu"]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.output
    found, text = json.loads(file.read_text("utf-8")), page.read_text("utf-8")
    assert found["clips"] == 2 and found["steps"] == 4 and len(found["data"]) == 64
    assert len(found["findings"]) == len(findings.FINDINGS) and found["findings"][0]["claim"] in result.output
    assert f"Model `{tiny_pipeline_folder}`, 2 clips, 4 steps" in text and "<!-- published -->\n| start" in text

    said: list[str] = []
    again = run.inversion_study(
        run.Wanted(
            ModelSpec(path=str(tiny_pipeline_folder), device="cpu"),
            2,
            file,
            dataset=DatasetSpec(source=str(own)),
            steps=4,
            resume=True,
        ),
        said.append,
    )
    assert said == [] and again == found  # everything was kept


def test_own_clips_are_what_a_run_would_see(tiny: model.VideoModel, own: Path) -> None:
    """Captions and frames of the first window, uint8 of the model's shape, near the scenes they were made of."""
    bench = clips.own_bench(tiny, DatasetSpec(source=str(own)), 5, steps=4)
    shape = tiny.shape
    assert bench.frames.shape == (2, shape.frames, shape.height, shape.width, 3) and bench.frames.dtype == np.uint8
    scene = next(world.bench_edits(2, seed=600_000, pool=world.combinations())).scene
    captions = [json.loads(line)["source_prompt"] for line in own.read_text("utf-8").splitlines()]
    assert torch.allclose(bench.source, tiny.embed(captions))
    off = np.abs(bench.frames[0].astype(float) - world.render(scene).astype(float)).mean()
    assert off < 6  # of 255: what H.264 costs


def test_a_clip_without_caption_or_a_single_clip_is_refused(tiny: model.VideoModel, own: Path, tmp_path: Path) -> None:
    """The sentence names the clip, the field and the remedy; intervals need two clips."""
    rows = [json.loads(line) for line in own.read_text("utf-8").splitlines()]
    for name, kept in (("none.jsonl", [row | {"source_prompt": ""} for row in rows]), ("one.jsonl", rows[:1])):
        (own.parent / name).write_text("\n".join(map(json.dumps, kept)), "utf-8")
    with pytest.raises(BadManifest, match=r"field source_prompt: .*write-manifest"):
        clips.own_bench(tiny, DatasetSpec(source=str(own.parent / "none.jsonl")), 2)
    with pytest.raises(BadManifest, match="two or more"):
        clips.own_bench(tiny, DatasetSpec(source=str(own.parent / "one.jsonl")), 2)


def test_rows_one_at_a_time_are_rows_at_once(tiny: model.VideoModel) -> None:
    """The same velocities to 1e-5, whatever goes through the transformer together."""
    bench = benches.held_out(tiny, 2, steps=4)
    single = benches.bench_of(tiny, bench.frames, [""] * 2, 4)
    assert bench.calls() == [slice(0, 2)] and single.calls() == [slice(0, 1), slice(1, 2)]
    alone, together = (b.velocity(bench.x_0, 500, bench.source) for b in (single, bench))
    assert torch.allclose(alone, together, atol=1e-5)
    assert torch.equal(bench.first(1).x_0, bench.x_0[:1]) and len(bench.first(1).frames) == 1


def test_an_image_to_video_model_gets_each_clips_own_first_frame() -> None:
    """Row by row the velocity is that of `one_row` with the image of that clip; diffusers' own loop has no row."""
    i2v = model.VideoModel(build.build_pipeline("5b-i2v"), ModelSpec(device="cpu"))
    frames = np.stack([world.render(world.scene_from_seed(seed)) for seed in (0, 1)])
    bench = benches.bench_of(i2v, frames, ["a", "b"], 4, rows=2)
    found = bench.rows()(bench.x_0, 500)
    for row in range(2):
        image = i2v.encode_image(frames[row][0])
        assert torch.allclose(found[row], i2v.one_row(bench.source[row : row + 1], image)(bench.x_0[row], 500))
    assert not torch.allclose(
        found[1], i2v.one_row(bench.source[1:], i2v.encode_image(frames[0][0]))(bench.x_0[1], 500)
    )
    assert not any("diffusers" in name for name in study.planned(bench, study.Kept(bench)))


def test_combinations_begin_with_the_plain_rows(tiny: model.VideoModel, few: None) -> None:
    """Without a mismatch both inverters are those of the table; each single mismatch of the solved one is its cause."""
    bench = benches.held_out(tiny, 2, steps=5)
    kept, rows = study.Kept(bench), combined.combined(bench, lambda line: None)
    assert [row["what"].count(";") for row in rows] == [0, 0, 0, 0, 2] and rows[0]["what"] == "none of them"
    alone = {row["cause"]: row["recon_db"] for row in causes.causes(bench, kept)}
    by_name = {row["what"]: row for row in rows}
    assert rows[0]["ddim"] == alone["departure velocity"] and rows[0]["solved"] == alone["none"]
    assert by_name["guidance 6 down"]["solved"] == alone["guidance mismatch"]
    assert by_name['"" up, source prompt down']["solved"] == alone["prompt mismatch, reversed"]
    assert rows[0]["gain"] == pytest.approx(rows[0]["solved"] - rows[0]["ddim"], abs=0.02)


def test_the_published_protocol_starts_where_theirs_does(tiny: model.VideoModel) -> None:
    """Strength 0.95 of 50 steps is level 47; order 1 is the encoded video noised with the inverted noise."""
    bench = benches.held_out(tiny, 1, steps=50)
    short = bench.on(tiny.schedule(10))
    found = published.starts(short)
    assert [level for _, level in found.values()] == [10, 9, 9, 9, 9, 9] and int(50 * published.STRENGTH) == 47
    x_t, theta = found["DDIM inversion"][0], short.schedule.thetas[9]
    expected = np.cos(theta) * short.x_0 + np.sin(theta) * x_t
    assert torch.allclose(found["encoded video + DDIM inversion"][0], expected)
    assert set(published.THEIRS) - set(found) == {"random noise + cached keys"}
    assert list(published.planned(short))[:7] == [*published.THEIRS, published.ADAPTIVE]


def made(solved: list[float], ddim: list[float], spread: float = 0.0) -> dict[str, Any]:
    """A study of figures alone, in which every row but `multistep_15` is like `ddim`."""
    names = ("ddim", "fixed_point_5", "multistep_30_3", "ddim_rescaled", "ddim_trdi", "ddim_by_error", *findings.ORDERS)
    rows = [{"inverter": name, "by_clip": ddim} for name in names] + [{"inverter": "multistep_15", "by_clip": solved}]
    by_cause = {"rounding to bfloat16": solved, "zero-SNR end left out": ddim}
    all_at_once = {"ddim": ddim, "solved": [value + spread for value in ddim]}
    together = [{"what": "none of them", "by_clip": {"ddim": ddim, "solved": solved}}]
    together += [{"what": "guidance 6 down", "by_clip": all_at_once}, {"what": "all", "by_clip": all_at_once}]
    return {
        "rows": rows,
        "causes": [{"cause": name, "by_clip": values} for name, values in by_cause.items()],
        "combined": together,
    }


def test_findings_follow_from_the_figures() -> None:
    """yes where the interval lies above the bound, no where it lies below, open where it does not decide."""
    better = findings.findings(made([80.0, 81.0, 82.0], [40.0, 41.0, 42.0]))
    assert better[0]["holds"] == "yes" and better[0]["margin_db"] == 40 and better[-1]["holds"] == "yes"
    assert findings.findings(made([30.0, 31.0], [40.0, 41.0]))[0]["holds"] == "no"
    assert findings.findings(made([30.0, 50.0], [40.0, 40.0]))[0]["holds"] == "open"
    assert findings.findings(made([80.0, 81.0], [40.0, 41.0], spread=5.0))[-1]["holds"] == "no"


def test_figures_of_another_study_are_not_kept(tmp_path: Path) -> None:
    """Another model, number of clips, steps or other clips: everything is measured anew."""
    about = {"fingerprint": "f", "clips": 2, "steps": 6, "data": "d"}
    file = tmp_path / "out.json"
    run.write(file, about | {"rows": []})
    assert run.known(file, about) == about | {"rows": []} and run.known(tmp_path / "none.json", about) == {}
    assert all(run.known(file, about | {name: "other"}) == {} for name in about)
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
