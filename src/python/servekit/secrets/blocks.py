"""Private keys that spread over lines, also where a log was cut.  Pure."""

import re
from collections.abc import Iterator

from servekit.secrets.randomness import Span

# PEM, OpenSSH and PGP have five dashes, SSH2 has four and a blank.
_EDGE = re.compile(
    r"-{4,5} ?(?P<edge>BEGIN|END) (?:[A-Z0-9]++ )*?(?:PRIVATE KEY|OPENSSH PRIVATE KEY)(?: BLOCK)?"
    r" ?-{4,5}"
)
# The last word of a line of a key: prefixes of a log's own stand before it.
_KEY_LINE = re.compile(r"(?:^|[\s|>\"'])([A-Za-z0-9+/=]{16,}+|=[A-Za-z0-9+/]{4})[\\nr\"',]*\s*$")
_LAST_LINE = re.compile(r"(?:^|[\s|>\"'])([A-Za-z0-9+/=]{1,}+)[\\nr\"',]*\s*$")
_HEADER = re.compile(r"(?:Proc-Type|DEK-Info|Version|Comment|Hash|Charset|Subject)\b.*$|\s*$")


def private_keys(text: str) -> Iterator[Span]:
    """Yield where private keys stand in *text*, from their first line to their last.

    Where one of the two is cut off, the lines beside the other that can be of a key.
    """
    opened: int | None = None
    opened_end = 0
    for edge in _EDGE.finditer(text):
        if edge["edge"] == "BEGIN":
            if opened is not None:
                yield opened, _end_of_key(text, opened_end, edge.start())
            opened, opened_end = edge.span()
        elif opened is not None:
            yield opened, edge.end()
            opened = None
        else:
            yield _start_of_key(text, edge.start()), edge.end()
    if opened is not None:
        yield opened, _end_of_key(text, opened_end, len(text))


def _end_of_key(text: str, start: int, limit: int) -> int:
    """Return where the lines of a key that begin at *start* end, at most at *limit*."""
    place = text.find("\n", start, limit)
    if place < 0:
        return limit
    while place < limit:
        end = text.find("\n", place + 1, limit)
        end = limit if end < 0 else end
        line = text[place + 1 : end]
        if not (_KEY_LINE.search(line) or _HEADER.search(line)):
            # The last line of a key is as short as it happens to be.
            return end if _LAST_LINE.fullmatch(line) else place
        place = end
    return limit


def _start_of_key(text: str, end: int) -> int:
    """Return where the lines of a key that end before *end* begin."""
    place = text.rfind("\n", 0, end) + 1
    first = True
    while place > 0:
        before = text.rfind("\n", 0, place - 1) + 1
        line = text[before : place - 1]
        if not (_KEY_LINE.search(line) or (first and _LAST_LINE.search(line))):
            break
        first = False
        place = before
    return place
