"""A committed edit as collecting takes it."""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict


class EditRow(TypedDict):
    """One committed edit."""

    edit_key: str
    trajectory_key: str
    latents_key: str
    source_key: str
    source_id: str
    clip: str
    name: str
    source_prompt: str
    inversion_prompt: str
    target_prompt: str
    first_frame_uri: str  # "" when the edit brought none
    mask: NotRequired[str]  # "" when the edit had none
    mask_outline: NotRequired[str]  # as `media.outlines` has it
    negative_prompt: str
    recipe: str
    recipe_fingerprint: str
    model: str
    model_fingerprint: str
    seed: int
    strength: float
    window: int
    start_s: NotRequired[float]  # the part that the window lies in
    end_s: NotRequired[float]  # 0: the clip's end
    frames: int
    height: int  # pixels
    width: int  # pixels
    fps: int
    windows: NotRequired[int]  # that the clip was edited in, together
    scenes: NotRequired[int]  # that it was cut into, each edited by itself
    trimmed_frames: NotRequired[int]  # at the clip's end, which no window reaches
    own: NotRequired[str]  # the user's own columns of the clip and prompt, as JSON
    state: Literal["done", "stopped"]
    scores: dict[str, float]
    verdict: NotRequired[str]  # accepted, rejected, unjudged
    rejected_because: NotRequired[str]
    confidence: NotRequired[float | None]
    saved_evaluations: NotRequired[int]  # of an edit that was given up early
    reviewed: NotRequired[str]  # what a person said, "" where nothing
    rank: NotRequired[int]  # among the candidates of its prompt, 1 for the best
    rank_score: NotRequired[float]
    candidates: NotRequired[int]
    kept: NotRequired[bool]  # whether it is part of dataset/
    edit_object: str  # path or URL of the edit's mp4; "" for one that was given up
    source_object: str  # path or URL of the source's mp4, as the model saw it
    edit_bytes: NotRequired[int | None]  # of the objects, where known
    source_bytes: NotRequired[int | None]
    edit_sha256: NotRequired[str]  # what the copies in the dataset are compared with
    source_sha256: NotRequired[str]
