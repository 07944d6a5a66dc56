"""What is exported and in which form, as data; and into which split a clip goes."""

from __future__ import annotations

import hashlib
import re
from itertools import accumulate
from typing import Literal

from pydantic import Field, field_validator

from cogvideo_core.settings.fingerprints import Spec, fingerprint

Which = Literal["kept", "passed", "all"]
FormatName = Literal["webdataset", "parquet", "finetrainers", "triplets"]
VERSION = 1  # raised when the same rows are written in another way
SPLIT = re.compile(r"[a-z][a-z0-9_]{0,29}")
NOT_CONTENT = {"verify", "overwrite"}


class ExportSpec(Spec):
    """Which edits are exported, and in which form."""

    to: FormatName = Field(
        "webdataset",
        title="Format",
        description="webdataset: tar shards. parquet: shards with the videos inside. finetrainers: its folders. "
        "triplets: JSONL of source, instruction and target, and the videos.",
    )
    which: Which = Field(
        "kept",
        title="Which edits",
        description="kept: those of dataset/. passed: also those that only a better candidate has surpassed. all: "
        "rejected ones too. Edits that were given up early have no video and are never exported.",
    )
    split: str = Field(
        "",
        title="Splits",
        description="Names and shares, such as train=0.9,validation=0.1. All edits of a clip go into one split. "
        "Empty: all into train.",
    )
    dedupe: bool = Field(
        False,
        title="Drop duplicates",
        description="Leaves out edits whose source, target prompt and edited video equal those of an earlier row.",
    )
    shard_mb: int = Field(
        500, title="Shard size", ge=1, le=100_000, description="Megabytes of video in a tar or Parquet shard."
    )
    verify: Literal["full", "size"] = Field(
        "full",
        title="Verify",
        description="How files that an earlier try has written are checked: every byte, or their size.",
    )
    overwrite: bool = Field(
        False, title="Overwrite", description="Replaces another export; files that no export has made stay."
    )

    @field_validator("split")
    @classmethod
    def _split_rule(cls, text: str) -> str:
        shares_of(text)
        return text

    @property
    def content(self) -> str:
        """Fingerprint of what decides what is written."""
        told = {name: value for name, value in self.as_json().items() if name not in NOT_CONTENT}
        return fingerprint(told | {"version": VERSION, "split": sorted(shares_of(self.split).items())})


def shares_of(text: str) -> dict[str, float]:
    """{split: share} of "train=0.9,validation=0.1", in the alphabetical order of names. Raises ValueError."""
    if not text.strip():
        return {"train": 1.0}
    found: dict[str, float] = {}
    for part in text.split(","):
        name, _, share = (word.strip() for word in part.partition("="))
        if not SPLIT.fullmatch(name) or name == "all" or name in found:
            raise ValueError(f"{part.strip()!r} names no split; write name=share, each name once, in small letters")
        found[name] = _share(part, share)
    if abs(sum(found.values()) - 1) > 1e-6:
        raise ValueError(f"the shares add up to {sum(found.values()):g}; make it 1")
    return dict(sorted(found.items()))


def _share(part: str, text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share <= 1:  # no number either
        raise ValueError(f"{part.strip()!r} has no share above 0 and up to 1; write name=share, such as train=0.9")
    return share


def split_of(content: str, shares: dict[str, float]) -> str:
    """The split of a clip with this content hash: the same in every export with these shares."""
    place = int.from_bytes(hashlib.sha256(f"split {content}".encode()).digest()[:8]) / 2**64
    bounds = zip(shares, accumulate(shares.values()), strict=True)
    return next((name for name, end in bounds if place < end), list(shares)[-1])
