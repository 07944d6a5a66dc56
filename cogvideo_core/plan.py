"""The plan: which clips, which windows of them, which edits, written down before any work starts."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from cogvideo_core import manifests, sources, uris, video
from cogvideo_core.errors import BadManifest, BadSpec, ClipError
from cogvideo_core.failures import attempt, is_failure
from cogvideo_core.model import VideoModel
from cogvideo_core.specs import DatasetSpec, EngineSpec, OutputSpec, RecipeSpec
from cogvideo_core.stores.objects import storing
from cogvideo_core.units import shape_of

Record = dict[str, Any]

CLIP_TEXTS = ("source_id", "clip", "uri", "name", "stamp", "source_prompt", "first_frame_uri", "image_uri")
CLIPS_SCHEMA = pa.schema(
    {name: pa.string() for name in CLIP_TEXTS}
    | {"target_prompts": pa.list_(pa.string()), "size": pa.int64(), "window": pa.int32(), "batch": pa.int32()}
)
EDITS_SCHEMA = pa.schema(
    {"source_id": pa.string(), "window": pa.int32(), "batch": pa.int32()}
    | {"first_frame_uri": pa.string(), "target_prompt": pa.string(), "recipe": pa.string(), "seed": pa.int64()}
)
EDIT_KEEPS = ("source_id", "window", "batch", "first_frame_uri")  # of the clip's record


def check_places(dataset: DatasetSpec, output: OutputSpec) -> None:
    """Refuses an output that can't be written to, or that lies where clips are looked for."""
    uris.open_store(output.root)
    if manifests.is_manifest(dataset.source) or uris.is_remote(dataset.source) != uris.is_remote(output.root):
        return
    source, root = (
        (uri if uris.is_remote(uri) else uris.local_path(uri)).rstrip("/") + "/"
        for uri in (dataset.source, output.root)
    )
    if root.startswith(source):
        raise BadSpec(
            f"field output.root: {output.root!r} lies inside the source folder, so that a second run would edit what "
            "the first one made; give another folder"
        )


def check_shape(dataset: DatasetSpec, model: VideoModel) -> None:
    """Refuses sizes the model can't take, before anything is read."""
    shape = shape_of(dataset, model)
    config = model.transformer.config
    multiple = model.pipe.vae_scale_factor_spatial * config.patch_size
    for field, value in (("height", shape.height), ("width", shape.width)):
        if value % multiple:
            raise BadSpec(f"field {field}: {value} is no multiple of {multiple}, which this model needs; use another")
    own = model.shape
    if config.use_learned_positional_embeddings and shape != own:
        raise BadSpec(
            f"field height: this model takes {own.frames} frames of {own.height}x{own.width} only; leave them 0"
        )


def planned_clips(dataset: DatasetSpec, model: VideoModel, need_targets: bool = True) -> Iterator[Record]:
    """Clip records and failures; with window "all" each clip is opened and gives one record a window."""
    for found in sources.read_clips(dataset, need_targets):
        clip = attempt(partial(check_first_frame, dataset, model), dict(found), "discover")
        if is_failure(clip) or dataset.window != "all":
            yield clip
            continue
        yield from _all_windows(dataset, model, clip)


def check_first_frame(dataset: DatasetSpec, model: VideoModel, clip: Record) -> Record:
    """The clip itself. Raises ClipError where its edited first frame could not be used."""
    if clip["image_uri"] and not model.image_to_video:
        problem, remedy = "it needs an image-to-video model", "leave it out or use CogVideoX-5B-I2V or 1.5-5B-I2V"
    elif clip["image_uri"] and dataset.window == "all":
        problem, remedy = "one image can't be the first frame of every window", "set dataset.window to first or middle"
    else:
        return clip
    raise ClipError(clip["clip"], f"first_frame_uri {clip['first_frame_uri']!r}: {problem}", remedy)


def _all_windows(dataset: DatasetSpec, model: VideoModel, clip: Record) -> Iterator[Record]:
    shape, limits = shape_of(dataset, model), video.Limits.of(dataset)

    def count(record: Record) -> Record:
        with tempfile.TemporaryDirectory() as folder:
            path = sources.fetch(record, Path(folder), dataset.max_megabytes * 10**6)  # type: ignore[arg-type]
            found = video.probe(path, record["clip"], limits)
            return {"windows": len(video.windows(found, record["clip"], shape.frames, shape.fps, "all"))}

    counted = attempt(count, clip, "discover")
    if is_failure(counted):
        yield counted
        return
    for window in range(counted["windows"]):
        yield dict(sources.at_window(clip, window))  # type: ignore[arg-type]


def write_plan(root: str, clips: Iterable[Record], recipe: RecipeSpec, engine: EngineSpec) -> list[Record]:
    """Writes plan/clips.parquet and plan/edits.parquet under `root`; returns the records, failures included."""
    records = list(clips)
    good = [record for record in records if not is_failure(record)]
    if not records:
        raise BadManifest("field source: no clips were found; give a folder with videos or a manifest with rows")
    # rows of one clip follow each other in one batch, so that the second finds what the first has inverted
    for index, (_, rows) in enumerate(groupby(good, key=itemgetter("source_id"))):
        for record in rows:
            record["batch"] = index // engine.clips_per_batch
    edits = [
        {**{name: record[name] for name in EDIT_KEEPS}, "target_prompt": prompt, "seed": seed} | {"recipe": recipe.name}
        for record in good
        for prompt in record["target_prompts"]
        for seed in recipe.seeds
    ]
    _write(f"{root}/plan/clips.parquet", good, CLIPS_SCHEMA)
    _write(f"{root}/plan/edits.parquet", edits, EDITS_SCHEMA)
    return records


def _write(url: str, rows: list[Record], schema: pa.Schema) -> None:
    table = pa.Table.from_pylist([{name: row[name] for name in schema.names} for row in rows], schema=schema)
    with storing(url):
        fs, path = uris.open_store(url)
        fs.makedirs(path.rsplit("/", 1)[0], exist_ok=True)
        with fs.open(path, "wb") as file:
            pq.write_table(table, file)


def batches(records: list[Record]) -> list[list[Record]]:
    """Good clips by their planned batch, in order."""
    found: dict[int, list[Record]] = {}
    for record in records:
        if not is_failure(record):
            found.setdefault(record["batch"], []).append(record)
    return [found[index] for index in sorted(found)]
