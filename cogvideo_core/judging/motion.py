"""Whether an edit moves as its source does: optical flow of both (OpenCV's DIS, Kroeger et al. 2016), no weights."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import cv2
import numpy as np

SHORTEST_PX, LONGEST_PX = 96, 320  # sides that frames are scaled to before flow is looked for
MOVES_PX = 0.5  # a frame, at the scaled size; less counts as still
LEAST_MOVING = 0.002  # of the pixels; below, nothing moves in either


def scaled(frames: np.ndarray) -> np.ndarray:
    """Grey frames uint8 [F,h,w] of a size at which flow can be found: the longer side at most LONGEST_PX, the shorter
    at least SHORTEST_PX."""
    height, width = frames.shape[1:3]
    factor = min(1.0, LONGEST_PX / max(height, width))
    factor = max(factor, SHORTEST_PX / min(height, width))
    size = (round(width * factor), round(height * factor))
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
    return np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA if factor < 1 else 1) for frame in grey])


def flows(grey: np.ndarray) -> np.ndarray:
    """Flow from each frame of uint8 [F,h,w] to the next: float32 [F-1,h,w,2] in pixels."""
    finder: Any = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)  # type: ignore[attr-defined]
    return np.stack([finder.calc(one, other, None) for one, other in pairwise(grey)])


def warp_error(grey: np.ndarray, flow: np.ndarray) -> float:
    """Mean difference between each frame and the next one warped back along the flow, in levels of 255."""
    v, u = np.mgrid[0 : grey.shape[1], 0 : grey.shape[2]].astype(np.float32)
    errors = []
    for here, there, motion in zip(grey[:-1], grey[1:], flow, strict=True):
        back = cv2.remap(
            there, u + motion[..., 0], v + motion[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
        )
        errors.append(np.abs(back.astype(np.float32) - here).mean())
    return float(np.mean(errors))


def agreement(source: np.ndarray, edit: np.ndarray) -> float | None:
    """1 for the same flow, 0 for none in common, where source or edit moves; None where nothing moves. [F-1,h,w,2]"""
    lengths = np.linalg.norm(source, axis=-1), np.linalg.norm(edit, axis=-1)
    moving = np.maximum(*lengths) > MOVES_PX
    if moving.mean() < LEAST_MOVING:
        return None
    apart = np.linalg.norm(source - edit, axis=-1)[moving].sum()
    return float(1 - apart / max(float(lengths[0][moving].sum() + lengths[1][moving].sum()), 1e-9))


def motion_scores(source: np.ndarray, edit: np.ndarray) -> dict[str, float]:
    """motion_agreement (0 to 1) and warp_error (levels of 255) of an edit; frames uint8 [F,H,W,3]. Nothing for a still
    picture; no agreement where nothing moves."""
    if len(source) < 2 or len(source) != len(edit):
        return {}
    ours, theirs = scaled(edit), scaled(source)
    flow = flows(ours)
    alike = agreement(flows(theirs), flow)
    return {"warp_error": warp_error(ours, flow)} | ({} if alike is None else {"motion_agreement": alike})
