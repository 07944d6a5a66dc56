"""Where a run reads from and writes to, checked before anything else: these checks need no model, and no server."""

from __future__ import annotations

from cogvideo_core.errors import BadSpec
from cogvideo_core.inputs import manifests, sources
from cogvideo_core.settings.specs import DatasetSpec, OutputSpec
from cogvideo_core.storage import uris


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


def check_source(dataset: DatasetSpec, need_targets: bool = True) -> None:
    """Raises BadManifest where the source or the prompts can't be used as a whole; only their beginning is read."""
    next(sources.read_clips(dataset, need_targets))
