"""The gallery's search index: for each edit what it is found and ordered by, in columns."""

from __future__ import annotations

from typing import Any

from cogvideo_core.dataset.gallery_rows import Section

KEY_CHARACTERS = 12  # of an edit's key: enough to tell edits apart, and a fifth of the bytes


class Index:
    """Columns of sections that follow each other. Texts are in lower case and stand once; columns hold their places."""

    def __init__(self, first: int = 0) -> None:
        """first: number of the first section."""
        self.first = first
        self.counts: list[int] = []  # edits of each section
        self.texts: dict[str, int] = {}
        self.columns: dict[str, list[Any]] = {name: [] for name in ("clips", "sources")}
        self.columns |= {name: [] for name in ("prompts", "recipes", "own", "groups", "keys")}
        self.values: dict[str, list[float | None]] = {}
        self.bytes = 0  # of the JSON, roughly

    def add(self, section: Section) -> None:
        self.counts.append(len(section.tiles))
        self.columns["clips"].append(self._text(section.clip))
        self.columns["sources"].append(self._text(section.prompt))
        for tile in section.tiles:
            texts = {"prompts": tile.prompt, "recipes": tile.recipe, "own": tile.own, "groups": tile.groups}
            for column, text in texts.items():
                self.columns[column].append(self._text(text))
            self._add_values(tile.values)
            self.columns["keys"].append(tile.key[:KEY_CHARACTERS])
            self.bytes += 30 + 7 * len(self.values)

    def data(self) -> dict[str, Any]:
        """What the page reads. The names of numbers are values too: no key of an object comes from a row."""
        values = [[name, column] for name, column in self.values.items()]
        return {"first": self.first, "counts": self.counts, "texts": list(self.texts), "values": values} | self.columns

    def _add_values(self, values: dict[str, float]) -> None:
        for name in values:
            if name not in self.values:
                self.values[name] = [None] * len(self.columns["keys"])
        for name, column in self.values.items():
            column.append(values.get(name))

    def _text(self, text: str) -> int:
        text = text.lower()
        if text not in self.texts:
            self.texts[text] = len(self.texts)
            self.bytes += 3 + len(text.encode("utf-8", "backslashreplace"))
        return self.texts[text]
