"""Fingerprints of data: the canonical text of JSON values, and the base of all groups of settings."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from pydantic import BaseModel, ConfigDict


def canonical(value: object) -> str:
    """JSON with sorted keys and no spaces: the same text for the same value in every process."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)


def fingerprint(value: object) -> str:
    """sha256 (hex, 64 characters) of a JSON value's canonical text."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()


class Spec(BaseModel):
    """Base of all groups: frozen, no unknown fields, only finite numbers (a key's JSON has no others)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    def as_json(self) -> dict[str, Any]:
        return self.model_dump(mode="json")

    @property
    def fingerprint(self) -> str:
        """Independent of process, field order and of how defaults were given."""
        return fingerprint(self.as_json())
