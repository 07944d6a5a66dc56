"""`python -m flows.cli` is the same as `cogvideo-edit`."""

from flows.cli.main import app

app()
