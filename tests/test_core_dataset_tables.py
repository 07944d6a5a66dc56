"""What a run's tables keep of earlier runs, and what they say of work that is gone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from cogvideo_core.dataset import collect, tables
from cogvideo_core.errors import BadSpec, CorruptObject, MissingClip
from cogvideo_core.settings.specs import OutputSpec
from cogvideo_core.stages.failures import failure
from cogvideo_core.storage.ledger import Ledger

Record = dict[str, Any]


def failed(clip: str, stage: str, window: int = 0) -> Record:
    return failure({"clip": clip, "window": window}, stage, MissingClip(clip, "it is gone", "put it back"), 1)


def good(clip: str, window: int = 0) -> Record:
    return {"clip": clip, "window": window}


def kept(root: Path, records: list[Record], last_stage: str) -> list[tuple[str, str, int]]:
    rows = tables.merged_failures(str(root), records, last_stage)
    return sorted((row["clip"], row["stage"], row["window"]) for row in rows)


def test_a_failure_stays_until_its_own_stage_succeeds(tmp_path: Path) -> None:
    """A later run clears what it did again: not other clips, other windows, nor stages it never came to."""
    earlier = [failed("a", "edit"), failed("b", "edit"), failed("a", "edit", 3), failed("c", "discover")]
    collect.collect(str(tmp_path), [], earlier, [], {})
    everything = [("a", "edit", 0), ("a", "edit", 3), ("b", "edit", 0), ("c", "discover", 0)]
    assert kept(tmp_path, [], "edit") == everything
    assert kept(tmp_path, [good("a"), good("c")], "invert") == everything[:3]
    assert kept(tmp_path, [good("a"), good("c")], "edit") == everything[1:3]
    assert kept(tmp_path, [failed("b", "encode")], "edit") == [*everything[:2], ("b", "encode", 0), everything[3]]


def test_collecting_where_nothing_was_done_is_refused(tmp_path: Path) -> None:
    """A mistyped root is no empty dataset."""
    with pytest.raises(BadSpec, match="nothing is committed"):
        tables.collect_run(OutputSpec(root=str(tmp_path)), Ledger(str(tmp_path)), [], {})
    assert list(tmp_path.iterdir()) == []


def test_an_edit_whose_source_is_gone_is_an_error_and_no_silence(tmp_path: Path) -> None:
    """Its row is not in the dataset, and the error table says what to do."""
    texts = ("trajectory_key", "latents_key", "source_id", "source_prompt", "inversion_prompt", "negative_prompt")
    row: Record = dict.fromkeys(texts, "") | {"clip": "a.mp4", "name": "a", "window": 0, "target_prompt": "b"}
    row |= {"edit_key": "1" * 64, "source_key": "2" * 64, "seed": 0, "scores": {}}
    (tmp_path / "edit.mp4").write_bytes(b"video")
    ledger = Ledger(str(tmp_path / "root"))
    ledger.commit("edits", "1" * 64, {"edit.mp4": tmp_path / "edit.mp4"}, {}, {"row": row})
    ledger.commit("sources", "3" * 64, {}, {}, {})
    counts = tables.collect_run(OutputSpec(root=str(tmp_path / "root")), ledger, [], {})
    assert (counts["edits"], counts["errors"]) == (0, 1)
    (error,) = tables.read_table(str(tmp_path / "root"), "errors")
    assert (error["clip"], error["stage"]) == ("a.mp4", "collect")
    assert "source video of an earlier run is gone; run it again" in error["message"]


def test_a_table_is_read_in_order_and_by_column(tmp_path: Path) -> None:
    """`iter_table` gives the rows in their order, with the columns asked for; a missing or broken table is one
    sentence."""
    (tmp_path / "tables").mkdir()
    file = tmp_path / "tables/edits.parquet"
    pq.write_table(pa.table({"a": list(range(12_000)), "b": ["x"] * 12_000}), file)
    rows = list(tables.iter_table(str(tmp_path), "edits", ["a"]))
    assert rows == [{"a": number} for number in range(12_000)]
    file.write_bytes(b"PAR1 no table PAR1")
    with pytest.raises(CorruptObject, match="make it anew"):
        list(tables.iter_table(str(tmp_path), "edits"))
    with pytest.raises(BadSpec, match="there is no table"):
        list(tables.iter_table(str(tmp_path), "errors"))
