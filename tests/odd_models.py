"""Odd and damaged model folders and LoRA files."""

from __future__ import annotations

from odd_cases import Case


def cases() -> list[Case]:
    return []
