"""Names of units on disk: stages, keys and logical file names, and the checks that keep each in its folder."""

from __future__ import annotations

import re
from typing import Literal, get_args

Stage = Literal[
    "clips",
    "screens",
    "prompts",
    "sources",
    "latents",
    "trajectories",
    "progress",
    "edits",
    "judgements",
    "answers",
    "trials",
]
STAGES: tuple[str, ...] = get_args(Stage)

_KEY = re.compile(r"[0-9a-f]{64}")
_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}(/[A-Za-z0-9._-]{1,100}){0,9}")


def is_key(text: object) -> bool:
    """Whether this is 64 lower-case hex characters (a sha256)."""
    return isinstance(text, str) and _KEY.fullmatch(text) is not None


def check_key(key: str) -> str:
    """The key itself. Raises ValueError unless it is 64 lower-case hex characters."""
    if not is_key(key):
        raise ValueError(f"key {key!r}: not 64 lower-case hex characters; use cogvideo_core.settings.specs.fingerprint")
    return key


def check_stage(stage: str) -> str:
    """The stage itself. Raises ValueError unless it is one of `STAGES`."""
    if stage not in STAGES:
        raise ValueError(f"stage {stage!r}: not known; use one of {', '.join(STAGES)}")
    return stage


def check_name(name: str) -> str:
    """The logical file name itself. Raises ValueError unless it is a plain relative path of [A-Za-z0-9._-] parts."""
    plain = isinstance(name, str) and _NAME.fullmatch(name) is not None
    if not plain or any(part in {".", ".."} for part in name.split("/")):
        raise ValueError(f"file name {name!r}: not a plain relative name; use letters, digits, '.', '_', '-' and '/'")
    return name


def unit_folder(stage: str, key: str) -> str:
    """`stage/k2/key`, relative to the root. Raises ValueError for a stage or key that is not one."""
    check_stage(stage)
    return f"{stage}/{check_key(key)[:2]}/{key}"
