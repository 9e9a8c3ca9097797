"""What is added to heads on their way, and what is taken out of them.

A request gets an id, and the address of its client; a client's keys and cookies end here.  Pure
but for the ids, which are random.
"""

import re
from collections.abc import Mapping
from itertools import count
from secrets import token_hex

from loadbalancer.server.access import CREDENTIALS, PROTOCOLS, without_keys
from servekit.relay.client_connection import Responder
from servekit.relay.heads import HttpRequestHead, with_lines

REQUEST_ID = b"x-request-id"
FORWARDED_FOR = b"x-forwarded-for"

# Longer ids, and such with spaces, are no ids that a log can be searched for.
_ID = re.compile(rb"[\x21-\x7e]{1,200}")

# Written anew; and what engines need not know: with an Origin they would answer as if they were
# asked by a browser, which is for us to say.
_REPLACED = frozenset([REQUEST_ID, FORWARDED_FOR, b"cookie", b"origin", PROTOCOLS])
_WITH_KEYS = _REPLACED | CREDENTIALS


class Forwarding:
    """Heads of requests, as engines get them."""

    def __init__(self) -> None:
        # Random once, and counted from there on: 12 bytes tell all processes apart.
        self._prefix = token_hex(12).encode()
        self._count = count()

    def id_line(self, fields: Mapping[bytes, bytes]) -> bytes:
        """Return the header line with the id that the client gave its request, or with one that
        is made for it."""
        given = fields.get(REQUEST_ID)
        if given is not None and _ID.fullmatch(given):
            return b"x-request-id: %b\r\n" % given
        return b"x-request-id: %b%08x\r\n" % (self._prefix, next(self._count))

    def head(
        self,
        client: Responder,
        head: HttpRequestHead,
        id_line: bytes,
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
        lines = b"x-forwarded-for: %b\r\n%b%b" % (came_from, id_line, credential or b"")
        if PROTOCOLS in fields and without_keys(fields[PROTOCOLS]):
            lines += b"%b: %b\r\n" % (PROTOCOLS, without_keys(fields[PROTOCOLS]))
        replaced = _REPLACED if credential is None else _WITH_KEYS
        if not replaced.isdisjoint(fields):
            return with_lines(head, lines, instead_of=replaced)
        # As `with_lines` does, where there is nothing to take out.
        return HttpRequestHead(
            head.method,
            head.target,
            fields,
            head.passed_on + lines,
            head.length,
            head.keep_alive,
            head.old,
        )
