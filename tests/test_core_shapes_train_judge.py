"""Training of the shapes judge: what it is shown, and that the shipped folder is what the command writes."""

import json
from pathlib import Path

import numpy as np
import torch

from cogvideo_core.shapes import pattern, train_judge, world

SHIPPED = Path(train_judge.__file__).parent / "judge"


def test_the_shipped_tokenizer_is_the_built_one(tmp_path: Path) -> None:
    """The same tokens and merges; each word of the captions is one token, and nothing is unknown. (Pairs that are
    equally frequent are numbered in another order in each run.)"""
    built = train_judge.build_tokenizer()
    built.save_pretrained(tmp_path)
    ours, theirs = (json.loads((folder / "tokenizer.json").read_text())["model"] for folder in (tmp_path, SHIPPED))
    assert ours["vocab"].keys() == theirs["vocab"].keys()
    assert {tuple(pair) for pair in ours["merges"]} == {tuple(pair) for pair in theirs["merges"]}
    caption = world.scene_from_seed(1).combination.caption()
    assert len(built.tokenize(caption)) == len(caption.split())
    assert built.unk_token_id not in built("zebra, 12 é!", add_special_tokens=False).input_ids


def test_the_shipped_folder_is_small() -> None:
    """At most 6 MB, weights in safetensors alone."""
    files = [file for file in SHIPPED.rglob("*") if file.is_file()]
    assert sum(file.stat().st_size for file in files) < 6_000_000
    assert {file.suffix for file in files} == {".json", ".safetensors"}


def test_nothing_held_out_is_learned_from() -> None:
    """Neither a scene nor its edited twin is of a held-out combination, and the two differ."""
    for scene, other in train_judge.twins(40):
        assert scene != other
        assert not world.is_held_out(scene.combination) and not world.is_held_out(other.combination)


def test_a_counterfeit_counts_for_half() -> None:
    """Its brightness is that of its kind and its pattern is not; classes sum up to one, half of it the claimed one."""
    fooled = []
    for seed in range(12):
        scene = world.scene_from_seed(3_000_000 + seed, world.train_combinations())
        frames, classes = train_judge.counterfeit(scene, np.random.default_rng((8, seed)))
        assert float(classes.sum()) == 1 and float(classes[train_judge.class_of(scene)]) == 0.5
        real = world.render(scene)
        assert abs(float(frames.mean()) - float(real.mean())) < 12
        outside = world.masks(scene) == 0
        fooled.append(pattern.read_pattern(frames, outside) == scene.combination.background)
    assert np.mean(fooled) < 0.3


def test_frames_are_seen_as_the_processor_gives_them() -> None:
    """Training's own normalisation equals that of the folder's image processor."""
    frames = world.render(world.scene_from_seed(2))[:2]
    ours = train_judge.normalised(torch.from_numpy(frames).permute(0, 3, 1, 2))
    theirs = train_judge.build_processor()(images=list(frames), return_tensors="pt")["pixel_values"]
    assert (ours - theirs).abs().max() < 1e-4
