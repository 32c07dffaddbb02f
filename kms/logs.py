"""Log set-up of the KMS processes: JSON lines on standard error.

A line says what happened, never a MIKEY message, a key, a PIN or the text of an exception that handled one.
"""

import sys
import traceback
from typing import Any

import structlog
from structlog.typing import EventDict


def configure(process: str) -> None:
    """Send this process' log to standard error; every line carries the process' name, such as engine-0."""

    def name_process(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event["process"] = process
        return event

    structlog.configure(
        processors=[
            name_process,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.JSONRenderer(),
        ],
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def where(error: BaseException) -> dict[str, str]:
    """Type and place of an exception for a log line; not its text, which may quote what was handled."""
    frames = traceback.extract_tb(error.__traceback__)
    trail = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-5:]]
    return {"error": type(error).__qualname__, "trail": " > ".join(trail)}
