"""The gallery: index.html, with pages of clips and a search index as scripts. Also escapes text for markdown."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup, escape

from cogvideo_core.dataset.gallery_index import Index
from cogvideo_core.dataset.gallery_rows import FIGURES, Section, sections_of
from cogvideo_core.dataset.rows import Row
from cogvideo_core.storage.uris import printable

PAGE_SECTIONS = 40  # on a page
SHARD_BYTES = 300_000  # of a file of sections, unless a single section is larger
INDEX_BYTES = 4_000_000  # of a file of the search index, roughly
INLINE_BYTES = 400_000  # a gallery with no more data than this is index.html alone
MAX_FAILURES, FAILURE_BYTES, MAX_REASON = 500, 200_000, 300  # that index.html lists; characters of a reason
SHARD = re.compile(r"(?:index-)?\d{5,}\.js")  # what `gallery/` holds
SCRIPTS = ("shards", "search", "play", "tiles", "review", "browse")
FAILURE_FIELDS = ("clip", "stage", "error", "message")
# Written as entities, these have no meaning in markdown or HTML. "://" and "@" would become links.
MARKUP = re.compile(r"[&<>|`*\[\]\\~#$@]|:(?=//)|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
ESCAPED = "<>&\u2028\u2029"


def gallery_files(
    rows: Iterable[Row], failures: Iterable[Row], about: Mapping[str, Any]
) -> Iterator[tuple[str, bytes]]:
    """(name relative to the root, content) of the gallery's files; index.html, which names the others, comes last.

    rows: collected rows in the tables' order (`gallery_rows.sections_of`); they are read once, as files are made, and
        no more are held than two files need. failures: rows with clip, stage, error, message. about: `title`, and
        anything worth showing as settings.
    Other files are gallery/NNNNN.js with the clips of a page and gallery/index-NNNNN.js with what the search reads. Of
    up to INLINE_BYTES all is in index.html. Equal rows make equal bytes. Videos are in `dataset/` beside index.html.
    """
    totals, inline, size = _Totals(), dict[str, str](), 0
    for name, text in _shards(sections_of(rows), totals):
        size += len(text.encode())
        if size <= INLINE_BYTES or not inline:
            inline[name] = text
            continue
        for early in [*inline][1:]:  # the first page's clips stay in index.html
            yield _script(early, inline.pop(early), totals)
        yield _script(name, text, totals)
    yield "index.html", _page(totals, inline, failures, about).encode()


@dataclass
class _Totals:
    """What index.html tells of all rows."""

    sections: int = 0
    clips: int = 0
    edits: int = 0
    names: set[str] = field(default_factory=set)  # of the scores
    ranked: bool = False
    verdicts: bool = False
    firsts: list[int] = field(default_factory=list)  # number of the first section of each file of sections
    indexes: list[str] = field(default_factory=list)
    digests: dict[str, str] = field(default_factory=dict)  # of the files beside index.html

    def add(self, section: Section) -> None:
        self.sections += 1
        self.clips += not section.continued
        self.edits += len(section.tiles)
        for tile in section.tiles:
            self.names.update(tile.values.keys() - {"rank"})
            self.ranked = self.ranked or tile.values["rank"] > 1
            self.verdicts = self.verdicts or bool(tile.shown["verdict"])


def _shards(sections: Iterable[Section], totals: _Totals) -> Iterator[tuple[str, str]]:
    """(name, JSON): lists of sections, and before the last of them the parts of the search index that are full."""
    page: list[Row] = []
    size, index = 0, Index()
    for section in sections:
        own = len(_json(section.shown).encode())
        if page and (len(page) == PAGE_SECTIONS or size + own > SHARD_BYTES):
            yield _next_page(page, totals)
            page, size = [], 0
        if index.bytes > INDEX_BYTES:
            yield _next_index(index, totals)
            index = Index(totals.sections)
        page.append(section.shown)
        size += own
        index.add(section)
        totals.add(section)
    if page:
        yield _next_page(page, totals)
        yield _next_index(index, totals)


def _next_page(page: list[Row], totals: _Totals) -> tuple[str, str]:
    totals.firsts.append(totals.sections - len(page))
    return f"{len(totals.firsts) - 1:05}", _json(page)


def _next_index(index: Index, totals: _Totals) -> tuple[str, str]:
    totals.indexes.append(f"index-{len(totals.indexes):05}")
    return totals.indexes[-1], _json(index.data())


def _json(data: object) -> str:
    """JSON that is also JavaScript, and that ends no element of HTML."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for character in ESCAPED:
        text = text.replace(character, f"\\u{ord(character):04x}")
    return printable(text)


def _script(name: str, text: str, totals: _Totals) -> tuple[str, bytes]:
    """A file that the page can load from a disk too, where browsers forbid it to fetch JSON: a call with three texts.

    The last of them is the JSON, which browsers parse faster than a script, and where no name has a meaning.
    """
    totals.digests[name] = hashlib.sha256(text.encode()).hexdigest()[:8]
    return f"gallery/{name}.js", f"galleryShard({_json(name)},{_json(totals.digests[name])},{_json(text)});\n".encode()


def _page(totals: _Totals, inline: Mapping[str, str], failures: Iterable[Row], about: Mapping[str, Any]) -> str:
    told, count = _listed(failures)
    head = {name: getattr(totals, name) for name in ("sections", "edits", "firsts", "indexes", "digests")}
    head |= {"page": PAGE_SECTIONS, "figures": [[word, meaning] for word, _, _, meaning in FIGURES]}
    numbers = (totals.clips, "clip"), (totals.edits, "edit"), (count, "failure")
    page = _template().render(
        title=str(about.get("title") or "Edited videos"),
        counts=", ".join(_count(number, noun) for number, noun in numbers),
        verdicts=totals.verdicts,
        ranked=totals.ranked,
        scores=sorted(totals.names),
        failures=told,
        more_failures=count - len(told),
        settings=settings({key: value for key, value in about.items() if key != "title"}),
        head=Markup(_json(head)),
        inline={name: Markup(text) for name, text in inline.items()},
        **_own_parts(),
    )
    return printable(page)


def _listed(failures: Iterable[Row]) -> tuple[list[dict[str, str]], int]:
    """The first failures, as many as a page takes, and the number of all."""
    told: list[dict[str, str]] = []
    count = size = 0
    for row in failures:
        count += 1
        if len(told) < MAX_FAILURES and size < FAILURE_BYTES:
            told.append({name: _cut(str(row.get(name, ""))) for name in FAILURE_FIELDS})
            size += sum(len(escape(text).encode("utf-8", "backslashreplace")) for text in told[-1].values())
    return told, count


def _cut(text: str) -> str:
    return text if len(text) <= MAX_REASON else text[: MAX_REASON - 1] + "…"


@cache
def _own_parts() -> dict[str, Markup]:
    """The page's own style and script, and their hashes, so that its policy lets no others act."""
    script = "".join(_file(f"{name}.js") for name in SCRIPTS)
    parts = {"style": _file("gallery.css"), "script": f'"use strict";\n{script}'}
    digests = {name: base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for name, text in parts.items()}
    found = parts | {f"{name}_hash": f"sha256-{digest}" for name, digest in digests.items()}
    return {name: Markup(text) for name, text in found.items()}


def _file(name: str) -> str:
    return resources.files("cogvideo_core.dataset").joinpath("page", name).read_text("utf-8")


@cache
def _template() -> Template:
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(_file("gallery.html"))


def settings(about: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Nested settings as (dotted name, text) pairs, in their order."""
    pairs: list[tuple[str, str]] = []
    for key, value in about.items():
        if isinstance(value, Mapping):
            pairs += settings(value, f"{prefix}{key}.")
        else:
            pairs.append((f"{prefix}{key}", str(value)))
    return pairs


def escape_markdown(value: object, limit: int = 200) -> str:
    """One line that markdown shows literally, in table cells too; cut to `limit` characters, then escaped."""
    text = " ".join("".join(c if c.isprintable() else " " for c in str(value)).split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return MARKUP.sub(lambda found: f"&#{ord(found.group())};", text)


def markdown_table(rows: Iterable[Mapping[str, Any]], columns: Sequence[str]) -> str:
    """A markdown table, every cell escaped; a missing or None value is an empty cell."""
    lines = [columns, ["---"] * len(columns)]
    lines += [[_cell(row.get(column)) for column in columns] for row in rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def _cell(value: object) -> str:
    return "" if value is None else escape_markdown(value)


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"
