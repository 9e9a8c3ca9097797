"""What is added to heads on their way, and what is taken out of them.

A request gets an id, and the address of its client; a client's keys and cookies end here.  Pure
but for the ids, which are random.
"""

import re
from collections.abc import Callable, Mapping
from random import Random

from loadbalancer.server.access import CREDENTIALS
from servekit.relay.client_connection import Responder
from servekit.relay.heads import HttpRequestHead, with_lines

REQUEST_ID = b"x-request-id"
FORWARDED_FOR = b"x-forwarded-for"

# Longer ids, and such with spaces, are no ids that a log can be searched for.
_ID = re.compile(rb"[\x21-\x7e]{1,200}")

# Written anew; and what engines need not know: with an Origin they would answer as if they were
# asked by a browser, which is for us to say.
_REPLACED = frozenset([REQUEST_ID, FORWARDED_FOR, b"cookie", b"origin"])
_WITH_KEYS = _REPLACED | CREDENTIALS


class Forwarding:
    """Heads of requests, as engines get them."""

    def __init__(self, random_bits: Callable[[int], int] | None = None) -> None:
        """*random_bits*: `getrandbits` of some generator."""
        self._random_bits = random_bits or Random().getrandbits

    def request_id(self, fields: Mapping[bytes, bytes]) -> bytes:
        """Return the id that the client gave its request, or one that is made for it."""
        given = fields.get(REQUEST_ID)
        if given is not None and _ID.fullmatch(given):
            return given
        return b"%032x" % self._random_bits(128)

    def head(
        self,
        client: Responder,
        head: HttpRequestHead,
        request_id: bytes,
        *,
        credential: bytes | None,
    ) -> HttpRequestHead:
        """Return *head* as an engine gets it.

        *credential* is the header line with which engines are asked instead of the client's own
        keys, and may be empty; None leaves the client its keys.
        """
        came_from = client.peer
        fields = head.fields
        if FORWARDED_FOR in fields:
            came_from = b"%b, %b" % (fields[FORWARDED_FOR], came_from)
        lines = b"x-forwarded-for: %b\r\nx-request-id: %b\r\n%b" % (
            came_from,
            request_id,
            credential or b"",
        )
        replaced = _REPLACED if credential is None else _WITH_KEYS
        if replaced.isdisjoint(fields):
            return with_more(head, lines)
        return with_lines(head, lines, instead_of=replaced)


def with_more(head: HttpRequestHead, lines: bytes) -> HttpRequestHead:
    """Return *head* with *lines* besides those that it has."""
    return HttpRequestHead(
        head.method,
        head.target,
        head.fields,
        head.passed_on + lines,
        head.length,
        head.keep_alive,
        head.old,
    )
