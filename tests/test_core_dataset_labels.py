"""Labels of a person: how they are read, and the calibration that they give a root."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cogvideo_core.dataset import labels
from cogvideo_core.errors import BadSpec
from cogvideo_core.judging import policy
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.stages.judge import CALIBRATION
from cogvideo_core.storage.ledger import Ledger


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root with sixty judged edits, the better half of which has text_contrast above 0.5."""
    (tmp_path / "tables").mkdir()
    contrast = np.random.default_rng(0).permutation(np.linspace(0.02, 0.98, 60))
    rows = [
        {
            "edit_key": f"{i:064x}",
            "file_name": f"videos/{i}.mp4",
            "score_text_similarity": 0.5,
            "score_text_contrast": c,
        }
        for i, c in enumerate(contrast)
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "tables/edits.parquet")
    return tmp_path


def said(root: Path, names: str = "edit_key") -> dict[str, bool]:
    rows = pq.read_table(root / "tables/edits.parquet").to_pylist()
    return {row[names]: row["score_text_contrast"] > 0.5 for row in rows}


@pytest.mark.parametrize("names", ["edit_key", "file_name"])
def test_labels_make_a_calibration(root: Path, names: str) -> None:
    """Edits may be named by key or by file; what is written under the root tells good from bad, and the figures say
    how well with intervals."""
    made, figures = labels.calibrate(str(root), said(root, names))
    assert policy.read_calibration(root / CALIBRATION) == made
    assert made.confidence({"text_similarity": 0.5, "text_contrast": 0.9}) > 0.8
    assert made.confidence({"text_similarity": 0.5, "text_contrast": 0.1}) < 0.2
    told = dict(figures)
    assert told["labels"] == "30 accepted, 30 rejected"
    assert float(told["balanced: precision"].split()[0]) >= 0.9 and " to " in told["balanced: recall"]


def test_both_formats_say_the_same(root: Path) -> None:
    """CSV and JSONL, with a mark at the beginning and words in any case; the last word on an edit counts."""
    words = [("a", "Accept"), ("b", "reject"), ("a", "NO"), ("c", "1")]
    (root / "l.csv").write_text("\ufeffedit_key,label\n" + "".join(f"{edit},{word}\n" for edit, word in words))
    lines = [json.dumps({"edit": edit, "label": word}) for edit, word in words]
    (root / "l.jsonl").write_text("\n".join(lines) + "\n\n")
    wanted = {"a": False, "b": False, "c": True}
    assert labels.read_labels(str(root / "l.csv")) == wanted == labels.read_labels(str(root / "l.jsonl"))


BAD = {
    "missing.csv": (None, "does not exist"),
    "no_label.csv": ("edit_key\nx\n", "row 1 .* has label ''"),
    "no_edit.csv": ("label\naccept\n", "row 1 .* has no edit_key"),
    "word.jsonl": ('{"edit": "x", "label": "maybe"}\n', "row 1 .* has label 'maybe'"),
    "list.jsonl": ("[1]\n", "line 1 .* is no JSON object"),
    "broken.jsonl": ('{"edit": \n', "line 1 .* is no JSON object"),
}


@pytest.mark.parametrize("name", BAD)
def test_a_bad_label_file_is_refused(name: str, tmp_path: Path) -> None:
    """One sentence with the row and what to write."""
    content, told = BAD[name]
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BadSpec, match=rf"field labels: .*{told}"):
        labels.read_labels(str(tmp_path / name))


def test_labels_of_other_edits_change_nothing(root: Path) -> None:
    """An unknown edit is named, an unjudged one told what to do, and no calibration is written."""
    with pytest.raises(BadSpec, match=r"'nobody' is no edit of .*, and 1 more"):
        labels.calibrate(str(root), said(root) | {"nobody": True, "else": True})
    table: Any = pq.read_table(root / "tables/edits.parquet").drop(["score_text_similarity"])
    pq.write_table(table, root / "tables/edits.parquet")
    with pytest.raises(BadSpec, match="60 of these edits are not judged; run cogvideo-edit judge"):
        labels.calibrate(str(root), said(root))
    assert not (root / CALIBRATION).exists()


def test_shares_have_wilson_intervals() -> None:
    """By the formula's own textbook value: 28 of 30 is .93, from .79 to .98."""
    assert labels.share_told(28, 30) == "0.93 (0.79 to 0.98), 28 of 30"
    assert labels.share_told(0, 0) == "none"


def test_early_scores_make_early_looks(root: Path) -> None:
    """Where clean estimates were scored, the calibration gives up what it would reject, and nearly nothing that is
    good; a look that saw too few edits is left out."""
    ledger = Ledger(str(root))
    for number, (key, good) in enumerate(said(root).items()):
        early = {"0.4": {"text_contrast": 0.9 if good else 0.1, "text_similarity": 0.5}}
        early |= {"0.7": early["0.4"]} if number < 4 else {}
        spec = {"edit": key}
        ledger.commit("judgements", fingerprint(spec), {}, spec, {"scores": {}, "early": early})
    made, figures = labels.calibrate(str(root), said(root))
    assert made.early.keys() == {"0.4"} and dict(figures)["early looks"] == "0.4"
    look = made.early["0.4"]
    assert look.confidence({"text_contrast": 0.1}) < look.limits["stop"] <= look.confidence({"text_contrast": 0.9})
    assert policy.read_calibration(root / CALIBRATION) == made
