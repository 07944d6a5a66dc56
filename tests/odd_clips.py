"""Odd clips in time: containers, codecs, rates, offsets, stream choice, damage and audio."""

from __future__ import annotations

from odd_cases import Case


def cases() -> list[Case]:
    return []
