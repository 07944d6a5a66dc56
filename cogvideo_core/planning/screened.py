"""What the screen would make of a clip, as a row for people."""

from __future__ import annotations

from typing import Any

from cogvideo_core.settings.screen_specs import ScreenSpec
from cogvideo_core.stages.failures import is_failure
from cogvideo_core.stages.screen import reasons
from cogvideo_core.storage.uris import shown_clip

Record = dict[str, Any]
FIGURES = ("start_s", "luma", "black", "frozen", "moving", "text")


def row(screen: ScreenSpec, clip: Record) -> Record:
    """The verdict on a record of `planned_clips` that was opened, and why.

    kept: as it is. moved: cuts have moved its window. marked, dropped: limits or duplicates, by screen.action. failed:
    it can't be used, or its scenes are too short.
    """
    shown: Record = {"clip": shown_clip(clip["clip"]), "window": clip.get("window", 0), "cuts": None, "because": ""}
    shown |= dict.fromkeys(FIGURES)
    if is_failure(clip):
        verdict = "dropped" if clip["kind"] == "screened" else "failed"
        return shown | {"verdict": verdict, "because": clip["message"].removeprefix(f"clip {clip['clip']!r}: ")}
    measured = clip["measured"]
    window = measured["windows"][clip["window"]] if measured else {}
    why = reasons(screen, clip, window)
    moved = bool(window) and window["number"] is None
    verdict = ("dropped" if screen.action == "drop" else "marked") if why else "moved" if moved else "kept"
    figures = {name: window.get(name) for name in FIGURES}
    return shown | figures | {"verdict": verdict, "cuts": measured.get("cuts"), "because": "; ".join(why)}
