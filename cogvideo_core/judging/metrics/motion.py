"""Whether an edit moves as its source does and is steady along that motion: warp error, motion fidelity, alignment.

Flow is OpenCV's DIS (Kroeger et al. 2016) in place of RAFT or GMFlow, and tracks are chains of that flow in place of
CoTracker's: neither needs weights. So these figures compare edits measured here, and stand beside published ones with
care. Frames are uint8 [F,H,W,3] with F > 1, flows float32 [F-1,H,W,2] in pixels, from each frame to the next.
"""

from __future__ import annotations

import cv2
import numpy as np
from scipy import ndimage

from cogvideo_core.judging.motion import SHORTEST_PX, flows

GRID = 55  # tracks on a side, as Motion Fidelity asks of CoTracker


def flow_of(frames: np.ndarray) -> np.ndarray:
    """The flow of the frames at their own size; it is looked for at SHORTEST_PX or more on the shorter side."""
    height, width = frames.shape[1:3]
    factor = max(1.0, SHORTEST_PX / min(height, width))
    grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames])
    if factor == 1.0:
        return flows(grey)
    size = (round(width * factor), round(height * factor))
    large = flows(np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_LINEAR) for frame in grey]))
    back = [cv2.resize(flow, (width, height), interpolation=cv2.INTER_AREA) for flow in large]
    return np.stack(back) * np.array([width / size[0], height / size[1]], np.float32)


def warped(picture: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """The picture [H,W,C] where the flow [H,W,2] leads: its values at x + flow(x)."""
    v, u = np.mgrid[0 : flow.shape[0], 0 : flow.shape[1]].astype(np.float32)
    return between(picture, u + flow[..., 0], v + flow[..., 1])


def between(picture: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """The picture [H,W,C] at places between pixels, linear; cv2.remap knows but 32nds of a pixel."""
    channels = np.moveaxis(picture, -1, 0)
    return np.stack([ndimage.map_coordinates(each, (y, x), order=1, mode="nearest") for each in channels], -1)


def occluded(there: np.ndarray, back: np.ndarray) -> np.ndarray:
    """Where a flow [H,W,2] is not to be trusted: it and the flow back do not cancel, or it lies on a border of motion.

    Source: Ruder et al. 2016 with the thresholds of Lai et al. 2018 (phoenix104104/fast_blind_video_consistency).
    """
    returned = warped(back, there)
    lengths = np.square(returned).sum(-1) + np.square(there).sum(-1)
    lost = np.square(there + returned).sum(-1) > 0.01 * lengths + 0.5
    steps = np.zeros(there.shape[:2], np.float32)
    steps[:, :-1] += np.square(np.diff(there, axis=1)).sum(-1)
    steps[:-1] += np.square(np.diff(there, axis=0)).sum(-1)
    return lost | (steps > 0.01 * np.square(there).sum(-1) + 0.002)


def warp_error(source: np.ndarray, edit: np.ndarray) -> float:
    """Mean squared difference between each frame of the edit and the next one, warped back along the *source's* flow,
    where that is not occluded; white is 1; mean over pairs. Lower is better.

    Source: Lai et al. 2018 (arXiv 1808.00449, phoenix104104/fast_blind_video_consistency), with the source's flow as
    TokenFlow takes it (Geyer et al. 2023, arXiv 2307.10373). Differs: DIS flow in place of RAFT's.
    """
    there, back = flow_of(source), flow_of(source[::-1])[::-1]
    errors = []
    for number, flow in enumerate(there):
        far = (warped(edit[number + 1].astype(np.float32), flow) - edit[number]) / 255
        seen = ~occluded(flow, back[number])
        errors.append(float(np.square(far[seen]).mean()) if seen.any() else 0.0)  # 0, as in Lai et al.'s code
    return float(np.mean(errors))


def motion_alignment(source: np.ndarray, edit: np.ndarray) -> float:
    """Minus the mean distance in pixels between the flows of edit and source: at most 0. Higher is better.

    Source: V2VBench (arXiv 2407.07111, wenhao728/awesome-diffusion-v2v). Differs: DIS flow in place of GMFlow's.
    """
    return -float(np.linalg.norm(flow_of(edit) - flow_of(source), axis=-1).mean())


def grid(height: int, width: int) -> np.ndarray:
    """Where tracks begin: float32 [GRID²,2], as x and y, evenly spread, with CoTracker's margin of width / 64."""
    margin = width / 64
    ys, xs = np.linspace(margin, height - margin, GRID), np.linspace(margin, width - margin, GRID)
    return np.stack(np.meshgrid(xs, ys), -1).reshape(-1, 2).astype(np.float32)


def boxed(points: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Those of the points [N,2] that lie in the box around all that a mask bool [F,H,W] marks."""
    rows, columns = np.nonzero(mask.any((0, 2)))[0], np.nonzero(mask.any((0, 1)))[0]
    if not len(rows):
        return points[:0]
    x, y = np.rint(points).T
    return points[(x >= columns[0]) & (x < columns[-1]) & (y >= rows[0]) & (y < rows[-1])]


def tracks(flow: np.ndarray, points: np.ndarray) -> np.ndarray:
    """The points [N,2] of the first frame followed along the flow: [N,F,2]; they stop at the picture's border."""
    edge = np.array([flow.shape[2] - 1, flow.shape[1] - 1], np.float32)
    path = [points]
    for step in flow:
        x, y = path[-1].T
        path.append(np.clip(path[-1] + between(step, x, y), 0, edge))
    return np.stack(path, 1)


def fidelity(source: np.ndarray, edit: np.ndarray) -> float:
    """Motion fidelity of tracks [N,F,2]: the mean over the edit's tracks of the correlation with the source's track
    that is most alike, where the correlation is the mean cosine of their steps. Higher is better, at most 1.

    Source: Yatim et al. 2023 (arXiv 2311.17009, diffusion-motion-transfer/diffusion-motion-transfer,
    `motion_fidelity_score.py`), which FiVE-Bench uses; like that code, not the paper, it looks from the edit to the
    source alone, and takes 1 from the correlation of the tracks that begin at one place. Differs: tracks are chains of
    DIS flow, not CoTracker's; a step of no length has a cosine of 0, where that code has none.
    """
    if not len(edit):
        return float("nan")
    ours, theirs = (_directions(each) for each in (edit, source))
    alike = ours @ theirs.T / (source.shape[1] - 1) - np.eye(len(ours), dtype=np.float32)
    return float(alike.max(1).mean())


def _directions(followed: np.ndarray) -> np.ndarray:
    """Steps of tracks [N,F,2], each of length 1 or 0: [N,2(F-1)]."""
    steps = np.diff(followed, axis=1)
    lengths = np.linalg.norm(steps, axis=-1, keepdims=True)
    return np.divide(steps, lengths, out=np.zeros_like(steps), where=lengths > 0).reshape(len(steps), -1)


def motion_fidelity(source: np.ndarray, edit: np.ndarray, mask: np.ndarray | None) -> dict[str, float]:
    """motion_fidelity_score of the whole frames and, with a mask bool [F,H,W], motion_fidelity_score_edit_part of the
    tracks that begin in its box."""
    points, flow = grid(*source.shape[1:3]), (flow_of(source), flow_of(edit))
    found = {"motion_fidelity_score": fidelity(*(tracks(each, points) for each in flow))}
    if mask is not None:
        inside = boxed(points, mask)
        found["motion_fidelity_score_edit_part"] = fidelity(*(tracks(each, inside) for each in flow))
    return found
