"""README.md of an export: what it holds, how it is loaded, its columns, and how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from cogvideo_core.dataset.card import MEANING, SCORES, front_matter, two_columns
from cogvideo_core.dataset.gallery import escape_markdown, settings
from cogvideo_core.dataset.rows import TABLE_FIELDS
from cogvideo_core.exports.formats import Format, exported_columns
from cogvideo_core.exports.outcome import Outcome
from cogvideo_core.exports.rows import ADDED, NOT_EXPORTED
from cogvideo_core.exports.spec import ExportSpec
from cogvideo_core.storage.uris import plain_name

ADDED_MEANING = {
    "kept": "whether the edit is part of the run's own dataset/",
    "instruction": "the user's own column of this name; where there is none, the target prompt",
    "edit_sha256": "of the edit's video",
    "source_sha256": "of the source's video",
}
CARD = """\
{front}
# {title}

Each edit is a video that was made with CogVideoX from a source clip: the clip was inverted, and denoised again for
another prompt while the model also read the stored inversion. The source as the model saw it, at the same rate and
size, comes with it.

{facts}
{splits}
`sha256sum -c sha256sums.txt` checks every file.

## Load

`EXPORT` stands for this folder.

{load}
## Columns

The columns of the edits in the formats webdataset and parquet.

| column | meaning |
| --- | --- |
{columns}

## Settings

{settings}"""
CHOICE = {
    "kept": "edits of the run's own dataset",
    "passed": "edits that were not rejected",
    "all": "all edits that were made",
}


def export_card(spec: ExportSpec, outcome: Outcome, form: Format, table: pa.Schema, about: Mapping[str, Any]) -> str:
    """The card of an export with these counts; `about` is the settings of the run."""
    title, splits = str(about.get("title") or "Edited videos"), sorted(outcome.edits) or ["train"]
    edits = sum(outcome.edits.values())
    facts: list[tuple[str, object]] = [("Format", spec.to), ("Choice", CHOICE[spec.which]), ("Edits", edits)]
    facts += [("Clips", sum(outcome.clips.values()))]
    facts += [("Duplicates dropped", outcome.duplicates)] if spec.dedupe else []
    facts += [("Left out, as their videos are gone", outcome.left_out)] if outcome.left_out else []
    facts += [("Model", name) for name in sorted(outcome.models)] + [("Recipe", n) for n in sorted(outcome.recipes)]
    counts = [(name, f"{outcome.edits[name]} edits of {outcome.clips[name]} clips") for name in splits]
    return CARD.format(
        front=front_matter(title, edits, {name: form.paths(name) for name in splits}),
        title=escape_markdown(title),
        facts=two_columns("", "", facts),
        splits=two_columns("Split", "Holds", counts),
        load=form.load(splits),
        columns="\n".join(f"| `{plain_name(name)}` | {text} |" for name, text in _columns(table).items()),
        settings=two_columns("Setting", "Value", settings({k: v for k, v in about.items() if k != "title"})),
    )


def _columns(table: pa.Schema) -> dict[str, str]:
    names = exported_columns(table, NOT_EXPORTED, ADDED).names
    known = MEANING | ADDED_MEANING
    scores = {n: SCORES.get(n.removeprefix("score_"), "measured on the edit") for n in names if n.startswith("score_")}
    own = {name: "the source's own column" for name in names if name not in TABLE_FIELDS}
    return {name: (own | scores | known).get(name, "") for name in names}
