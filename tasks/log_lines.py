"""Log lines of expected errors: one sentence, not a traceback. `cogvideo-edit --debug` shows the traceback."""

from __future__ import annotations

import logging
import os

from cogvideo_core.errors import EditError

DEBUG = "COGVIDEO_EDIT_DEBUG"
LOGGERS = ("prefect.flow_runs", "prefect.task_runs", "prefect.engine")


def expected_as_sentence(record: logging.LogRecord) -> bool:
    """A filter that keeps every record, and reduces an EditError to its sentence."""
    error = record.exc_info[1] if isinstance(record.exc_info, tuple) else None
    if isinstance(error, EditError) and not os.environ.get(DEBUG):
        record.msg, record.args, record.exc_info, record.exc_text = str(error), (), None, None
    return True


def install() -> None:
    """Installs the filter once for this process."""
    for name in LOGGERS:
        logger = logging.getLogger(name)
        if expected_as_sentence not in logger.filters:
            logger.addFilter(expected_as_sentence)
