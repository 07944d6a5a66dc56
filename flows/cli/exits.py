"""How a command ends: exit codes, and the project's errors as one line."""

from __future__ import annotations

import contextlib
import os
import traceback
from collections.abc import Iterator

import typer

from cogvideo_core.errors import EditError

OK, FAILED, USAGE, PARTLY = 0, 1, 2, 3


@contextlib.contextmanager
def sentences() -> Iterator[None]:
    """Turns the project's errors into one line on standard error and an exit code."""
    try:
        yield
    except EditError as error:
        if os.environ.get("COGVIDEO_EDIT_DEBUG"):
            traceback.print_exc()
        typer.echo(f"failed: {error}", err=True)
        settings = error.kind in ("bad_input", "model") and not error.ran
        raise typer.Exit(USAGE if settings else FAILED) from error
