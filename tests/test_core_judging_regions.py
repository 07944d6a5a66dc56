"""Scores of masked edits by models: LPIPS inside and outside, the text judge in the mask's box, and refusals."""

from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from cogvideo_core.errors import ModelError
from cogvideo_core.judging import folders, regions
from cogvideo_core.judging.judges import Wish, loaded
from cogvideo_core.judging.metrics.lpips import Lpips
from cogvideo_core.media.regions import Mask
from cogvideo_core.settings.judge_specs import JudgeSpec
from cogvideo_core.shapes import world
from cogvideo_core.stages.judge import masked_scores

SOURCE = world.render(world.scene_from_seed(1))
WISH = Wish("a red circle", "a blue square")
ALPHA = np.zeros(SOURCE.shape[:3])
ALPHA[:, 10:30, 12:40] = 1
MASK = Mask(ALPHA, 4)
EDIT = np.where(ALPHA[..., None] > 0, 255 - SOURCE, SOURCE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A narrow AlexNet with random weights."""
    place, tensors = tmp_path_factory.mktemp("lpips"), {}
    torch.manual_seed(0)
    shapes = {0: (6, 3, 11), 3: (8, 6, 5), 6: (8, 8, 3), 8: (7, 8, 3), 10: (5, 7, 3)}
    for index, (number, (out, into, kernel)) in enumerate(shapes.items()):
        tensors[f"features.{number}.weight"] = torch.randn(out, into, kernel, kernel)
        tensors[f"features.{number}.bias"] = torch.randn(out)
        tensors[f"lin{index}.model.1.weight"] = torch.rand(1, out, 1, 1)
    save_file(tensors, place / "model.safetensors")
    return str(place)


def test_lpips_of_both_regions(folder: str) -> None:
    """Nothing changed outside: 0 there; inside it is LPIPS of the frames with all else black. Without a text judge
    there is nothing else, and a mask of everything has no outside."""
    spec = JudgeSpec(text="none", lpips=folder, frames=3)
    found = regions.judged_regions(spec, SOURCE, EDIT, MASK, WISH)
    black = [frames[[0, 4, 8]] * (ALPHA[[0, 4, 8], ..., None] >= 1).astype(np.uint8) for frames in (SOURCE, EDIT)]
    wanted = np.mean(Lpips(Path(folder), torch.device("cpu")).distances(*black))
    assert found == {"outside_lpips": 0, "inside_lpips": pytest.approx(wanted, abs=1e-4)} and wanted > 0.01
    whole = regions.judged_regions(spec, SOURCE, EDIT, Mask(np.ones_like(ALPHA), 4), WISH)
    assert set(whole) == {"inside_lpips"}


def test_text_in_the_box() -> None:
    """The text judge's scores of frames cut to the box, with its feathered border; no choice without two prompts."""
    alpha = ALPHA.copy()
    alpha[2, 8:10, 12:40] = 0.5
    spec = JudgeSpec(text="shapes", frames=9)
    found = regions.judged_regions(spec, SOURCE, EDIT, Mask(alpha, 4), WISH)
    judge = loaded(spec).text
    assert judge is not None
    before, after = (judge.embed_frames(frames[:, 8:30, 12:40]) for frames in (SOURCE, EDIT))
    scores = judge.scores(before, after, *WISH)
    assert found == {f"box_{name}": pytest.approx(scores[name], abs=1e-4) for name in regions.BY_TEXT}
    alone = regions.judged_regions(spec, SOURCE, EDIT, Mask(alpha, 4), Wish("", "a blue square"))
    assert set(alone) == {"box_text_similarity"}


def test_a_folder_that_cannot_be_used(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It is refused where it is named, and in a run the log says so and the edit has no such scores."""
    spec, row = JudgeSpec(text="none", lpips=str(tmp_path)), WISH._asdict() | {"edit_key": "e" * 64}
    with pytest.raises(ModelError, match=r"field judge\.lpips: .* holds no weights"):
        folders.check_judges(spec)
    assert masked_scores(spec, row, SOURCE, EDIT, MASK) == {}
    assert "judge.lpips" in caplog.text
