"""Logs as events with fields, on stderr: stdout belongs to what a program was asked for.

    log = structlog.get_logger()
    log.info("engine ready", after_s=31.2)

A prompt, a token or a key is never a field.
"""

import json
import sys

import structlog

from servekit.cli.output import let_stdout_go
from servekit.errors.tree import SettingInvalid

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def configure_logs(level: str = "info") -> None:
    """One JSON object per line; for people, where stderr is a terminal.

    *level* is debug, info, warning or error.

    Raises:
        SettingInvalid: it is another word.
    """
    for_people = sys.stderr.isatty()
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.dev.ConsoleRenderer() if for_people else structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level_number(level)),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )


def level_number(level: str) -> int:
    """Return what logging calls *level*, in capitals or not.

    Raises:
        SettingInvalid: it is no level.
    """
    number = _LEVELS.get(level.lower())
    if number is None:
        raise SettingInvalid(f"log level {level!r} is unknown; there are: {', '.join(_LEVELS)}")
    return number


def announce(event: str, **fields: object) -> None:
    """Print one JSON object on stdout, for whoever started us: `{"event": "ready", "url": …}`.

    Where nobody reads it any more we go on all the same.
    """
    try:
        print(json.dumps({"event": event, **fields}), flush=True)  # noqa: T201
    except BrokenPipeError:
        let_stdout_go()
