"""`commit.json`: what a unit consists of, and a sha256 of itself, so that one altered byte anywhere in it shows."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from cogvideo_core.settings.specs import canonical, fingerprint
from cogvideo_core.storage.keys import Stage, check_name

Hash = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_PACKAGES = ("cogvideo-edit", "torch", "diffusers", "transformers", "numpy", "pyarrow", "zarr")


class StoredObject(BaseModel):
    """One object: its name inside the unit's folder, bytes and sha256."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    object: str
    size: int = Field(ge=0)
    sha256: Hash


class Commit(BaseModel):
    """A unit that is done. `spec` determined its bytes; `record` holds small results; the rest says where they lie."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal[1] = 1
    stage: Stage
    key: Hash
    attempt: str = Field(pattern=r"^[0-9a-f]{32}$")
    files: dict[str, StoredObject]
    spec: dict[str, Any]
    record: dict[str, Any]
    versions: dict[str, str]
    committed_at: str

    @property
    def sha256(self) -> str:
        return fingerprint(self.model_dump(mode="json"))

    def to_bytes(self) -> bytes:
        """Canonical JSON with the commit's own sha256, and a newline."""
        return (canonical({**self.model_dump(mode="json"), "sha256": self.sha256}) + "\n").encode()

    @classmethod
    def from_bytes(cls, raw: bytes, stage: str, key: str) -> Commit:
        """The commit of this stage and key. Raises ValueError, worded to follow "commit.json", for any other bytes."""
        try:
            commit = cls.model_validate({k: v for k, v in json.loads(raw).items() if k != "sha256"})
        except (ValueError, AttributeError, RecursionError):
            raise ValueError("can't be read") from None
        if commit.to_bytes() != raw:
            raise ValueError("does not match its own sha256")
        if (commit.stage, commit.key) != (stage, key):
            raise ValueError(f"belongs to {commit.stage} {commit.key}")
        if any(stored.object != f"{commit.attempt}/{check_name(name)}" for name, stored in commit.files.items()):
            raise ValueError("refers to objects outside its own attempt")
        return commit


def make_commit(
    stage: Stage,
    key: str,
    attempt: str,
    stored: Mapping[str, tuple[int, str]],
    spec: dict[str, Any],
    record: dict[str, Any],
) -> Commit:
    """A new commit of objects given as {logical name: (bytes, sha256)}."""
    files = {
        name: StoredObject(object=f"{attempt}/{name}", size=size, sha256=sha256)
        for name, (size, sha256) in stored.items()
    }
    now = datetime.now(UTC).isoformat(timespec="seconds")
    return Commit(
        stage=stage,
        key=key,
        attempt=attempt,
        files=files,
        spec=spec,
        record=record,
        versions=versions(),
        committed_at=now,
    )


def plain(value: Mapping[str, Any], what: str) -> dict[str, Any]:
    """The value as JSON gives it back: lists for tuples, text for keys. Raises ValueError for anything else."""
    try:
        parsed: dict[str, Any] = json.loads(canonical(dict(value)))
        json.dumps(parsed, ensure_ascii=False).encode()  # refuses lone surrogates, which are no text
        return parsed
    except (TypeError, ValueError) as error:
        raise ValueError(f"{what}: not plain JSON ({error}); give text, finite numbers, lists and dicts") from None


@cache
def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def versions() -> dict[str, str]:
    """Versions of the packages that may leave a mark on the bytes."""
    return dict(_versions())
