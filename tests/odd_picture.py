"""Odd pictures: clean aperture, rotation, interlacing, HDR, alpha."""

from __future__ import annotations

from odd_cases import Case


def cases() -> list[Case]:
    return []
