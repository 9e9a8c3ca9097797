"""Header fields of HTTP/2 as a head of HTTP/1.1, and back.  Pure.

A request is written down as a head and read like any other: what would be refused there is refused
here, and no field can become two (RFC 9113, section 10.3).
"""

from collections.abc import Sequence

import msgspec

from servekit.errors.tree import RequestInvalid
from servekit.relay.heads import HttpRequestHead, HttpResponseHead, read_request_head

# They belong to connections of HTTP/1.1 (RFC 9113, section 8.2.2).
_CONNECTIONS = frozenset(
    [b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"]
)


def http2_request_head(fields: Sequence[tuple[bytes, bytes]], *, ended: bool) -> HttpRequestHead:
    """Return the request that has these header *fields*; *ended*: no body follows.

    Its length is None where it has a body of which the length is not said.

    Raises:
        RequestInvalid: it is none, or not one that every server reads the same way.
    """
    pseudo: dict[bytes, bytes] = {}
    lines: list[bytes] = []
    cookies: list[bytes] = []
    for name, value in fields:
        if any(end in text for end in (b"\r", b"\n") for text in (name, value)):
            raise RequestInvalid("a header has a line end in it; remove it")
        if name.startswith(b":"):
            pseudo[name] = value
        elif name in _CONNECTIONS:
            raise RequestInvalid(f"HTTP/2 has no header {name.decode()}; leave it out")
        elif name == b"cookie":
            cookies.append(value)
        else:
            lines.append(b"%b: %b" % (name, value))
    if cookies:
        # One line for each cookie is one of HTTP/2's (RFC 9113, section 8.2.3).
        lines.append(b"cookie: " + b"; ".join(cookies))
    path = pseudo.get(b":path", b"")
    if not path.startswith(b"/"):
        raise RequestInvalid("the path does not begin with a slash; only origin form is taken")
    authority = pseudo.get(b":authority")
    if authority is not None:
        lines = [line for line in lines if not line.startswith(b"host:")]
        lines.append(b"host: " + authority)
    first = b"%b %b HTTP/1.1" % (pseudo.get(b":method", b""), path)
    head = read_request_head(b"\r\n".join([first, *lines, b"", b""]))
    length = head.length if b"content-length" in head.fields else None
    return msgspec.structs.replace(head, length=0 if ended else length)


def http2_answer_fields(head: HttpResponseHead) -> list[tuple[bytes, bytes]]:
    """Return the header fields of an answer."""
    fields = [(b":status", b"%d" % head.status)]
    for line in head.first.split(b"\r\n")[1:-1]:
        name, _, value = line.partition(b":")
        fields.append((name.lower(), value.strip(b" \t")))
    return fields
