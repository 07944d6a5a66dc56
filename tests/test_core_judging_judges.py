"""The judges: the shapes CLIP against rendered scenes, other model families, refusals, structure and motion."""

import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers

from cogvideo_core.errors import ModelError
from cogvideo_core.judging import folders, motion
from cogvideo_core.judging.judges import Judges, Wish
from cogvideo_core.judging.text import TextJudge
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.shapes import world

SHAPES = folders.judge_folder("text", "shapes", folders.TEXT_KINDS)
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def judges() -> Judges:
    return Judges(JudgeSpec(text="shapes"))


def edits(count: int) -> list[world.BenchEdit]:
    """Colour, shape and background edits of held-out scenes that no training saw."""
    found = world.bench_edits(count, seed=830_000)
    return [edit for edit in found if edit.kind in ("colour", "shape", "background")]


def test_the_shapes_judge_knows_an_edit_from_none(judges: Judges) -> None:
    """On scenes drawn as the prompt says, it prefers the target prompt and sees each word; on the unchanged source it
    prefers the source prompt."""
    right = []
    for edit in edits(10):
        source, wish = world.render(edit.scene), Wish(edit.source_prompt, edit.target_prompt)
        done, left = judges.scores(source, [world.render(edit.wanted), source], [wish, wish])
        right += [done["text_choice"] > 0.8, done["text_contrast"] > 0.5, left["text_choice"] < 0.2]
        assert done["text_gain"] > left["text_gain"] and left["image_similarity"] > 0.999
    assert np.mean(right) >= 0.95


def test_scores_are_the_same_alone_and_together(judges: Judges) -> None:
    """The same numbers twice, and in another company."""
    edit = edits(1)[0]
    source, done = world.render(edit.scene), world.render(edit.wanted)
    wish = Wish(edit.source_prompt, edit.target_prompt)
    alone = judges.scores(source, [done], [wish])
    assert alone == judges.scores(source, [done], [wish]) == judges.scores(source, [source, done], [wish, wish])[1:]


def test_threads_do_not_mix_up_their_sources(judges: Judges) -> None:
    """Edits of two clips that are judged at once, one after the other of each, get the scores that they get alone."""
    clips = [(world.render(edit.scene), world.render(edit.wanted), edit) for edit in edits(2)[::3]]

    def scored(clip: tuple[np.ndarray, np.ndarray, world.BenchEdit]) -> list[object]:
        source, done, edit = clip
        wish = Wish(edit.source_prompt, edit.target_prompt)
        return [judges.scores(source, [done], [wish]) for _ in range(6)]

    alone = [scored(clip) for clip in clips]
    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(scored, clips)) == alone


def test_without_a_source_prompt_there_is_no_gain(judges: Judges) -> None:
    """Scores that compare two prompts are left out where there is one, or twice the same."""
    frames = world.render(world.scene_from_seed(1))
    for wish in (Wish("", "a red circle"), Wish("a red circle", "a red circle")):
        (found,) = judges.scores(frames, [frames], [wish])
        assert "text_similarity" in found and not {"text_gain", "text_choice", "text_direction"} & found.keys()


def saved(folder: Path, model: transformers.PreTrainedModel) -> Path:
    """A folder of this model with the shapes judge's tokenizer and preprocessor."""
    model.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "preprocessor_config.json"):
        shutil.copy(SHAPES / name, folder / name)
    return folder


SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
TEXT = SMALL | {"vocab_size": 600, "max_position_embeddings": 24}
VISION = SMALL | {"image_size": 48, "patch_size": 12}


def siglip() -> transformers.PreTrainedModel:
    return transformers.SiglipModel(transformers.SiglipConfig(text_config=TEXT, vision_config=VISION))


def xclip() -> transformers.PreTrainedModel:
    video = VISION | {"num_frames": 4, "mit_hidden_size": 32, "mit_intermediate_size": 64, "mit_num_attention_heads": 2}
    return transformers.XCLIPModel(transformers.XCLIPConfig(text_config=TEXT, vision_config=video, projection_dim=32))


@pytest.mark.parametrize("make", [siglip, xclip])
def test_other_families_judge(make: object, tmp_path: Path) -> None:
    """A SigLIP and an X-CLIP folder load and give cosines; X-CLIP sees the clip as a whole."""
    folder = saved(tmp_path / "model", make())  # type: ignore[operator]
    judge = TextJudge(folders.judge_folder("text", str(folder), folders.TEXT_KINDS), CPU)
    frames = judge.embed_frames(world.render(world.scene_from_seed(1)))
    assert len(frames) == (1 if make is xclip else world.FRAMES)
    found = judge.scores(frames, frames, "a red circle", "a blue square")
    assert all(-1.001 <= value <= 1.001 for value in found.values()) and "text_choice" in found


def test_structure_by_a_dinov2(tmp_path: Path) -> None:
    """1 for the same frames, less for others."""
    config = transformers.Dinov2Config(image_size=48, patch_size=12, hidden_size=32, num_hidden_layers=2)
    config.num_attention_heads = 2
    folder = saved(tmp_path / "dino", transformers.Dinov2Model(config))
    judges = Judges(JudgeSpec(text="none", structure=str(folder)))
    one, other = (world.render(world.scene_from_seed(seed)) for seed in (1, 2))
    same, apart = judges.scores(one, [one, other], [Wish("", "a"), Wish("", "a")])
    assert same["structure"] == pytest.approx(1, abs=1e-4) and apart["structure"] < 0.999


def broken(folder: Path, how: str) -> None:
    if how == "type":
        (folder / "config.json").write_text(json.dumps({"model_type": "bert"}))
    elif how == "pickled":
        (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    elif how == "cut":
        (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:50_000])
    elif how == "pointer":
        (folder / "model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    elif how == "contrasts":
        (folder / "contrasts.json").write_text('{"red": "green"}')
    elif how == "gone":
        shutil.rmtree(folder)
    else:
        (folder / how).unlink()


@pytest.mark.parametrize(
    ("how", "told"),
    [
        ("type", "is a 'bert'"),
        ("pickled", "only pickled weights"),
        ("cut", "is cut off"),
        ("pointer", "git-LFS pointer"),
        ("gone", "is no folder and no hub id"),
        ("config.json", "is missing"),
        ("model.safetensors", "holds no weights"),
        ("tokenizer.json", "judge.text"),
        ("preprocessor_config.json", "can't be loaded"),
        ("contrasts", "red / green / blue"),
    ],
)
def test_a_judge_that_cannot_be_used_is_refused(how: str, told: str, tmp_path: Path) -> None:
    """One sentence that names judge.text and the folder."""
    folder = tmp_path / "judge"
    shutil.copytree(SHAPES, folder)
    broken(folder, how)
    with pytest.raises(ModelError, match=r"field judge\.text") as raised:
        Judges(JudgeSpec(text=str(folder)))
    assert told in str(raised.value) and "judge" in str(raised.value)


def test_a_fingerprint_is_of_what_is_measured(tmp_path: Path) -> None:
    """Limits leave it alone; the model's bytes, the frames and the contrasts do not."""
    folder = tmp_path / "judge"
    shutil.copytree(SHAPES, folder)
    spec = JudgeSpec(text=str(folder))
    base = folders.judge_fingerprint(spec)
    assert base == folders.judge_fingerprint(spec.model_copy(update={"least_confidence": 0.9, "keep": "all"}))
    assert base == folders.judge_fingerprint(JudgeSpec(text="shapes"))
    for other in ({"frames": 3}, {"contrasts": ["a / b"]}, {"motion": False}):
        assert folders.judge_fingerprint(spec.model_copy(update=other)) != base
    (folder / "calibration.json").write_text("{}")  # decides, and measures nothing
    assert folders.judge_fingerprint(spec) == base
    (folder / "tokenizer_config.json").write_text("{}")
    assert folders.judge_fingerprint(spec) != base


def moving(step: int) -> np.ndarray:
    """A texture that moves `step` pixels a frame to the right: uint8 [6,64,64,3]."""
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 255, (16, 32)), np.ones((4, 4))).astype(np.uint8)
    frames = [np.roll(wide, i * step, 1)[:, 32:96] for i in range(6)]
    return np.repeat(np.stack(frames)[..., None], 3, axis=-1)


def test_motion_agrees_with_itself_and_not_with_its_opposite() -> None:
    """1 for the same motion, next to 0 for the opposite, none where nothing moves."""
    assert motion.motion_scores(moving(2), moving(2))["motion_agreement"] == pytest.approx(1)
    assert motion.motion_scores(moving(2), moving(-2))["motion_agreement"] < 0.2
    assert motion.motion_scores(moving(2), moving(0))["motion_agreement"] < 0.2
    assert set(motion.motion_scores(moving(0), moving(0))) == {"warp_error"}
    assert motion.motion_scores(moving(2)[:1], moving(2)[:1]) == {}


def test_warping_finds_flicker() -> None:
    """A clip whose frames change at random cannot be warped into itself; one that moves can."""
    noisy = np.random.default_rng(1).integers(0, 255, (6, 64, 64, 3)).astype(np.uint8)
    assert (
        motion.motion_scores(moving(2), noisy)["warp_error"]
        > 3 * motion.motion_scores(moving(2), moving(2))["warp_error"]
    )
