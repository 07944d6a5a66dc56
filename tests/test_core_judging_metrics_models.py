"""The benchmarks' metrics that look through a model: small models of the real classes against plain numpy."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
import transformers
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.torch import save_file

from cogvideo_core.errors import BadSpec, ModelError
from cogvideo_core.judging import folders
from cogvideo_core.judging.metrics import niqe, structure
from cogvideo_core.judging.metrics.measure import measured
from cogvideo_core.judging.metrics.samples import Sample
from cogvideo_core.settings.metric_specs import MetricSpec
from cogvideo_core.shapes import world

SHAPES = folders.judge_folder("text", "shapes", folders.TEXT_KINDS)
SCENES = [world.render(world.scene_from_seed(seed))[:3] for seed in (1, 2)]
MASK = np.zeros(SCENES[0].shape[:3], bool)
MASK[:, 8:30, 10:40] = True
SAMPLE = Sample(*SCENES, MASK, "a red circle", "a blue square moving left", name="a")


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=-1, keepdims=True)


def clip_by_hand(frames: np.ndarray, prompt: str) -> tuple[np.ndarray, np.ndarray, float]:
    """(cosines of frames and prompt, the vision model's pooled output, scale) straight from transformers."""
    model = transformers.CLIPModel.from_pretrained(SHAPES, dtype=torch.float32).eval()
    with torch.no_grad():
        pixels = transformers.AutoImageProcessor.from_pretrained(SHAPES)(images=list(frames), return_tensors="pt")
        words = transformers.AutoTokenizer.from_pretrained(SHAPES)([prompt], return_tensors="pt")
        pooled = model.vision_model(**pixels).pooler_output
        seen = unit(model.visual_projection(pooled).numpy())
        said = unit(model.text_projection(model.text_model(**words).pooler_output).numpy())
    return seen @ said[0], pooled.numpy(), float(np.exp(model.logit_scale.item()))


def test_clip_metrics_follow_their_formulas() -> None:
    """CLIP-T and PickScore: scale × cosine; CLIP-F: all pairs; consistency: neighbours before the projection; the
    CLIPScores of PIE-Bench: 100 × cosine, never below 0, also of the edited part alone."""
    (found,) = measured([], MetricSpec(clip="shapes", pickscore="shapes"), [SAMPLE])
    cosines, pooled, scale = clip_by_hand(SAMPLE.edit, SAMPLE.target_prompt)
    neighbours = [max(0.0, a @ b) for a, b in zip(unit(pooled)[1:], unit(pooled)[:-1], strict=True)]
    assert found["clip_t"] == pytest.approx(scale * cosines.mean(), abs=1e-4) == found["pick_score"]
    assert found["clip_consistency"] == pytest.approx(np.mean(neighbours), abs=1e-4)
    assert found["clip_similarity_target_image"] == pytest.approx(100 * cosines.clip(0).mean(), abs=1e-4)
    inside = clip_by_hand(SAMPLE.edit * MASK[..., None], SAMPLE.target_prompt)[0]
    assert found["clip_similarity_target_image_edit_part"] == pytest.approx(100 * inside.clip(0).mean(), abs=1e-4)
    before = clip_by_hand(SAMPLE.source, SAMPLE.source_prompt)[0]
    assert found["clip_similarity_source_image"] == pytest.approx(100 * before.clip(0).mean(), abs=1e-4)


def test_clip_f_is_of_all_pairs() -> None:
    """By hand, from what CLIP sees of three frames."""
    (found,) = measured(["clip_f"], MetricSpec(clip="shapes"), [SAMPLE])
    model = transformers.CLIPModel.from_pretrained(SHAPES, dtype=torch.float32).eval()
    pooled = clip_by_hand(SAMPLE.edit, "a")[1]
    with torch.no_grad():
        a, b, c = unit(model.visual_projection(torch.from_numpy(pooled)).numpy())
    assert found == {"clip_f": pytest.approx((a @ b + a @ c + b @ c) / 3, abs=1e-4)}


def dino(folder: Path, kind: str) -> tuple[Path, transformers.PreTrainedModel]:
    """A small DINO model with a preprocessor, random weights."""
    torch.manual_seed(3)
    small = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
    size = {"image_size": 56, "patch_size": 28}
    model = (
        transformers.ViTModel(transformers.ViTConfig(**small, **size), add_pooling_layer=False)
        if kind == "vit"
        else transformers.Dinov2Model(transformers.Dinov2Config(**small, **size))
    ).eval()
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(folder)
    shutil.copy(SHAPES / "preprocessor_config.json", folder)
    return folder, model


def keys_by_hand(model: transformers.PreTrainedModel, frame: np.ndarray) -> np.ndarray:
    """The last layer's keys [T,D] in numpy, from what comes into that layer; the frame is scaled by OpenCV."""
    large = cv2.resize(frame.astype(np.float32), (336, 224), interpolation=cv2.INTER_LINEAR)
    pixels = (large - np.float32([0.485, 0.456, 0.406])) / np.float32([0.229, 0.224, 0.225])
    any_size = {"interpolate_pos_encoding": True} if model.config.model_type == "vit" else {}
    with torch.no_grad():
        tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float()
        x = model(tensor, output_hidden_states=True, **any_size).hidden_states[-2][0].numpy()
    tensors = {name: weight.detach().numpy() for name, weight in model.named_parameters()}

    def of_last(ending: str) -> np.ndarray:
        return [weight for name, weight in tensors.items() if name.endswith(ending)][-1]

    norm = "layernorm_before" if model.config.model_type == "vit" else "norm1"
    centred = x - x.mean(-1, keepdims=True)
    x = centred / np.sqrt(x.var(-1, keepdims=True) + model.config.layer_norm_eps)
    x = x * of_last(f"{norm}.weight") + of_last(f"{norm}.bias")
    return x @ of_last("k_proj.weight").T + of_last("k_proj.bias")


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_structure_distance_follows_its_formula(kind: str, tmp_path: Path) -> None:
    """The mean squared difference of the cosines of all tokens' keys, class token and all heads included, from values
    of 0..255 scaled to 224 pixels on the shorter side."""
    folder, model = dino(tmp_path / kind, kind)
    source, edit = (frames[:2, :40, :] for frames in SCENES)  # 40 by 60 pixels
    source, edit = (np.concatenate([frames, frames[:, :, :12]], 2) for frames in (source, edit))
    (found,) = measured(["structure_distance"], MetricSpec(dino=str(folder)), [Sample(source, edit)])
    wanted = []
    for a, b in zip(source, edit, strict=True):
        one, other = (unit(keys_by_hand(model, frame)) for frame in (a, b))
        assert len(one) == 1 + (224 // 28) * (336 // 28)
        wanted.append(np.square(one @ one.T - other @ other.T).mean())
    assert np.mean(wanted) > 5e-4
    assert found["structure_distance"] == pytest.approx(np.mean(wanted), rel=1e-3)
    (same,) = measured(["structure_distance"], MetricSpec(dino=str(folder)), [Sample(source, source)])
    assert same["structure_distance"] == 0


def test_scaled_sizes() -> None:
    """As torchvision's Resize(224, max_size=480): by hand for 480p, upright, very wide and square frames."""
    sizes = [structure.scaled_size(*size) for size in ((480, 720), (720, 480), (100, 400), (512, 512))]
    assert sizes == [(224, 336), (336, 224), (120, 480), (224, 224)]


def test_dino_consistency_follows_its_formula(tmp_path: Path) -> None:
    """The mean cosine of neighbouring frames' class tokens, from the model's own output."""
    folder, model = dino(tmp_path / "dino", "dinov2")
    (found,) = measured(["dino_consistency"], MetricSpec(dino=str(folder)), [SAMPLE])
    pixels = transformers.AutoImageProcessor.from_pretrained(folder)(images=list(SAMPLE.edit), return_tensors="pt")
    with torch.no_grad():
        tokens = unit(model(**pixels).pooler_output.numpy())
    wanted = np.mean([max(0.0, tokens[0] @ tokens[1]), max(0.0, tokens[1] @ tokens[2])])
    assert found["dino_consistency"] == pytest.approx(wanted, abs=1e-4)


CONVOLUTIONS = {  # number in torchvision -> (channels out, in, kernel); the widths are small, the rest is the real one
    "alex": {0: (6, 3, 11), 3: (8, 6, 5), 6: (8, 8, 3), 8: (7, 8, 3), 10: (5, 7, 3)},
    "vgg": dict(
        zip(
            (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28),
            [(4, 3, 3), *[(4, 4, 3)] * 11, (6, 4, 3)],
            strict=True,
        )
    ),
    "squeeze": {0: (6, 3, 3)},
}
FIRES = {
    3: (6, 2, 3),
    4: (6, 2, 3),
    6: (6, 2, 3),
    7: (6, 2, 4),
    9: (8, 2, 4),
    10: (8, 3, 4),
    11: (8, 3, 5),
    12: (10, 3, 5),
}
ENDS = {"alex": (0, 3, 6, 8, 10), "vgg": (2, 7, 14, 21, 28), "squeeze": (0, 4, 7, 9, 10, 11, 12)}
POOLS = {"alex": (3, 6), "vgg": (5, 10, 17, 24), "squeeze": (3, 6, 9)}  # before these
Weights = dict[str, np.ndarray]


def lpips_weights(kind: str) -> Weights:
    """Random weights with the names of the package lpips."""
    rng, found = np.random.default_rng(1), {}

    def layer(name: str, out: int, into: int, kernel: int) -> None:
        found[f"{name}.weight"] = rng.normal(0, 0.4, (out, into, kernel, kernel)).astype(np.float32)
        found[f"{name}.bias"] = rng.normal(0, 0.3, out).astype(np.float32)

    for number, shape in CONVOLUTIONS[kind].items():
        layer(f"net.slice1.{number}", *shape)
    for number, (into, few, out) in FIRES.items() if kind == "squeeze" else ():
        layer(f"net.slice2.{number}.squeeze", few, into, 1)
        layer(f"net.slice2.{number}.expand1x1", out, few, 1)
        layer(f"net.slice2.{number}.expand3x3", out, few, 3)
    for index, number in enumerate(ENDS[kind]):
        channels = 2 * FIRES[number][2] if kind == "squeeze" and number else CONVOLUTIONS[kind][number][0]
        found[f"lin{index}.model.1.weight"] = rng.uniform(0, 1, (1, channels, 1, 1)).astype(np.float32)
    return found | {"scaling_layer.shift": np.zeros(3, np.float32)}


def convolved(x: np.ndarray, weights: Weights, name: str, stride: int = 1, padding: int = -1) -> np.ndarray:
    """A convolution and ReLU in numpy: [C,H,W] -> [D,h,w]."""
    kernel = next(w for key, w in weights.items() if key.endswith(f".{name}.weight"))
    bias = next(w for key, w in weights.items() if key.endswith(f".{name}.bias"))
    size = kernel.shape[-1]
    pad = size // 2 if padding < 0 else padding
    x = np.pad(x, ((0, 0), (pad, pad), (pad, pad)))
    windows = sliding_window_view(x, (size, size), (1, 2))[:, ::stride, ::stride]
    return np.maximum(np.einsum("chwij,dcij->dhw", windows, kernel) + bias[:, None, None], 0)


def pooled(x: np.ndarray, kind: str) -> np.ndarray:
    """The largest of each window, every second one; SqueezeNet's last windows may be cut off by the border."""
    size = 2 if kind == "vgg" else 3
    if kind == "squeeze":
        more = [(-(side - size)) % 2 for side in x.shape[1:]]
        x = np.pad(x, ((0, 0), (0, more[0]), (0, more[1])), constant_values=-np.inf)
    return sliding_window_view(x, (size, size), (1, 2))[:, ::2, ::2].max((-1, -2))


def features_by_hand(frame: np.ndarray, weights: Weights, kind: str) -> list[np.ndarray]:
    """The compared features of a frame uint8 [H,W,3], layer by layer."""
    shift, scale = np.float32([-0.030, -0.088, -0.188]), np.float32([0.458, 0.448, 0.450])
    x, found = ((frame / 255 * 2 - 1 - shift) / scale).transpose(2, 0, 1), []
    for number in sorted(CONVOLUTIONS[kind] | (FIRES if kind == "squeeze" else {})):
        x = pooled(x, kind) if number in POOLS[kind] else x
        if number == 0:
            x = convolved(
                x, weights, "0", {"alex": 4, "vgg": 1, "squeeze": 2}[kind], {"alex": 2, "vgg": 1}.get(kind, 0)
            )
        elif kind == "squeeze":
            x = convolved(x, weights, f"{number}.squeeze")
            x = np.concatenate([convolved(x, weights, f"{number}.expand{size}") for size in ("1x1", "3x3")])
        else:
            x = convolved(x, weights, str(number))
        if number in ENDS[kind]:
            found.append(x / (np.sqrt(np.square(x).sum(0)) + 1e-10))
    return found


def lpips_folder(folder: Path, weights: Weights) -> str:
    folder.mkdir()
    save_file({name: torch.from_numpy(weight) for name, weight in weights.items()}, folder / "model.safetensors")
    return str(folder)


@pytest.mark.parametrize("kind", ["alex", "vgg", "squeeze"])
def test_lpips_follows_its_formula(kind: str, tmp_path: Path) -> None:
    """For each of the three networks, the weighted squared differences of unit features, averaged over places and added
    over layers, on whole frames and outside the mask; 0 for equal frames."""
    weights = lpips_weights(kind)
    spec = MetricSpec(lpips=lpips_folder(tmp_path / kind, weights), frames=1)
    (found,) = measured(["lpips", "lpips_unedit_part"], spec, [SAMPLE])
    for name, keep in (("lpips", np.ones_like(MASK)), ("lpips_unedit_part", ~MASK)):
        a, b = (features_by_hand(frames[0] * keep[0, ..., None], weights, kind) for frames in SCENES)
        lins = [weights[f"lin{index}.model.1.weight"][0] for index in range(len(a))]
        terms = [(lin * np.square(p - q)).sum(0).mean() for p, q, lin in zip(a, b, lins, strict=True)]
        assert sum(terms) > 0.01 and found[name] == pytest.approx(sum(terms), abs=1e-4)
    (same,) = measured(["lpips"], spec, [Sample(SCENES[0], SCENES[0])])
    assert same == {"lpips": 0}


def test_lpips_takes_torchvisions_names(tmp_path: Path) -> None:
    """features.0.weight means what net.slice1.0.weight does."""
    weights = lpips_weights("alex")
    other = {name.replace("net.slice1.", "features."): weight for name, weight in weights.items()}
    paths = lpips_folder(tmp_path / "a", weights), lpips_folder(tmp_path / "b", other)
    one, same = (measured(["lpips"], MetricSpec(lpips=path), [SAMPLE]) for path in paths)
    assert one == same


def cut(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes((folder / "model.safetensors").read_bytes()[:5000])


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "alex.pth")


def without_a_layer(folder: Path) -> None:
    weights = {name: torch.from_numpy(w) for name, w in lpips_weights("alex").items() if ".8." not in name}
    save_file(weights, folder / "model.safetensors")


def of_another_kind(folder: Path) -> None:
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")


@pytest.mark.parametrize(
    ("how", "told"),
    [
        (cut, "is cut off"),
        (pickled, "only pickled weights"),
        (without_a_layer, "is no LPIPS network"),
        (of_another_kind, "is no LPIPS network"),
        (shutil.rmtree, "is no folder and no hub id"),
    ],
)
def test_lpips_folders_that_cannot_be_used_are_refused(how: object, told: str, tmp_path: Path) -> None:
    """In one sentence that names metrics.lpips and the folder."""
    path = lpips_folder(tmp_path / "lpips", lpips_weights("alex"))
    how(Path(path))  # type: ignore[operator]
    with pytest.raises(ModelError, match=r"field metrics\.lpips: .*lpips") as caught:
        measured(["lpips"], MetricSpec(lpips=path), [SAMPLE])
    assert told in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["clip", "pickscore", "dino"])
def test_models_of_other_kinds_are_refused(field: str, tmp_path: Path) -> None:
    """The message names the field of the metrics' settings, not the judge's."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert"}))
    name = {"clip": "clip_t", "pickscore": "pick_score", "dino": "structure_distance"}[field]
    with pytest.raises(ModelError, match=rf"field metrics\.{field}: .* is a 'bert'"):
        measured([name], MetricSpec(**{field: str(tmp_path)}), [SAMPLE])


def test_models_load_once_and_only_where_they_are_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two calls with three samples load CLIP once; a metric that was not asked for loads nothing."""
    from cogvideo_core.judging.metrics import models

    loads: list[str] = []
    real = models.TextJudge
    monkeypatch.setattr(models, "TextJudge", lambda *a, **k: loads.append(k["field"]) or real(*a, **k))
    models._loaded.cache_clear()
    spec = MetricSpec(clip="shapes", dino="/nowhere", frames=1)
    measured(["clip_t"], spec, [SAMPLE, SAMPLE])
    measured(["clip_t", "mse"], spec, [SAMPLE])
    assert loads == ["metrics.clip"]


def test_metrics_without_what_they_need_are_left_out() -> None:
    """No model, no mask, no prompt, one frame: what is left are the pixels."""
    bare = Sample(SCENES[0][:1], SCENES[1][:1])
    (found,) = measured([], MetricSpec(clip="shapes"), [bare])
    assert set(found) == {"mse", "psnr", "ssim"}


def test_niqe_says_what_it_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyiqa: which extra to install; with it and no file: which file."""
    import sys

    monkeypatch.setitem(sys.modules, "pyiqa", None)
    with pytest.raises(BadSpec, match=r"install cogvideo-edit\[niqe\]"):
        measured(["niqe"], MetricSpec(niqe=str(tmp_path)), [SAMPLE])
    monkeypatch.setitem(sys.modules, "pyiqa", json)  # any module: it is not asked before the file is there
    with pytest.raises(ModelError, match=r"field metrics\.niqe: .*niqe_modelparameters\.mat"):
        measured(["niqe"], MetricSpec(niqe=str(tmp_path)), [SAMPLE])
    (tmp_path / "niqe_modelparameters.mat").write_bytes(b"no")
    with pytest.raises(ModelError, match="can't be read"):
        measured(["niqe"], MetricSpec(niqe=str(tmp_path)), [SAMPLE])


def test_niqe_is_pyiqas(tmp_path: Path) -> None:
    """Where pyiqa is installed: worse for noise than for a smooth picture; frames under 192 pixels have none."""
    pytest.importorskip("pyiqa")
    from scipy.io import savemat

    statistics = {"mu_prisparam": np.full((1, 36), 0.5), "cov_prisparam": np.eye(36)}
    savemat(tmp_path / "niqe_modelparameters.mat", statistics)
    rng = np.random.default_rng(0)
    smooth = cv2.resize(rng.integers(0, 255, (9, 9, 3), np.uint8), (200, 200), interpolation=cv2.INTER_CUBIC)
    noise = rng.integers(0, 255, (200, 200, 3), np.uint8)
    judge = niqe.Niqe(str(tmp_path))
    found = judge.scores(np.stack([smooth, noise]))
    assert len(found) == 2 and found[0] != found[1] and np.isnan(judge.scores(noise[None, :100])).all()
