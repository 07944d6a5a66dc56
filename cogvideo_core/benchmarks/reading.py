"""Reads a benchmark's files: lists may come from anyone, so every field is checked, and no path may leave the folder.

Each refusal is a BadManifest of one sentence that names the file, the entry and the field.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from cogvideo_core.errors import BadManifest, ClipError
from cogvideo_core.inputs.fields import prompt_of, shown
from cogvideo_core.storage.uris import has_control, printable

MOST_BYTES, MOST_YAML_BYTES = 64_000_000, 8_000_000
MOST_ENTRIES = 100_000
MOST_NAME = 200


class Entry(NamedTuple):
    """An entry of a list: its file, its place there, and its fields."""

    file: str
    where: str
    fields: Mapping[str, Any]

    def refused(self, field: str, problem: str, remedy: str) -> BadManifest:
        return BadManifest(f"file {self.file!r}: {self.where}: field {field}: {problem}; {remedy}")

    def text(self, field: str, needed: bool = True) -> str:
        """A field's text on one line; "" for none, where it is not needed. Raises BadManifest."""
        value = self.fields.get(field)
        if value is None or (isinstance(value, str) and not value.strip()):
            if needed:
                raise self.refused(field, "it is missing or empty", "write it as text")
            return ""
        try:
            return prompt_of(self.where, field, value)
        except ClipError as error:
            raise self.refused(field, error.problem, error.remedy) from error

    def label(self, field: str, needed: bool = True) -> str:
        """A field that is text or a number, as text. Raises BadManifest."""
        value = self.fields.get(field)
        plain = isinstance(value, int | float) and not isinstance(value, bool)
        return str(value) if plain else self.text(field, needed)

    def name(self, field: str) -> str:
        """A field that names a file or folder, without a path. Raises BadManifest."""
        name = self.label(field)
        if "/" in name or "\\" in name or name in (".", "..") or len(name) > MOST_NAME:
            raise self.refused(field, f"{shown(name)} is no plain name", "write a name without a path")
        return name

    def path(self, folder: Path, relative: str, field: str) -> Path:
        """A path below the folder, links resolved; it need not exist. Raises BadManifest."""
        try:
            return inside(folder, relative)
        except ValueError as error:
            raise self.refused(field, str(error), "name a path inside of the benchmark's folder") from error

    def place(self, relative: str, field: str) -> str:
        """A relative path that stays where it is put. Raises BadManifest."""
        parts = relative.split("/")
        if any(part in ("", ".", "..") for part in parts) or "\\" in relative or len(relative) > 2 * MOST_NAME:
            raise self.refused(field, f"{shown(relative)} is no relative path", "write folder names alone")
        return relative

    def clip(self, folder: Path, candidates: Iterable[str], field: str) -> str:
        """The first of these places that exists, else the first one, as absolute path. Raises BadManifest."""
        paths = [self.path(folder, candidate, field) for candidate in candidates]
        return str(next((path for path in paths if path.exists()), paths[0]))


def inside(folder: Path, relative: str) -> Path:
    """An absolute path below the folder, after links are resolved. Raises ValueError."""
    if has_control(relative) or "\0" in relative or len(relative) > 4096:
        raise ValueError(f"{shown(relative)} can't be a path")
    path, root = (folder / relative).resolve(), folder.resolve()
    if not path.is_relative_to(root) or relative.startswith("/"):
        raise ValueError(f"{shown(relative)} leads out of {printable(str(folder))[:200]!r}")
    return path


def folder_of(given: str) -> Path:
    """A benchmark's folder. Raises BadManifest."""
    path = Path(given).resolve()
    if not path.is_dir():
        raise BadManifest(f"folder {given!r} does not exist; give the folder that the benchmark was unpacked to")
    return path


def text_file(folder: Path, name: str, most: int = MOST_BYTES) -> str:
    """A file's text; it lies in the folder. Raises BadManifest."""
    try:
        path = inside(folder, name)
        if path.stat().st_size > most:
            raise BadManifest(f"file {str(path)!r} has more than {most / 1e6:g} MB; give the benchmark's own list")
        return path.read_bytes().decode("utf-8-sig")
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise BadManifest(f"file {str(folder / name)!r} can't be read ({why}); check it") from error


def json_file(folder: Path, name: str) -> Any:
    """Raises BadManifest."""
    try:
        return json.loads(text_file(folder, name))
    except (ValueError, RecursionError) as error:
        why = " ".join(str(error).split())[:120]
        raise BadManifest(f"file {str(folder / name)!r} is no JSON ({why}); download it again") from error


def yaml_file(folder: Path, name: str) -> Any:
    """Plain values only: tags that would make objects are refused. Raises BadManifest."""
    try:
        return yaml.safe_load(text_file(folder, name, MOST_YAML_BYTES))
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        why = " ".join(str(error).split())[:120]
        raise BadManifest(f"file {str(folder / name)!r} is no plain YAML ({why}); download it again") from error


def entries(file: Path, found: Any, what: str = "entry") -> Iterator[Entry]:
    """Each object of a list, or each value of an object by its name. Raises BadManifest."""
    if not isinstance(found, list | dict) or not found or len(found) > MOST_ENTRIES:
        raise BadManifest(f"file {str(file)!r} holds no list of 1 to {MOST_ENTRIES} entries; give the benchmark's own")
    pairs = found.items() if isinstance(found, dict) else enumerate(found)
    for key, fields in pairs:
        where = f"{what} {printable(str(key))[:60]}"
        if not isinstance(fields, dict):
            raise BadManifest(f"file {str(file)!r}: {where} is no object; give the benchmark's own list")
        yield Entry(str(file), where, fields)


def first_file(folder: Path, names: Iterable[str], what: str) -> str:
    """The first of these names that is a file in the folder. Raises BadManifest."""
    names = list(names)
    for name in names:
        if (folder / name).is_file():
            return name
    raise BadManifest(f"folder {str(folder)!r} holds none of {', '.join(names)}; give the folder of {what}")
