"""Models that find what a mask is to mark, of transformers' own classes: a detector that takes words, and SAM 2.

Frames are uint8 [F,H,W,3]; boxes (x0, y0, x1, y1) and points (x, y) are in their pixels.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from transformers import AutoModelForZeroShotObjectDetection, AutoProcessor, Sam2Model, Sam2VideoModel
from transformers.models.sam2_video.modeling_sam2_video import Sam2VideoInferenceSession

from cogvideo_core.models.checkpoint_files import read_json
from cogvideo_core.models.model_folders import not_loaded

DETECTORS = ("grounding-dino", "mm-grounding-dino", "owlv2", "owlvit")
SEGMENTERS = ("sam2_video", "sam2")
MOST_BOXES = 16  # of a frame, the surest
LOOKS = 5  # frames that are looked at where what is found in one of them is followed
# mean and deviation of ImageNet's pictures; SAM 2's own processors do no more, and need torchvision
COLOURS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
OWN: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
Box = tuple[float, ...]  # four numbers; two are a point


class Detector:
    """Finds boxes around what words name. It may be called from several threads, one at a time."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Loads a folder that `checked_folder` has checked. Raises ModelError."""
        self.device, self._lock = device, threading.Lock()
        self.phrases = "dino" in str(read_json(folder / "config.json", "mask.detector")["model_type"])
        try:
            made: Any = AutoModelForZeroShotObjectDetection.from_pretrained(folder, use_safetensors=True, **OWN)
            self.processor: Any = AutoProcessor.from_pretrained(folder, **OWN)
        except Exception as error:  # the libraries raise whatever a damaged file leads them to
            raise not_loaded("mask.detector", folder, error) from error
        self.model = made.to(device, torch.float32).eval()

    @torch.inference_mode()
    def boxes(self, frame: np.ndarray, words: str, least: float) -> list[tuple[float, Box]]:
        """(score, box) of what is seen in a frame [H,W,3] with at least this score, the surest first, at most
        `MOST_BOXES`. words: one thing, or several with commas."""
        named = [part.strip().lower() for part in words.split(",") if part.strip(" .")]
        # these take one text with a full stop after each phrase, the others a list
        text: Any = "".join(f"{phrase.rstrip('.')}. " for phrase in named).strip() if self.phrases else [named]
        with self._lock:
            given = self.processor(images=frame, text=text, return_tensors="pt", truncation=True).to(self.device)
            seen = self.model(**given)
            height, width = frame.shape[:2]
            sizes = [(height, width)]
            (found,) = self.processor.post_process_grounded_object_detection(seen, threshold=least, target_sizes=sizes)
        limits = torch.tensor([width, height, width, height])
        boxes = found["boxes"].cpu().nan_to_num(0).clamp(min=torch.zeros(4), max=limits).tolist()
        pairs = [(score, tuple(box)) for score, box in zip(found["scores"].tolist(), boxes, strict=True) if _area(box)]
        return sorted(pairs, reverse=True)[:MOST_BOXES]


class Segmenter:
    """SAM 2: the outlines of what boxes or points show. One at a time, as `Detector`."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        """Loads a folder that `checked_folder` has checked. Raises ModelError."""
        self.device, self._lock = device, threading.Lock()
        self.follows = read_json(folder / "config.json", "mask.segmenter")["model_type"] == "sam2_video"
        kind: Any = Sam2VideoModel if self.follows else Sam2Model
        try:
            made: Any = kind.from_pretrained(folder, use_safetensors=True, **OWN)
        except Exception as error:  # as above
            raise not_loaded("mask.segmenter", folder, error) from error
        self.model = made.to(device, torch.float32).eval()
        self.size_px = int(made.config.prompt_encoder_config.image_size)  # of the square that it looks at

    @torch.inference_mode()
    def masks(self, frames: np.ndarray, shown: Mapping[int, Sequence[Box]]) -> np.ndarray:
        """bool [F,H,W]: what boxes, or points, show in these frames. A video model follows it from there through the
        others; an image model marks nothing in frames that have none."""
        found = np.zeros(frames.shape[:3], bool)
        with self._lock:
            for first, boxes in shown.items():
                seen = (self._followed if self.follows else self._outlined)(frames, first, boxes)
                for frame, outlined in seen:
                    found[frame] |= _in_pixels(outlined.pred_masks, frames.shape)
        return found

    def _outlined(self, frames: np.ndarray, first: int, boxes: Sequence[Box]) -> Iterator[tuple[int, Any]]:
        """What the model gives for one frame."""
        points, labels = self._prompts(boxes, frames.shape)
        yield first, self.model(self._pixels(frames[first]), points[None], labels[None], multimask_output=False)

    def _followed(self, frames: np.ndarray, first: int, boxes: Sequence[Box]) -> Iterator[tuple[int, Any]]:
        """What the model gives for each frame, from `first` to the end and back to the beginning."""
        points, labels = self._prompts(boxes, frames.shape)
        pixels = torch.cat([self._pixels(frame) for frame in frames])
        devices = [self.device] * 3  # of the computation, its state and the frames
        session: Any = Sam2VideoInferenceSession(pixels, *frames.shape[1:3], *devices, dtype=torch.float32)
        for one, (place, kind) in enumerate(zip(points, labels, strict=True)):
            session.add_point_inputs(
                session.obj_id_to_idx(one), first, {"point_coords": place[None, None], "point_labels": kind[None, None]}
            )
        session.obj_with_new_inputs = list(range(len(points)))
        self.model(session, frame_idx=first)
        for back in (False, True):
            for seen in self.model.propagate_in_video_iterator(session, start_frame_idx=first, reverse=back):
                yield seen.frame_idx, seen

    def _pixels(self, frame: np.ndarray) -> Tensor:
        """[1,3,size,size] of a frame [H,W,3]: stretched to a square, as SAM 2 was trained."""
        picture = torch.from_numpy(frame).to(self.device).permute(2, 0, 1)[None] / 255
        square = interpolate(picture, (self.size_px, self.size_px), mode="bilinear", antialias=True)
        mean, deviation = (torch.tensor(each, device=self.device).view(1, 3, 1, 1) for each in COLOURS)
        return (square - mean) / deviation

    def _prompts(self, boxes: Sequence[Box], shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Points [N,P,2] in pixels of the square and their kinds [N,P]: inside (1), or a box's two corners (2, 3)."""
        height, width = shape[1:3]
        points = torch.tensor([list(box) for box in boxes], device=self.device).reshape(len(boxes), -1, 2)
        points = points * torch.tensor([self.size_px / width, self.size_px / height], device=self.device)
        kinds = torch.tensor([1] if points.shape[1] == 1 else [2, 3], device=self.device, dtype=torch.int32)
        return points, kinds.expand(len(boxes), -1)


def _in_pixels(masks: Tensor, shape: tuple[int, ...]) -> np.ndarray:
    """Logits of N masks [...,h,w] as what any of them marks: bool [H,W]."""
    logits = interpolate(masks.flatten(0, -3)[:, None].float().cpu(), shape[1:3], mode="bilinear")
    return (logits > 0).any(0)[0].numpy()


def _area(box: Sequence[float]) -> bool:
    return box[2] - box[0] >= 1 and box[3] - box[1] >= 1


def detected(detector: Detector, frames: np.ndarray, words: str, least: float, most: int) -> dict[int, list[Box]]:
    """The boxes of each frame that has any, of `most` frames that are spread over the clip, or of all for 0."""
    looked = np.unique(np.linspace(0, len(frames) - 1, most or len(frames)).round().astype(int)).tolist()
    found = {frame: detector.boxes(frames[frame], words, least) for frame in looked}
    if most:  # what is followed begins where it is seen best
        found = dict(sorted(found.items(), key=lambda item: -max((score for score, _ in item[1]), default=0.0))[:1])
    return {frame: [box for _, box in boxes] for frame, boxes in found.items() if boxes}
