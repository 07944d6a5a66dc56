"""What a person said of edits: nothing is lost, half-written or misread, and it stands above the judge."""

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest

from cogvideo_core.dataset.reviews import FILE, append_review, labels_of, read_reviews
from cogvideo_core.dataset.verdicts import Deciding
from cogvideo_core.storage.ledger import Ledger

KEYS = [f"{i:064x}" for i in range(200)]


def said_by(root: Path, first: int) -> None:
    for key in KEYS[first : first + 100]:
        append_review(root, key, "keep")


def test_the_last_word_counts(tmp_path: Path) -> None:
    """A word that is taken back leaves nothing; preferring is keeping, for a calibration."""
    for key, said in ((0, "keep"), (1, "reject"), (0, "reject"), (2, "prefer"), (1, "undo"), (3, "keep")):
        append_review(tmp_path, KEYS[key], said)
    found = read_reviews(Ledger(str(tmp_path)))
    assert found == {KEYS[0]: "reject", KEYS[2]: "prefer", KEYS[3]: "keep"}
    assert labels_of(found) == {KEYS[0]: False, KEYS[2]: True, KEYS[3]: True}


def test_two_reviewers_at_once_lose_nothing(tmp_path: Path) -> None:
    """Two processes of a hundred words each leave two hundred whole lines."""
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=said_by, args=(tmp_path, first)) for first in (0, 100)]
    for one in both:
        one.start()
    for one in both:
        one.join(60)
    assert [json.loads(line)["said"] for line in (tmp_path / FILE).read_text().splitlines()] == ["keep"] * 200
    assert read_reviews(Ledger(str(tmp_path))).keys() == set(KEYS)


def test_half_a_line_costs_itself_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What a killed server has left half-written, and whatever else is no review, is skipped with a word about it."""
    append_review(tmp_path, KEYS[0], "keep")
    with (tmp_path / FILE).open("ab") as file:
        file.write(b'[1]\n\xff\xfe\n{"edit_key": "../x", "said": "keep"}\n' + b'{"edit_key": "00')
    append_review(tmp_path, KEYS[1], "reject")
    assert read_reviews(Ledger(str(tmp_path))) == {KEYS[0]: "keep", KEYS[1]: "reject"}
    assert [number for number in range(1, 7) if f"line {number} of" in caplog.text] == [2, 3, 4, 5]


@pytest.mark.parametrize(("key", "said"), [("x", "keep"), ("../" * 22, "keep"), (KEYS[0], "delete"), (None, "keep")])
def test_what_is_no_review_is_not_written(tmp_path: Path, key: Any, said: str) -> None:
    """Only keys of edits and the four words."""
    with pytest.raises(ValueError, match="a review names"):
        append_review(tmp_path, key, said)
    assert not (tmp_path / FILE).exists()


def rows(*confidences: float) -> list[Any]:
    return [
        {"edit_key": key, "clip": "a.mp4", "window": 0, "target_prompt": "x", "state": "done", "scores": {}}
        | {"scores": {"text_choice": confidence, "kept_db": 20.0}}
        for key, confidence in zip(KEYS, confidences, strict=False)
    ]


def verdicts(root: Path, *confidences: float, **judge: Any) -> list[tuple[str, int, bool]]:
    ledger = Ledger(str(root))
    about = {"model": {"path": "other"}, "judge": judge | {"text": "none"}}
    found = Deciding.of(ledger, about).decided(rows(*confidences))
    return [(row["verdict"], row["rank"], row["kept"]) for row in found]


def test_a_person_overrides_the_judge(tmp_path: Path) -> None:
    """What was kept is in, what was rejected is out whatever the settings, and what is preferred is the best."""
    assert verdicts(tmp_path, 0.9, 0.5) == [("unjudged", 1, True), ("unjudged", 2, True)]
    append_review(tmp_path, KEYS[0], "reject")
    append_review(tmp_path, KEYS[1], "prefer")
    assert verdicts(tmp_path, 0.9, 0.5, keep="all") == [("rejected", 2, False), ("accepted", 1, True)]
    append_review(tmp_path, KEYS[0], "keep")
    assert verdicts(tmp_path, 0.9, 0.5, keep="best") == [("accepted", 2, True), ("accepted", 1, True)]
