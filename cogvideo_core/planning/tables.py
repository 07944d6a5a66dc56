"""The plan on disk: clips, edits and refused rows as tables that are written and read a few thousand rows at a time."""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import ExitStack
from fractions import Fraction
from itertools import groupby
from math import ceil
from operator import itemgetter
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cogvideo_core.errors import BadManifest, BadSpec
from cogvideo_core.inputs.masks import AUTO, asked_mask
from cogvideo_core.settings.mask_specs import MaskSpec
from cogvideo_core.settings.specs import EngineSpec, RecipeSpec, canonical
from cogvideo_core.stages.failures import ERROR_FIELDS, is_failure
from cogvideo_core.stages.whole import shares, whole_of, window_count
from cogvideo_core.stages.wishes import asked_of, edits_by_recipe, prompts_of
from cogvideo_core.storage.objects import storing
from cogvideo_core.storage.uris import open_store

Record = dict[str, Any]

CLIP_TEXTS = ("source_id", "clip", "uri", "name", "stamp", "source_prompt", "first_frame_uri", "image_uri")
WORK_SCHEMA = pa.schema(
    {name: pa.string() for name in CLIP_TEXTS}
    | {"target_prompts": pa.list_(pa.string()), "size": pa.int64(), "window": pa.int32()}
    | {"batch": pa.int32(), "wave": pa.int32(), "own": pa.list_(pa.string()), "overrides": pa.list_(pa.string())}
    | {"start_s": pa.float64(), "end_s": pa.float64(), "mask": pa.string(), "mask_uri": pa.string()}
    | {"duplicate_of": pa.string(), "whole": pa.string()}
)
# named in the plan's hash only where they are given
LATER = ("overrides", "start_s", "end_s", "mask", "mask_uri", "duplicate_of", "whole")
PROBED = {"content": pa.string(), "seconds": pa.float64(), "source_fps": pa.float64()} | {
    name: pa.int32() for name in ("source_frames", "source_height", "source_width")
}  # of the file itself; empty until a run or plan opens it
CLIPS_SCHEMA = pa.schema([*WORK_SCHEMA, *pa.schema(PROBED)])
EDIT_KEEPS = ("source_id", "window", "batch", "wave", "first_frame_uri", "mask")  # copied from the clip's row
EDITS_SCHEMA = pa.schema(
    {name: WORK_SCHEMA.field(name).type for name in EDIT_KEEPS}
    | {"target_prompt": pa.string(), "recipe": pa.string(), "seed": pa.int64(), "strength": pa.float64()}
    | {"negative_prompt": pa.string()}
)
REFUSED_SCHEMA = pa.schema(ERROR_FIELDS)
GIVEN = MaskSpec()
ROWS_A_GROUP = 5_000  # clips held in memory at a time


class Planned(TypedDict):
    """What a plan holds. `plan` is a hash of its rows: the same for the same work."""

    clips: int
    edits: int
    refused: int
    batches: int
    waves: int
    plan: str
    recipes: NotRequired[dict[str, int]]  # edits of each, where rows override the run's recipe
    mask_rows: NotRequired[int]  # evaluations at each level that is looked at for masks that are to be found
    screened: NotRequired[int]  # of the refused, where the screen was asked to drop any
    long_clips: NotRequired[int]  # that are edited as one, in several windows
    windows: NotRequired[int]  # of the long clips
    window_latents: NotRequired[int]  # latent frames of these windows
    clip_latents: NotRequired[int]  # latent frames of the long clips: what windows without overlap would have


class _Sheet:
    """One Parquet file that grows by a row group whenever enough rows have come."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self.writer, self.schema, self.rows = pq.ParquetWriter(path, schema, compression="zstd"), schema, list[Record]()

    def add(self, row: Record) -> pa.Table | None:
        self.rows.append(row)
        return self.flush() if len(self.rows) >= ROWS_A_GROUP else None

    def flush(self) -> pa.Table | None:
        """Writes and returns waiting rows."""
        if not self.rows:
            return None
        columns = {
            field.name: pa.array([row.get(field.name) for row in self.rows], field.type) for field in self.schema
        }
        table = pa.table(columns, schema=self.schema)
        self.writer.write_table(table)
        self.rows.clear()
        return table


def write_plan(
    root: str,
    clips: Iterable[Record],
    recipe: RecipeSpec,
    engine: EngineSpec,
    folder: str = "plan",
    mask: MaskSpec = GIVEN,
) -> Planned:
    """Writes clips, edits and refused rows as they come to `folder` under the root; memory stays flat.

    Raises BadManifest where there are no rows at all.
    """
    with tempfile.TemporaryDirectory() as place:
        planned = _write_sheets(Path(place), _numbered(clips, engine), recipe, mask)
        if not planned["clips"] + planned["refused"]:
            raise BadManifest("field source: no clips were found; give a folder with videos or a manifest with rows")
        (Path(place) / "plan.json").write_text(canonical(planned))
        for name in ("clips.parquet", "edits.parquet", "refused.parquet", "plan.json"):
            _put(Path(place) / name, f"{root}/{folder}/{name}")
    return planned


def read_planned(root: str, folder: str = "plan") -> Planned:
    """What `write_plan` returned. Raises BadSpec where there is no plan."""
    fs, path = open_store(f"{root}/{folder}/plan.json")
    with storing(path):
        if not fs.exists(path):
            raise BadSpec(f"field output.root: there is no plan under {root!r}; make one with cogvideo-edit plan")
        return Planned(**json.loads(fs.cat_file(path)))  # type: ignore[typeddict-item]


def _numbered(clips: Iterable[Record], engine: EngineSpec) -> Iterator[Record]:
    """Gives good records their batch and wave. Adjacent rows of one clip share a batch, so that the second reuses the
    first one's inversion."""
    index, last, wave, more, windows = -1, None, 0, 0, Counter[int]()
    for record in clips:
        if not is_failure(record):
            index, last = index + (record["source_id"] != last), record["source_id"]
            batch = index // engine.clips_per_batch
            if batch not in windows:  # a wave holds fewer batches that take more task runs
                more += sum(shares(count, engine) - 1 for count in windows.values())
                windows.clear()
                wave = min(wave + 1, (batch + ceil(2 * more / 3)) // engine.batches_per_wave)
            windows[batch] += window_count(record)
            record |= {"batch": batch, "wave": wave}
        yield record


def _write_sheets(place: Path, records: Iterable[Record], recipe: RecipeSpec, mask: MaskSpec) -> Planned:
    counts, digest, batches, waves = {"clips": 0, "edits": 0, "refused": 0}, hashlib.sha256(), 0, 0
    recipes, long, overridden = Counter[str](), Counter[str](), False
    with ExitStack() as stack:
        schemas = {"clips": CLIPS_SCHEMA, "edits": EDITS_SCHEMA, "refused": REFUSED_SCHEMA}
        clips, edits, refused = (_Sheet(place / f"{name}.parquet", schema) for name, schema in schemas.items())
        for sheet in (clips, edits, refused):
            stack.callback(sheet.writer.close)
        for record in records:
            if is_failure(record):
                counts["refused"] += 1
                if record.get("kind") == "screened":
                    counts["screened"] = counts.get("screened", 0) + 1
                refused.add(record)
                continue
            counts["clips"] += 1
            recipes.update(edits_by_recipe(recipe, record))
            long.update(_long(record))
            overridden |= any(record.get("overrides") or ())
            if asked_mask(record.get("mask"), mask.use) == AUTO:
                counts["mask_rows"] = counts.get("mask_rows", 0) + 1 + len({*record["target_prompts"]})
            batches, waves = record["batch"] + 1, record["wave"] + 1
            digest.update(_hashed(record))
            if (written := clips.add(record)) is not None:
                edits.writer.write_table(edits_of(written, recipe))
        if (written := clips.flush()) is not None:
            edits.writer.write_table(edits_of(written, recipe))
        refused.flush()
    counts |= {"edits": recipes.total(), "batches": batches, "waves": waves} | dict(long)
    planned = Planned(**counts, plan=digest.hexdigest())  # type: ignore[typeddict-item]
    return planned | {"recipes": dict(recipes)} if overridden else planned


def _long(record: Record) -> Record:
    """The windows of a clip and their latent frames, where the plan says so."""
    whole = whole_of(record)
    if whole is None:
        return {}
    spans = sum(len(layout) * layout.span for layout in whole.layouts)
    held = sum(layout.latents for layout in whole.layouts)
    return {"long_clips": 1, "windows": len(whole.windows), "window_latents": spans, "clip_latents": held}


def _hashed(record: Record) -> bytes:
    """What the plan's hash covers of a clip."""
    named = [name for name in WORK_SCHEMA.names if name not in LATER and (name != "own" or any(record.get(name) or ()))]
    given = {name: value for name in LATER if (value := record.get(name)) and (name != "overrides" or any(value))}
    return canonical([*(record.get(name) for name in named), *([given] if given else [])]).encode()


def edits_of(clips: pa.Table, recipe: RecipeSpec) -> pa.Table:
    """A row for each target prompt, recipe, seed and strength of these clips, in this order; none for the ladder."""
    if pc.any(pc.not_equal(pc.list_flatten(clips["overrides"]), "")).as_py():
        return _overridden_edits(clips, recipe)
    prompts, variants = clips["target_prompts"].combine_chunks(), recipe.rungs[0]
    owner = np.repeat(pc.list_parent_indices(prompts).to_numpy(), len(variants))
    texts = pc.list_flatten(prompts)
    columns: dict[str, Any] = {name: clips[name].take(owner) for name in EDIT_KEEPS}
    columns["target_prompt"] = texts.take(np.repeat(np.arange(len(texts)), len(variants)))
    recipes, seeds, strengths = zip(*variants, strict=True)
    columns["recipe"] = pa.array(list(recipes) * len(texts), pa.string())
    columns["seed"] = pa.array(np.tile(np.array(seeds, np.int64), len(texts)))
    columns["strength"] = pa.array(np.tile(np.array(strengths, np.float64), len(texts)))
    columns["negative_prompt"] = pa.repeat(recipe.negative_prompt, len(owner))
    return pa.table(columns, schema=EDITS_SCHEMA)


def _overridden_edits(clips: pa.Table, recipe: RecipeSpec) -> pa.Table:
    """`edits_of` clips some of whose prompts have overrides, which takes longer."""
    rows = [
        {name: clip[name] for name in EDIT_KEEPS} | asked
        for clip in clips.to_pylist()
        for asked, _ in asked_of(recipe, prompts_of(clip))
    ]
    return pa.Table.from_pylist(rows, EDITS_SCHEMA)


def _put(path: Path, url: str) -> None:
    with storing(url):
        fs, target = open_store(url)
        fs.makedirs(target.rsplit("/", 1)[0], exist_ok=True)
        fs.put_file(str(path), target)


def read_batches(root: str, waves: Collection[int] | None = None, folder: str = "plan") -> Iterator[list[Record]]:
    """The plan's batches in order, of these waves or of all; a few thousand rows are in memory at a time."""
    for _, rows in groupby(_rows(f"{root}/{folder}/clips.parquet", waves), key=itemgetter("batch")):
        yield list(rows)


def _rows(url: str, waves: Collection[int] | None) -> Iterator[Record]:
    fs, path = open_store(url)
    with storing(url):
        try:  # not fs.exists, which takes any store error for a "no"
            file = fs.open(path, "rb")
        except FileNotFoundError as error:
            problem = f"field output.root: there is no plan at {url!r}; make one with cogvideo-edit plan"
            raise BadSpec(problem) from error
    with file:
        table = pq.ParquetFile(file)
        groups = [n for n in range(table.num_row_groups) if waves is None or _has_wave(table, n, waves)]
        names = [name for name in WORK_SCHEMA.names if name in table.schema_arrow.names]  # earlier versions lack some
        for part in table.iter_batches(batch_size=ROWS_A_GROUP, row_groups=groups, columns=names):
            yield from (row for row in part.to_pylist() if waves is None or row["wave"] in waves)


def _has_wave(table: pq.ParquetFile, group: int, waves: Collection[int]) -> bool:
    """Waves ascend in the file, so a group's min and max show its waves."""
    held = table.metadata.row_group(group).column(CLIPS_SCHEMA.get_field_index("wave")).statistics
    return any(held.min <= wave <= held.max for wave in waves)


def fill_probed(root: str, of_wave: Callable[[int], Iterable[Record]], folder: str = "plan") -> None:
    """Adds to the plan's clips what a run found when it opened their files; of_wave gives a wave's records.

    The plan's hash covers only what is asked for, so it stays.
    """
    fs, path = open_store(url := f"{root}/{folder}/clips.parquet")
    known: tuple[int, dict[tuple[str, int], Record]] = (-1, {})
    with tempfile.TemporaryDirectory() as place:
        sheet = _Sheet(Path(place) / "clips.parquet", CLIPS_SCHEMA)
        with storing(url), fs.open(path, "rb") as file:
            for part in pq.ParquetFile(file).iter_batches(batch_size=ROWS_A_GROUP):
                for row in part.to_pylist():
                    if known[0] != row["wave"]:
                        probed = {(clip["source_id"], clip["window"]): _probed(clip) for clip in of_wave(row["wave"])}
                        known = row["wave"], probed
                    sheet.add(row | known[1].get((row["source_id"], row["window"]), {}))
                sheet.flush()
        sheet.writer.close()
        _put(Path(place) / "clips.parquet", url)


def _probed(record: Record) -> Record:
    """A record's findings about its file, by the plan's columns; empty where it was not opened."""
    if "probe" not in record:
        return {}
    probe, sizes = record["probe"], ("frames", "height", "width")
    told = {"content": record["content"], "seconds": probe["seconds"], "source_fps": float(Fraction(probe["fps"]))}
    return told | {f"source_{name}": probe[name] for name in sizes}


def read_refused(root: str, folder: str = "plan") -> Iterator[Record]:
    """The rows that could not be planned, as failures."""
    fs, path = open_store(f"{root}/{folder}/refused.parquet")
    with storing(path):
        file = fs.open(path, "rb")
    with file:
        for part in pq.ParquetFile(file).iter_batches(batch_size=ROWS_A_GROUP):
            yield from ({k: v for k, v in row.items() if v is not None} for row in part.to_pylist())
