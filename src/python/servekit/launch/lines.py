"""A child's output, cut into lines.  Pure."""

import re

# A progress bar is one line that never ends: it returns to its start with \r.
_END = re.compile(rb"[\r\n]+")

# Longer than any line that vLLM logs (its configuration: about 4,000 bytes).
MAX_LINE_BYTES = 64 * 1024


class LineSplitter:
    """Bytes in, whole lines out, however the bytes were cut."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> list[str]:
        """Return the lines that *piece* ends, without their ends; blank ones are left out."""
        *whole, rest = _END.split(self._rest + piece)
        if len(rest) > MAX_LINE_BYTES:
            whole.append(rest)
            rest = b""
        self._rest = rest
        return [_text(line) for line in whole if line.strip()]

    def finish(self) -> list[str]:
        """Return what came after the last end of line."""
        rest, self._rest = self._rest, b""
        return [_text(rest)] if rest.strip() else []


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").rstrip()
