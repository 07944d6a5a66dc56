"""Which of a person's clips and prompts a search looks at: a few, spread over how much moves and over all prompts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file

from cogvideo_core.errors import BadSpec, CorruptObject
from cogvideo_core.settings.tune_specs import LEAST_HELD_OUT, LEAST_TUNING, TuneSpec
from cogvideo_core.stages.failures import is_failure
from cogvideo_core.storage.ledger import Ledger

Record = dict[str, Any]
CANDIDATES = 3  # clips that are encoded for each that is chosen


def sampled(records: Iterable[Record], size: int, seed: int) -> tuple[list[Record], list[Record]]:
    """So many of the usable records, each as likely as the others, and the failures; memory stays flat."""
    rng, kept, failed, count = np.random.default_rng(seed), list[tuple[int, Record]](), list[Record](), 0
    for record in records:
        if is_failure(record):
            failed.append(record)
            continue
        if len(kept) < size:
            kept.append((count, record))
        elif (place := int(rng.integers(count + 1))) < size:
            kept[place] = count, record
        count += 1
    return [record for _, record in sorted(kept, key=lambda one: one[0])], failed


def sizes(spec: TuneSpec, available: int) -> tuple[int, int]:
    """(clips to tune on, held-out clips): as asked for, or in the same ratio where there are fewer. Raises BadSpec."""
    least, wanted = LEAST_TUNING + LEAST_HELD_OUT, spec.clips + spec.held_out
    if available < least:
        problem = f"{available} usable clips were found, and a search needs {least}"
        remedy = f"{LEAST_TUNING} to tune on and {LEAST_HELD_OUT} held out; add clips with target prompts"
        raise BadSpec(f"field dataset.source: {problem}: {remedy}")
    if available >= wanted:
        return spec.clips, spec.held_out
    held_out = min(max(round(available * spec.held_out / wanted), LEAST_HELD_OUT), available - LEAST_TUNING)
    return available - held_out, held_out


def motion_of(ledger: Ledger, latents_key: str) -> float:
    """How much a clip changes from one latent frame to the next, against its own spread. Raises CorruptObject."""
    commit = ledger.find("latents", latents_key)
    if commit is None:
        raise CorruptObject(f"latents {latents_key[:12]} are missing or damaged and were set aside; run again")
    with tempfile.TemporaryDirectory() as folder:
        x = load_file(ledger.fetch(commit, "latents.safetensors", Path(folder)))["latents"].double()
    return float((x[1:] - x[:-1]).abs().mean() / x.std().clamp_min(1e-9)) if len(x) > 1 else 0.0


def stratified(records: Sequence[Record], motions: Sequence[float], wanted: int, seed: int) -> list[Record]:
    """So many of the records: sorted by motion and cut into equal strata, one from each, in an order of which every
    beginning is spread over all strata."""
    rng, order = np.random.default_rng(seed + 1), np.argsort(np.array(motions), kind="stable")
    strata = np.array_split(order, min(wanted, len(records)))
    chosen = [records[int(rng.choice(stratum))] for stratum in strata]
    return [chosen[place] for place in spread_order(len(chosen))]


def spread_order(count: int) -> list[int]:
    """0 .. count-1 by their bits read backwards: halves first, then quarters, and so on."""
    bits = max(count - 1, 1).bit_length()
    return sorted(range(count), key=lambda n: int(f"{n:0{bits}b}"[::-1], 2))


def with_prompts(record: Record, place: int, most: int) -> Record:
    """The record with at most so many of its prompts; the next clip begins with others, so that each prompt that all
    clips share gets its turn. Settings of its row's own are dropped: a trial's recipe stands in their place."""
    texts, owns = record["target_prompts"], record.get("own") or []
    count = min(most, len(texts))
    taken = sorted({(place * most + step) % len(texts) for step in range(count)})
    own = [owns[number] for number in taken] if len(owns) == len(texts) else [""] * count
    return record | {"target_prompts": [texts[number] for number in taken], "overrides": [""] * count, "own": own}
