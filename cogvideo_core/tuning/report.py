"""What a search leaves under the root: tune/recipe.yaml, tune/tune.json, and a page that shows how sure it is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import yaml

from cogvideo_core.dataset.target import Target
from cogvideo_core.settings.specs import InversionSpec
from cogvideo_core.storage.uris import shown_clip
from cogvideo_core.tuning import page
from cogvideo_core.tuning.marks import QUALITIES, TOLERANCE, UNITS, Marks, differences, lowered, mean_marks, spans
from cogvideo_core.tuning.picking import front, rule
from cogvideo_core.tuning.preparing import Prepared
from cogvideo_core.tuning.search import Found, Search, groups_of
from cogvideo_core.tuning.space import Point
from cogvideo_core.tuning.trials import Trial

FOLDER = "tune"
Record = dict[str, Any]


def write(root: str, search: Search, found: Found, ready: Prepared) -> Record:
    """Writes the files below the root and returns what tune.json holds."""
    told = summary(search, found, ready)
    target = Target.of(root)
    target.write(f"{FOLDER}/recipe.yaml", recipe_yaml(search, found, told).encode())
    for name, data in page.files(told, strips(search, found)):
        target.write(f"{FOLDER}/{name}", data)
    target.write(f"{FOLDER}/tune.json", (json.dumps(told, indent=1) + "\n").encode())
    return told


def summary(search: Search, found: Found, ready: Prepared) -> Record:
    """All that was found, as JSON."""
    trials, states = found.trials, ("complete", "pruned", "failed")
    every = [found.preset, *found.layers, *trials, *found.held_out]
    counts = {"trials": len(trials)} | {state: sum(one.state == state for one in trials) for state in states}
    counts |= {"clips": search.clips, "held_out": search.held_out}
    return {
        "format": 1,
        "against": search.spec.against,
        "budget": search.spec.budget,
        "stopped": found.stopped,
        "rule": rule(search.spec.give_db),
        "units": UNITS,
        "tolerance": TOLERANCE,
        "give_db": search.spec.give_db,
        "counts": counts | {"evaluations": sum(one.evaluations for one in every)},
        "seconds": round(sum(one.seconds for one in every) + search.prepared_s, 1),
        "preset": about(found.preset, search.spec.against),
        "pick": about(found.pick) if found.pick else None,
        "pick_minus_preset": gains(found),
        "confirmed": confirmed(found, search.spec.give_db),
        "front": [about(one) for one in front(trials)],
        "layers": layer_curve(search, found.layers),
        "trials": [about(one, full=False) for one in trials],
        "clips": clips_of(ready),
        "problems": ready.problems,
    }


def about(trial: Trial, name: str = "", full: bool = True) -> Record:
    """A trial in the JSON; with intervals over clips and its whole recipe where it is `full`."""
    found: Record = {"name": name or f"trial {trial.number}", "number": trial.number, "state": trial.state}
    found |= {"why": trial.why, "clips": len(trial.scores), "cost": trial.cost, "steps": trial.steps}
    found |= {"seconds": trial.seconds, "evaluations": trial.evaluations, "params": trial.params}
    if trial.scores:
        found |= {name: round(value, 4) for name, value in zip(QUALITIES, trial.marks(), strict=True)}
    if full:
        gain = mean_gain(trial.scores)
        found |= {"spans": spans(trial.clips), "recipe": trial.recipe} | ({} if gain is None else {"text_gain": gain})
    return found


def mean_gain(scores: Sequence[Sequence[Record]]) -> float | None:
    """Mean of the judge's text_gain, where it gives one."""
    known = [edit["text_gain"] for edits in scores for edit in edits if "text_gain" in edit]
    return round(sum(known) / len(known), 4) if known else None


def gains(found: Found) -> Record | None:
    """Differences of pick and preset, with intervals, on both parts of the clips; None without a pick."""
    if found.pick is None:
        return None
    preset, pick = found.held_out
    return {
        "tuning": differences(found.pick.clips, found.preset.clips),
        "held_out": differences(pick.clips, preset.clips),
    }


def confirmed(found: Found, give_db: float = 0.0) -> str:
    """What the held-out clips say of the pick. yes: its means are no worse there, to the tolerance. no: the interval of
    text or preserved is below zero. unclear: neither. Of preserved, `give_db` are given away before."""
    if found.pick is None:
        return ""
    held = differences(found.held_out[1].clips, lowered(found.held_out[0].clips, give_db))
    if all(held[name][0] >= -TOLERANCE[name] for name in QUALITIES):
        return "yes"
    return "no" if any(held[name][2] < 0 for name in ("text", "preserved")) else "unclear"


def layer_curve(search: Search, layers: Sequence[Trial]) -> list[Record]:
    """For each group of layers, what changes when edits don't see the reference there; it is seen in all others."""
    if not layers:
        return []
    count, curve = search.space.layers, []
    groups = groups_of(count, min(search.spec.layer_groups, count))
    whole = layers[0].marks()
    for group, trial in zip(groups, layers[1:], strict=False):
        change: Marks = mean_marks(trial.clips) - whole
        depth = {"from": round(group.start / count, 4), "until": round(group.stop / count, 4)}
        curve.append(
            {"layers": [group.start, group.stop - 1]}
            | depth
            | {name: round(value, 4) for name, value in zip(QUALITIES, change, strict=True)}
        )
    return curve


def clips_of(ready: Prepared) -> list[Record]:
    """Which clips and prompts took part, and on which side."""
    records = next(iter(ready.by_steps.values()))
    return [
        {
            "clip": shown_clip(record["clip"]),
            "window": record.get("window", 0),
            "part": "tuning" if place < ready.clips else "held out",
            "prompts": record["target_prompts"],
        }
        for place, record in enumerate(records)
    ]


def strips(search: Search, found: Found) -> list[tuple[str, dict[int, bytes]]]:
    """Strips of the first clips: by the preset, then by each point of the front."""
    shown = [(search.spec.against, search.store.tiles("preset", 0))]
    return shown + [(f"trial {one.number}", search.store.tiles("trial", one.number)) for one in front(found.trials)]


def recipe_yaml(search: Search, found: Found, told: Record) -> str:
    """The pick as a file for --recipe; the preset's where none was better."""
    point: Point = found.pick.point if found.pick else search.preset
    inversion: InversionSpec = search.space.inversion.model_copy(update={"steps": point.steps})
    if found.pick:
        said = f"trial {found.pick.number} of {len(found.trials)}; held-out clips confirm it: {told['confirmed']}"
    else:
        said = f"no recipe was better on all counts: this is the preset {search.spec.against}"
    head = f"# Written by cogvideo-edit tune: {said}.\n# Use: cogvideo-edit run SOURCE --recipe recipe.yaml\n"
    groups = {"recipe": point.recipe.as_json(), "inversion": inversion.as_json()}
    return head + str(yaml.safe_dump(groups, sort_keys=False, allow_unicode=True))
