"""What a store says of a clip's file: its size and its stamp, which changes when the file does."""

from __future__ import annotations

import os
import stat

from cogvideo_core.errors import MissingClip, NotAVideo, StorageError
from cogvideo_core.storage.uris import is_remote, open_store, scrubbed

ETAGS = ("ETag", "etag", "md5Hash", "content_md5", "Content-MD5", "blob_id")  # blob_id: of the hub
DATES = ("Last-Modified", "mtime", "LastModified", "last_modified", "created")


def stamped(clip: str, uri: str) -> tuple[int, str]:
    """(bytes, stamp) of a file; 0 and "" where the store does not report them. `clip` is its name in error sentences.

    Raises MissingClip, NotAVideo (a folder or a pipe), StorageError.
    """
    return remote_stat(clip, uri) if is_remote(uri) else local_stat(clip, uri)


def local_stat(clip: str, path: str) -> tuple[int, str]:
    try:
        found = os.stat(path)
    except (FileNotFoundError, NotADirectoryError) as error:
        backslash = "\\" in clip
        remedy = "write it with / instead of \\, relative to the manifest" if backslash else "correct the path"
        raise MissingClip(clip, "there is no such file", f"{remedy}, or remove the row") from error
    except OSError as error:
        raise StorageError(f"clip {clip!r}: can't be read ({error.strerror}); check its permissions") from error
    if not stat.S_ISREG(found.st_mode):  # opening a named pipe would wait for ever
        raise NotAVideo(clip, "it is no regular file", "remove the row")
    return found.st_size, str(found.st_mtime_ns)


def remote_stat(clip: str, uri: str) -> tuple[int, str]:
    store, path = open_store(uri)
    try:
        info = store.info(path)
    except FileNotFoundError as error:
        raise MissingClip(clip, "there is no such object", "correct the URL or remove the row") from error
    except Exception as error:  # every store has its own classes
        raise StorageError(
            f"clip {clip!r}: its store does not answer ({scrubbed(error)}); check access, try again"
        ) from error
    if info.get("type") == "directory":
        raise NotAVideo(clip, "it is a folder", "name the files in it")
    stamps = (str(info[key]).strip('"') for key in (*ETAGS, *DATES) if info.get(key))
    return int(info.get("size") or 0), next(stamps, "")
