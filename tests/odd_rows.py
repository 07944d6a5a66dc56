"""Odd manifests and prompts files."""

from __future__ import annotations

from odd_cases import Case


def cases() -> list[Case]:
    return []
