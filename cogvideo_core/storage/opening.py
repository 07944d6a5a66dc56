"""The store at an address: a local folder, or any fsspec file system."""

from __future__ import annotations

import fsspec
from fsspec.implementations.local import LocalFileSystem

from cogvideo_core.errors import BadSpec
from cogvideo_core.storage.local import LocalObjects
from cogvideo_core.storage.objects import Objects, redacted


def open_objects(root: str) -> Objects:
    """The store at a local path or fsspec URL. Raises BadSpec for a chained URL or an unknown protocol."""
    if "::" in root:
        raise BadSpec("root: a chained URL ('::') can't promise to create a file only once; give the plain URL")
    try:
        # Cached listings would hide what other processes commit.
        fs, path = fsspec.core.url_to_fs(root, use_listings_cache=False)
    except (ImportError, ValueError) as error:
        raise BadSpec(f"root: {redacted(error)}; give a local path or an fsspec URL") from None
    if isinstance(fs, LocalFileSystem):
        return LocalObjects(fs, path)
    return Objects(fs, path)
