"""HTTP/1.1 heads: bytes -> what a relay must know, and back.  Pure.

Stricter than the standard allows where leniency has been used to smuggle a request past a proxy
(RFC 9112, section 11.2): a bare line feed, a folded line, both lengths, two lengths, a space before
the colon are refused, never repaired.
"""

import re

import msgspec

from servekit.errors.tree import RequestInvalid, StreamCut
from servekit.wire.address import Address

MAX_HEAD_BYTES = 32 * 1024

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]++"
_VALUE = rb"[\t\x20-\x7e\x80-\xff]*+"
_FIELDS = rb"((?:" + _TOKEN + rb":" + _VALUE + rb"\r\n)*+)\r\n"
# A client that takes us for its proxy names the host too, which servers have to accept (RFC 9112,
# section 3.2.2); it is us, whatever it says.
_ABSOLUTE = rb"(?:[Hh][Tt][Tt][Pp][Ss]?://[^\x00-\x20/?#@\x7f-\xff]++)?+"
_REQUEST = re.compile(
    rb"([A-Z]{1,16}) " + _ABSOLUTE + rb"(/[\x21-\x7e]*+) HTTP/1\.([01])\r\n" + _FIELDS
)
_RESPONSE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*+)?\r\n" + _FIELDS)
# More digits than any body has bytes.
_MOST_DIGITS = 15

# They concern one connection, not the message (RFC 9110, section 7.6.1).
_HOP_BY_HOP = frozenset(
    [
        b"connection",
        b"keep-alive",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    ]
)
# Written anew for the engine: its own name, the length of what we send, and nothing to wait for.
_REWRITTEN = _HOP_BY_HOP | {b"host", b"content-length", b"expect"}
_ONCE = (b"host", b"content-length", b"transfer-encoding")


class HttpRequestHead(msgspec.Struct, frozen=True):
    """The head of a request that can be relayed.

    Attributes:
        fields: header values by lower-case name; the last one where a name is repeated.
        passed_on: the header lines that go to the engine, each with its line end.
        length: bytes of body; None where it is chunked.
        keep_alive: whether the client may send another request on the connection.
        old: whether the client speaks HTTP/1.0, which has no chunks, and is never kept alive: it
            would have to be told, and would wait for the end of the connection where it was not.
    """

    method: str
    target: bytes
    fields: dict[bytes, bytes]
    passed_on: bytes
    length: int | None
    keep_alive: bool
    old: bool

    @property
    def path(self) -> bytes:
        target = self.target
        return target.partition(b"?")[0] if b"?" in target else target


class HttpResponseHead(msgspec.Struct, frozen=True):
    """The head of an engine's answer.

    Attributes:
        first: its head without hop-by-hop headers and without the empty line at the end.
        length: bytes of body; None where it is chunked or ends with the connection.
        chunked: whether the body is chunked.
        keep_alive: whether the engine takes another request on the connection.
    """

    status: int
    fields: dict[bytes, bytes]
    first: bytes
    length: int | None
    chunked: bool
    keep_alive: bool

    @property
    def is_event_stream(self) -> bool:
        return self.fields.get(b"content-type", b"").startswith(b"text/event-stream")


def read_request_head(head: bytes) -> HttpRequestHead:
    """Return the request in *head*, which ends with its empty line.

    Raises:
        RequestInvalid: it is not a head, or not one that every server reads the same way.
    """
    match = _REQUEST.fullmatch(head)
    if match is None:
        raise RequestInvalid("the head is not an HTTP/1.1 request; check its lines and line ends")
    method, target, minor, lines = match.groups()
    fields, passed_on, connection = _read_fields(lines, _REWRITTEN)
    old = minor == b"0"
    if b"host" not in fields and not old:
        raise RequestInvalid("the request has no Host header; HTTP/1.1 requires one")
    if old and b"transfer-encoding" in fields:
        raise RequestInvalid("an HTTP/1.0 request cannot be chunked; send Content-Length")
    return HttpRequestHead(
        method=method.decode("ascii"),
        target=target,
        fields=fields,
        passed_on=passed_on,
        length=_length(fields, 0),
        keep_alive=not old and b"close" not in connection,
        old=old,
    )


def read_response_head(head: bytes) -> HttpResponseHead:
    """Return the answer whose *head*, with its empty line, an engine sent.

    Raises:
        StreamCut: it is not a head.
    """
    match = _RESPONSE.fullmatch(head)
    if match is None:
        raise StreamCut("the engine's answer is not HTTP/1.1")
    minor, status, lines = match.groups()
    try:
        fields, passed_on, connection = _read_fields(lines, _HOP_BY_HOP)
        length = _length(fields, None)
    except RequestInvalid as error:
        raise StreamCut(f"the engine's answer cannot be relayed: {error}") from error
    chunked = b"transfer-encoding" in fields
    number = int(status)
    if number in (204, 304):
        length, chunked = 0, False
    return HttpResponseHead(
        status=number,
        fields=fields,
        first=head[: match.start(3)].replace(b"HTTP/1.0", b"HTTP/1.1", 1) + passed_on,
        length=length,
        chunked=chunked,
        keep_alive=minor == b"1" and b"close" not in connection and (chunked or length is not None),
    )


def request_head(head: HttpRequestHead, address: Address, length: int) -> bytes:
    """Return *head* as an engine at *address* gets it, before a body of *length* bytes."""
    lines = b"%b %b%b HTTP/1.1\r\nhost: %b\r\n%b" % (
        head.method.encode(),
        address.path.encode(),
        head.target,
        address.authority.encode(),
        head.passed_on,
    )
    if length or head.method == "POST":
        return b"%bcontent-length: %d\r\n\r\n" % (lines, length)
    return lines + b"\r\n"


def with_lines(
    head: HttpRequestHead, lines: bytes, *, instead_of: frozenset[bytes]
) -> HttpRequestHead:
    """Return *head* as an engine gets it with *lines* in place of the headers in *instead_of*."""
    kept = _without(head.passed_on.split(b"\r\n"), instead_of)
    return msgspec.structs.replace(head, passed_on=b"\r\n".join(kept) + lines)


def bearer(key: str) -> bytes:
    """Return the header line that carries *key*."""
    return b"authorization: Bearer %b\r\n" % key.encode("latin-1")


def answer_head(
    answer: HttpResponseHead, *, old: bool, closing: bool, own: bytes = b""
) -> tuple[bytes, bool]:
    """Return *answer* as a client gets it, with *own* lines, and whether we close after it.

    A client that is *old* gets no chunks: who writes to it must take the body out of them.
    """
    if answer.chunked and not old:
        own += b"transfer-encoding: chunked\r\n"
    elif answer.length is None:
        closing = True
    if closing:
        own += b"connection: close\r\n"
    return b"%b%b\r\n" % (answer.first, own), closing


def _read_fields(
    lines: bytes, dropped: frozenset[bytes]
) -> tuple[dict[bytes, bytes], bytes, bytes]:
    """Return the fields, the lines without those in *dropped*, and the connection options."""
    fields: dict[bytes, bytes] = {}
    kept: list[bytes] = []
    connection = b""
    for line in lines.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if not colon:
            continue
        name = name.lower()
        if name in fields and name in _ONCE:
            raise RequestInvalid(f"the header {name.decode()} is given twice; send it once")
        fields[name] = value.strip(b" \t")
        if name not in dropped:
            kept.append(line)
        elif name == b"connection":
            connection += value.lower() + b","
    if connection and (named := _named_by(connection)):
        kept = _without(kept, named)
    kept.append(b"")
    return fields, b"\r\n".join(kept), connection


def _without(lines: list[bytes], names: frozenset[bytes]) -> list[bytes]:
    return [line for line in lines if line.partition(b":")[0].lower() not in names]


def _named_by(connection: bytes) -> frozenset[bytes]:
    """Return the headers that a Connection header declares to be hop-by-hop."""
    return frozenset(option.strip(b" \t") for option in connection.split(b",")) - {
        b"",
        b"close",
        b"keep-alive",
    }


def _length(fields: dict[bytes, bytes], default: int | None) -> int | None:
    """Return the body's length; None where it is chunked, *default* where nothing is said."""
    length = fields.get(b"content-length")
    coding = fields.get(b"transfer-encoding")
    if coding is not None:
        if length is not None:
            raise RequestInvalid("both Content-Length and Transfer-Encoding are given; send one")
        if coding.lower() != b"chunked":
            raise RequestInvalid("the transfer encoding is not 'chunked'; no other is taken")
        return None
    if length is None:
        return default
    if not length.isdigit() or len(length) > _MOST_DIGITS:
        raise RequestInvalid("Content-Length is not a number of bytes")
    return int(length)
