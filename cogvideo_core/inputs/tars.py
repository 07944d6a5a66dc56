"""Clips in tar files, as webdataset writes them: members of one key, such as `0001.mp4` and `0001.json`, are a sample.

Nothing is unpacked: a clip is addressed by its place in the tar, and only its caption is read with the rows. Links,
devices and sparse members are never followed.
"""

from __future__ import annotations

import io
import json
import posixpath
import tarfile
from collections.abc import Iterator
from itertools import groupby
from typing import BinaryIO, NamedTuple

from cogvideo_core.errors import BadManifest, ClipError
from cogvideo_core.inputs.columns import INSIDE, OWN, Given, Inside, Pairs, Values, object_fields
from cogvideo_core.inputs.inside import Address, address
from cogvideo_core.inputs.lines import opened
from cogvideo_core.inputs.readers import shallow
from cogvideo_core.inputs.stamps import stamped
from cogvideo_core.media.tools import VIDEO_ENDINGS
from cogvideo_core.storage.uris import path_part, printable, scrubbed

MAX_HEADER_BYTES = 1 << 20  # of a member's name and attributes
MAX_CAPTION_BYTES = 1 << 20
BLOCK_BYTES = 1 << 16  # fetched from a store for a header
CHUNK_BYTES = 1 << 20
COMPRESSED = (".tgz", ".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst")


class Member(NamedTuple):
    """One file of a tar. at: where its bytes begin. data: its text, of captions alone."""

    name: str
    at: int
    size: int
    plain: bool  # whether it is a file, and no link or device
    data: bytes = b""

    @property
    def key(self) -> str:
        """The sample it belongs to: its name up to the first dot of its last part."""
        folder, _, last = self.name.rpartition("/")
        return posixpath.join(folder, last.partition(".")[0])

    @property
    def hidden(self) -> bool:
        """Whether a part of its name begins with a dot, as those that macOS adds do."""
        return any(part.startswith(".") and part != ".." for part in self.name.split("/"))

    @property
    def ending(self) -> str:
        return posixpath.splitext(self.name)[1].lower()


def tar_rows(uri: str) -> Iterator[Given]:
    """A row for each video of a tar, with the caption and columns of its sample. Raises BadManifest."""
    with opened(uri, BLOCK_BYTES) as file:
        size, stamp = stamped(uri, uri)
        members = (member for member in members_of(uri, file, size) if not member.hidden)
        for key, sample in groupby(members, key=lambda member: member.key):
            yield from _sample(uri, stamp, printable(key), list(sample))


def member_chunks(where: Address) -> Iterator[bytes]:
    """The bytes of a member, by its place."""
    left = int(where.fields["size"])
    with opened(where.holder) as file:
        file.seek(int(where.fields["at"]))
        while left and (chunk := file.read(min(CHUNK_BYTES, left))):
            left -= len(chunk)
            yield chunk


def members_of(uri: str, file: BinaryIO, size: int) -> Iterator[Member]:
    """The members in order; `size` is the tar's, 0 for unknown. Raises BadManifest."""
    try:
        with tarfile.open(fileobj=_Careful(file), mode="r:") as tar:  # type: ignore[call-overload]
            end = 0
            while (found := tar.next()) is not None:
                if tar.offset <= end or found.size < 0 or (size and found.offset_data + found.size > size):
                    raise tarfile.ReadError("a member reaches out of it")
                end = tar.offset
                tar.members = []  # it would hold them all
                if not found.isdir():
                    yield _member(file, found)
    except (tarfile.TarError, ValueError, EOFError, RecursionError) as error:
        problem = f"file {uri!r} is no whole, uncompressed tar ({scrubbed(error)})"
        raise BadManifest(f"{problem}; download it again, or pack it anew without compression") from error
    except (OSError, io.UnsupportedOperation) as error:
        raise BadManifest(f"file {uri!r} can't be read ({scrubbed(error)}); check address and access") from error


class _Careful:
    """A file that reads only headers: a hostile tar may announce one of gigabytes."""

    def __init__(self, file: BinaryIO) -> None:
        self.file, self.seek, self.tell = file, file.seek, file.tell

    def read(self, count: int) -> bytes:
        if not 0 <= count <= MAX_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {count} bytes")
        return self.file.read(count)


def _member(file: BinaryIO, found: tarfile.TarInfo) -> Member:
    plain = found.isreg() and not found.issparse()
    member = Member(found.name.removeprefix("./"), found.offset_data, found.size, plain)
    if not plain or member.ending not in (".txt", ".json") or found.size > MAX_CAPTION_BYTES:
        return member
    file.seek(found.offset_data)
    return member._replace(data=file.read(found.size))


def _sample(uri: str, stamp: str, key: str, members: list[Member]) -> Iterator[Given]:
    """A row for each video of a sample; a sample without one is an error."""
    videos = [member for member in members if member.ending in VIDEO_ENDINGS]
    shown = posixpath.basename(path_part(uri))
    if not videos:
        yield _wrong(f"{shown}/{key}", "its sample holds no video", f"add one ({', '.join(sorted(VIDEO_ENDINGS))})")
        return
    for video in videos:
        clip = f"{shown}/{printable(video.name)}"
        told = _told(clip, _texts_of(video, members))
        if not video.plain:
            yield _wrong(clip, "it is a link or a device in its tar", "pack the file itself")
        elif isinstance(told, ClipError):
            yield clip, told
        else:
            where = address("tar", uri, name=printable(video.name), at=video.at, size=video.size)
            yield clip, told | {"clip": [clip], INSIDE: [Inside(where, video.size, stamp)]}


def _texts_of(video: Member, members: list[Member]) -> list[Member]:
    """The captions of a video, .json before .txt: those of its very name, else those of its sample."""
    texts = sorted((m for m in members if m.ending in (".txt", ".json")), key=lambda member: member.ending)
    own = [text for text in texts if posixpath.splitext(text.name)[0] == posixpath.splitext(video.name)[0]]
    return own or texts


def _wrong(clip: str, problem: str, remedy: str) -> Given:
    return clip, ClipError(clip, problem, remedy)


def _told(clip: str, texts: list[Member]) -> Values | ClipError:
    """What a sample's texts say: .txt is the caption, .json has columns, and a caption where there is no .txt."""
    fields: Values = {OWN: []}
    for member in texts:
        last = printable(posixpath.basename(member.name))
        if not member.plain or member.size > MAX_CAPTION_BYTES:
            return ClipError(clip, f"its {last!r} is no plain file of {MAX_CAPTION_BYTES} bytes at most", "shorten it")
        try:
            if member.ending == ".txt":
                fields["source_prompt"] = [member.data.decode("utf-8-sig")]
                continue
            found = object_fields(clip, shallow(json.loads(member.data, object_pairs_hook=Pairs)))
        except (ValueError, RecursionError) as error:
            return ClipError(clip, f"its {last!r} can't be read ({str(error)[:80]})", "correct it")
        if not isinstance(found, dict):
            return ClipError(clip, f"its {last!r} is no JSON object", 'write {"caption": ...}')
        fields |= found
    return fields


def no_compressed(uri: str) -> None:
    """Raises BadManifest for a compressed tar."""
    if path_part(uri).lower().endswith(COMPRESSED):
        problem = f"file {uri!r} is a compressed tar, from whose middle no clip can be read"
        raise BadManifest(f"{problem}; unpack it to a plain .tar: videos hardly compress")
