"""Logs as events with fields, where Cog collects them.

Not structlog: its printer keeps a weak reference to the stream, and coglet's stream allows none.
A prompt, a token or a key is never a field.
"""

import json
import sys


def report(event: str, **fields: object) -> None:
    """Print an event as one line of JSON on stderr, as Cog has it at this moment."""
    line = json.dumps({"event": event, **fields}, default=str)
    print(line, file=sys.stderr, flush=True)  # noqa: T201
