"""Rows on disk while a dataset is collected: sorted and joined there, so that memory does not grow with them."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from cogvideo_core.errors import StorageError

CACHE_KIB = 48 << 10
PAGE_BYTES = 65536  # rows of some kilobytes lie in the tree itself
READ_AT_ONCE = 200
T = TypeVar("T")
R = TypeVar("R")


class Spool:
    """A temporary SQLite database on disk, for one thread. A context manager; the database goes when it ends, or when
    the process does, however it ends.

    Text sorts as Python sorts it: UTF-8 keeps the order of code points. Its size is about that of the rows as JSON, in
    the folder that TMPDIR names, else in /var/tmp.
    """

    def __init__(self, schema: str) -> None:
        self.db = sqlite3.connect("", isolation_level=None)  # a file that has lost its name once it is open
        # nothing here outlives the process: no journal, no waiting for the disk
        self.db.executescript(f"PRAGMA page_size={PAGE_BYTES}; PRAGMA journal_mode=OFF; PRAGMA synchronous=OFF;")
        self.db.executescript(f"PRAGMA cache_size=-{CACHE_KIB};")
        self.run(f"BEGIN; {schema}")

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.db.close()

    def run(self, script: str) -> None:
        """Executes statements."""
        with _on_disk():
            for statement in filter(str.strip, script.split(";")):
                self.db.execute(statement)

    def add(self, sql: str, rows: Iterable[tuple[Any, ...]]) -> None:
        """Executes a statement for each row of values. Raises StorageError where the disk is full."""
        with _on_disk():
            self.db.executemany(sql, rows)

    def rows(self, sql: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """What a query finds, some rows at a time, while other tables may be read and written."""
        with _on_disk():  # a sort is done by the first step
            cursor = self.db.execute(sql, values)
        cursor.arraysize = READ_AT_ONCE
        while found := _fetched(cursor):
            yield from found

    def one(self, sql: str, *values: Any) -> Any:
        """The first value of the first row, None for none."""
        with _on_disk():
            found = self.db.execute(sql, values).fetchone()
        return found[0] if found else None


def _fetched(cursor: sqlite3.Cursor) -> list[tuple[Any, ...]]:
    with _on_disk():
        return cursor.fetchmany()


@contextmanager
def _on_disk() -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise StorageError(f"rows in a temporary file: {error}; make room in the folder that TMPDIR names") from error


def packed(row: Any) -> str:
    """A row as text that `unpacked` gives back, lone surrogates included."""
    return json.dumps(row, separators=(",", ":"))


def unpacked(text: str) -> Any:
    return json.loads(text)


def in_turn(pool: ThreadPoolExecutor, work: Callable[[T], R], items: Iterable[T], ahead: int) -> Iterator[R]:
    """The results in the items' order, at most `ahead` of them waiting."""
    waiting: list[Future[R]] = []
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= ahead:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()
