"""LPIPS, the learned perceptual distance of two pictures, from weights in a folder.

Source: Zhang et al. 2018, arXiv 1801.03924, richzhang/PerceptualSimilarity. The features after certain layers of an
ImageNet classifier are scaled to length 1 at each place; their squared differences are weighted by channel, summed, and
averaged over places, and the layers' results are added.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import conv2d, max_pool2d, relu

from cogvideo_core.judging.loading import finite
from cogvideo_core.models.model_folders import bad_folder

SHIFT, SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)  # of pictures in -1..1, as the classifiers want them
FIELD = "metrics.lpips"
Step = int | Literal["pool"]


class Network(NamedTuple):
    """A classifier of torchvision up to its last compared features: for each of these the layers before them, by their
    number there; what the first convolution and the pooling do."""

    parts: tuple[tuple[Step, ...], ...]
    stride: int
    padding: int
    pool: int
    ceil: bool = False


NETWORKS = {
    "alex": Network(((0,), ("pool", 3), ("pool", 6), (8,), (10,)), 4, 2, 3),
    "vgg": Network(((0, 2), ("pool", 5, 7), ("pool", 10, 12, 14), ("pool", 17, 19, 21), ("pool", 24, 26, 28)), 1, 1, 2),
    "squeeze": Network(((0,), ("pool", 3, 4), ("pool", 6, 7), ("pool", 9), (10,), (11,), (12,)), 2, 0, 3, True),
}


class Lpips:
    """The distance as a function. The weights say which of the three classifiers they are of."""

    def __init__(self, folder: Path, device: torch.device, field: str = FIELD) -> None:
        """Loads a folder that `weights_folder` has checked, with the tensors of the package lpips, or those of
        torchvision's classifier (features.0.weight) beside its lin0.model.1.weight and so on. Raises ModelError."""
        self.device, self.field = device, field
        self.weights = {named(name): w for file in sorted(folder.glob("*.safetensors")) for name, w in _read(file)}
        self.weights = {name: weight.float().to(device) for name, weight in self.weights.items()}
        self.network = NETWORKS[kind_of(self.weights)] if "0.weight" in self.weights else NETWORKS["alex"]
        try:
            with torch.no_grad():
                self.distances(np.zeros((1, 64, 64, 3), np.uint8), np.zeros((1, 64, 64, 3), np.uint8))
        except (KeyError, RuntimeError) as error:  # a tensor is missing, or has another shape than its layer
            problem = f"is no LPIPS network of AlexNet, VGG-16 or SqueezeNet ({' '.join(str(error).split())[:80]})"
            raise bad_folder(field, str(folder), problem, "write one as docs/metrics.md shows") from error

    def distances(self, source: np.ndarray, edit: np.ndarray) -> list[float]:
        """LPIPS of each pair of frames uint8 [F,H,W,3]; 0 for equal ones, lower is better. Raises NotFinite.

        Frames of less than 32 pixels on a side, of which a network would leave nothing, have none (NaN).
        """
        if min(source.shape[1:3]) < 32:
            return [float("nan")] * len(source)
        return [self._distance(a, b) for a, b in zip(source, edit, strict=True)]

    @torch.no_grad()
    def _distance(self, one: np.ndarray, other: np.ndarray) -> float:
        pictures = torch.from_numpy(np.stack([one, other])).to(self.device).permute(0, 3, 1, 2)
        total = torch.zeros((), device=self.device)
        for layer, seen in enumerate(features(pictures.float() / 127.5 - 1, self.weights, self.network)):
            a, b = seen / (seen.square().sum(1, keepdim=True).sqrt() + 1e-10)
            total = total + conv2d((a - b).square()[None], self.weights[f"lin{layer}"]).mean()
        return float(finite(self.field, total))


def _read(file: Path) -> Any:
    return load_file(file).items()


def named(name: str) -> str:
    """The tensor's name without that of its module: 0.weight, 3.squeeze.bias, lin0."""
    lin = re.fullmatch(r"(lin\d)\.model\.\d+\.weight", name)
    return lin[1] if lin else re.sub(r"^(net\.)?(slice\d+|features)\.", "", name)


def kind_of(weights: dict[str, Tensor]) -> str:
    """Which classifier these weights are of: by its fire modules, or the size of its first convolution."""
    if any(".squeeze." in name for name in weights):
        return "squeeze"
    return "alex" if weights["0.weight"].shape[-1] == 11 else "vgg"


def features(x: Tensor, weights: dict[str, Tensor], network: Network) -> list[Tensor]:
    """The compared features of pictures in -1..1: [B,3,H,W] -> [B,C,h,w], one for each part of the network."""
    x = (x - x.new_tensor(SHIFT)[:, None, None]) / x.new_tensor(SCALE)[:, None, None]
    found = []
    for part in network.parts:
        for step in part:
            if step == "pool":
                x = max_pool2d(x, network.pool, 2, ceil_mode=network.ceil)
            elif f"{step}.squeeze.weight" in weights:
                x = _convolved(x, weights, f"{step}.squeeze")
                x = torch.cat([_convolved(x, weights, f"{step}.expand{size}") for size in ("1x1", "3x3")], 1)
            elif step == 0:
                x = relu(conv2d(x, weights["0.weight"], weights["0.bias"], network.stride, network.padding))
            else:
                x = _convolved(x, weights, str(step))
        found.append(x)
    return found


def _convolved(x: Tensor, weights: dict[str, Tensor], name: str) -> Tensor:
    kernel = weights[f"{name}.weight"]
    return relu(conv2d(x, kernel, weights[f"{name}.bias"], 1, kernel.shape[-1] // 2))
