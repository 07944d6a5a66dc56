"""From a benchmark's folder to the manifest of a run: which edits, of how many frames, as rows with own columns."""

from __future__ import annotations

import json
import math
import os
import uuid
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from cogvideo_core.benchmarks.cases import Benchmark, Case, unique
from cogvideo_core.benchmarks.reading import folder_of
from cogvideo_core.benchmarks.registry import benchmark_of
from cogvideo_core.errors import BadManifest, BadSpec, EditError
from cogvideo_core.inputs.frame_folders import frames_in
from cogvideo_core.media import video
from cogvideo_core.models.configuration import Configured
from cogvideo_core.settings.fingerprints import fingerprint
from cogvideo_core.settings.specs import DatasetSpec, OutputSpec
from cogvideo_core.stages.units import shape_of
from cogvideo_core.storage.uris import is_remote, local_path

FOLDER, CASES, MANIFEST = "benchmark", "cases.json", "manifest.jsonl"
LEAST_FRAMES = 9
GIVEN = {"fit": "stretch", "window": "first", "allow_outside": True}  # of the dataset: frames must lie over the clip's


class Chosen(NamedTuple):
    """Which of a benchmark's edits are asked for."""

    prompts: str = ""  # a file, for benchmarks without prompts of their own
    types: tuple[str, ...] = ()  # none: all
    limit: int = 0  # clips, from the first on; 0: all
    masks: bool = False  # whether edits may use the benchmark's masks, which else only scores do


class Prepared(NamedTuple):
    """What a run is made from and scored by."""

    benchmark: Benchmark
    folder: Path
    place: Path  # <root>/benchmark/<name>
    cases: list[Case]
    frames: int  # of each edit
    masks: bool
    notes: list[str]  # sentences about what was left out or made shorter

    @property
    def manifest(self) -> Path:
        return self.place / MANIFEST

    @property
    def data_sha256(self) -> str:
        """Of the list of cases: paths are relative to the benchmark's folder."""
        return fingerprint([_relative(case, self.folder) for case in self.cases])


def prepare(
    name: str, given: str, output: OutputSpec, chosen: Chosen, dataset: DatasetSpec, model: Configured
) -> Prepared:
    """Reads the folder of a benchmark, and writes the manifest and the list of cases under the root.

    Raises BadSpec, BadManifest.
    """
    benchmark, folder = benchmark_of(name), folder_of(given)
    check_settings(benchmark, output, chosen, dataset)
    cases, left_out = unique(benchmark.read(folder, chosen.prompts))
    cases, notes = _chosen(cases, chosen), _told_left_out(left_out)
    shape = shape_of(dataset, model)
    lengths = lengths_of(cases, dataset, shape.fps)
    frames = shape.frames
    if not dataset.frames and not model.transformer_config.use_learned_positional_embeddings:
        frames = fitting(shape.frames, lengths.values())
    notes += _told_frames(frames, shape.frames, lengths)
    place = Path(local_path(output.root)) / FOLDER / name
    found = Prepared(benchmark, folder, place, cases, frames, chosen.masks, notes)
    write(found, shape.fps)
    return found


def check_settings(benchmark: Benchmark, output: OutputSpec, chosen: Chosen, dataset: DatasetSpec) -> None:
    """Raises BadSpec for settings with which no evaluator could compare edits with their clips."""
    if is_remote(output.root):
        raise BadSpec(f"field output.root: {output.root!r} is remote, and edits are laid out as files; give a folder")
    for field, wanted in (("fit", "stretch"), ("window", "first")):
        if (value := getattr(dataset, field)) != wanted:
            problem = f"field dataset.{field}: {value} would show other frames than the benchmark's clips have"
            raise BadSpec(f"{problem}; leave it {wanted}")
    if chosen.prompts and not benchmark.takes_prompts:
        raise BadSpec(f"field prompts: {benchmark.title} has prompts of its own; leave out --prompts")


def _chosen(cases: Sequence[Case], chosen: Chosen) -> list[Case]:
    """The cases of the wanted types and of the first clips, those of a clip together. Raises BadSpec, BadManifest."""
    known = dict.fromkeys(case.edit_type for case in cases)
    if wrong := [kind for kind in chosen.types if kind not in known]:
        raise BadSpec(f"field types: there is no type {wrong[0][:60]!r}; there are {', '.join(known)}")
    wanted = [case for case in cases if not chosen.types or case.edit_type in chosen.types]
    clips = list(dict.fromkeys(case.clip for case in wanted))
    order = {clip: number for number, clip in enumerate(clips[: chosen.limit or None])}
    if not any(Path(clip).exists() for clip in order):
        problem = f"none of its {len(order)} clips exists, the first should be {clips[0]!r}"
        raise BadManifest(f"folder of the benchmark: {problem}; unpack or download the clips")
    return sorted((case for case in wanted if case.clip in order), key=lambda case: order[case.clip])


def lengths_of(cases: Iterable[Case], dataset: DatasetSpec, fps: int) -> dict[str, int]:
    """How many frames each clip has for an edit at `fps`: all of a folder, those at that rate of a video. Clips that
    can't be read are left out: they fail in the run."""
    found, limits = dict[str, int](), video.Limits.of(dataset)
    for clip in dict.fromkeys(case.clip for case in cases):
        path = Path(clip)
        try:
            if path.is_dir():
                found[clip] = len(frames_in(clip, clip))
            else:
                probe = video.probe(path, clip, limits)
                found[clip] = math.floor((probe.seconds + float(1 / (2 * probe.fps))) * fps)
        except EditError:
            continue
    return found


def fitting(own: int, lengths: Collection[int]) -> int:
    """The most frames, 8k+1 and no more than the model's own, that every clip has; at least 9."""
    shortest = min(lengths, default=own)
    return min(own, max(LEAST_FRAMES, (shortest - 1) // 8 * 8 + 1))


def _told_frames(frames: int, own: int, lengths: Mapping[str, int]) -> list[str]:
    short = sum(length < frames for length in lengths.values())
    if frames < own:
        clip = min(lengths, key=lambda clip: lengths[clip])
        told = f"edits have {frames} frames instead of the model's {own}, as {Path(clip).name!r} has {lengths[clip]}"
        return [f"{told}; --set dataset.frames={own} leaves out shorter clips"]
    return [f"{short} clips have fewer than {frames} frames and are left out"] if short else []


def _told_left_out(left_out: Sequence[Case]) -> list[str]:
    if not left_out:
        return []
    about = f"{len(left_out)} entries are left out, as earlier ones have the same id or place"
    return [f"{about}; the first is {left_out[0].id!r}"]


def row_of(case: Case, prepared: Prepared, fps: int) -> dict[str, Any]:
    """A case as a row of a manifest; all but clip, prompts and mask are columns of its own."""
    row = {"clip": case.clip, "source_prompt": case.source_prompt, "target_prompt": case.target_prompt}
    row |= {
        "benchmark": prepared.benchmark.name,
        "benchmark_id": case.id,
        "edit_type": case.edit_type,
        "instruction": case.instruction,
    }
    row |= {f"question_{kind}": text for kind, text in case.questions} | {f"benchmark_{k}": v for k, v in case.more}
    if Path(case.clip).is_dir():
        row["fps"] = str(fps)  # the model's: so each frame of the clip is one of the edit's
    if case.mask:
        row["benchmark_mask"] = os.path.relpath(case.mask, prepared.folder)
    return row | ({"mask": case.mask} if prepared.masks and case.mask else {})


def write(prepared: Prepared, fps: int) -> None:
    """The manifest and the list of cases, each whole or not at all."""
    prepared.place.mkdir(parents=True, exist_ok=True)
    rows = (row_of(case, prepared, fps) for case in prepared.cases)
    replace(prepared.manifest, "".join(json.dumps(row) + "\n" for row in rows).encode())
    about = {"benchmark": prepared.benchmark.name, "folder": str(prepared.folder), "frames": prepared.frames}
    about |= {"masks": prepared.masks, "notes": prepared.notes, "cases": [case.as_json() for case in prepared.cases]}
    replace(prepared.place / CASES, json.dumps(about).encode())


def prepared_of(root: str, name: str = "") -> Prepared:
    """What was prepared under a root; `name` says of which benchmark, where there are several. Raises BadSpec."""
    folder = Path(local_path(root)) / FOLDER
    found = sorted(path.parent.name for path in folder.glob(f"*/{CASES}"))
    if not found or (name and name not in found) or (not name and len(found) > 1):
        there = f"there are {', '.join(found)}; name one with --name" if found else "run one first"
        raise BadSpec(f"field root: {root!r} has no one benchmark {name or 'prepared'}; {there}")
    file = folder / (name or found[0]) / CASES
    try:
        about = json.loads(file.read_bytes())
        cases = [Case.from_json(case) for case in about["cases"]]
        benchmark = benchmark_of(about["benchmark"])
        return Prepared(
            benchmark, Path(about["folder"]), file.parent, cases, about["frames"], about["masks"], about["notes"]
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise BadSpec(f"field root: {str(file)!r} can't be read ({error}); prepare the benchmark again") from error


def _relative(case: Case, folder: Path) -> dict[str, Any]:
    paths = {name: os.path.relpath(path, folder) if (path := getattr(case, name)) else "" for name in ("clip", "mask")}
    return case.as_json() | paths


def replace(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all."""
    part = path.with_name(f".{uuid.uuid4().hex}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)
