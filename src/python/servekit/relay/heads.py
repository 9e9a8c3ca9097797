"""HTTP/1.1 heads: bytes -> what a relay must know, and back.  Pure.

Stricter than the standard allows where leniency has been used to smuggle a request past a proxy
(RFC 9112, section 11.2): a bare line feed, a folded line, both lengths, two lengths, a space before
the colon are refused, never repaired.
"""

import re
from typing import TypeVar

import msgspec

from servekit.errors.tree import RequestInvalid, StreamCut

MAX_HEAD_BYTES = 32 * 1024

_T = TypeVar("_T")

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]++):([\t\x20-\x7e\x80-\xff]*+)")
# A client that takes us for its proxy names the host too, which servers have to accept (RFC 9112,
# section 3.2.2); it is us, whatever it says.
_ABSOLUTE = rb"(?:[Hh][Tt][Tt][Pp][Ss]?://[^\x00-\x20/?#@\x7f-\xff]++)?+"
_REQUEST = re.compile(rb"([A-Z]{1,16}) " + _ABSOLUTE + rb"(/[\x21-\x7e]*+) HTTP/1\.([01])")
_RESPONSE = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: [^\r\n]*+)?+")
# What follows the last line of a head.
_END = [b"", b""]
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
_ONCE = frozenset([b"host", b"content-length", b"transfer-encoding"])

# What a header's name means to a relay, as bits.
_HOP, _REWRITE, _SINGLE, _CONNECTION = 1, 2, 4, 8

# Not kept in memory for longer than their request.
_SECRET = frozenset([b"authorization", b"cookie", b"set-cookie", b"x-api-key", b"api-key"])
# Nearly every line is one of the last requests': its check is remembered.
_LINES_KEPT = 2048
_LONGEST_KEPT = 128


class _Remembered(dict[bytes, _T]):
    """What was made of a line, for the lines seen last."""

    def keep(self, line: bytes, made: _T) -> None:
        if len(line) <= _LONGEST_KEPT:
            if len(self) >= _LINES_KEPT:
                self.clear()
            self[line] = made


class _HeaderLines(_Remembered[tuple[bytes, bytes, int]]):
    """Header lines -> lower-case name, value, and what the name means to a relay.

    Raises:
        RequestInvalid: a line is not a header.
    """

    def __missing__(self, line: bytes) -> tuple[bytes, bytes, int]:
        match = _LINE.fullmatch(line)
        if match is None:
            raise RequestInvalid("a line is not a header; check its name and its line end")
        name = match[1].lower()
        made = (name, match[2].strip(b" \t"), _meaning(name))
        if name not in _SECRET:
            self.keep(line, made)
        return made


class _RequestLines(_Remembered[tuple[str, bytes, bool]]):
    """Request lines -> method, target, and whether it is HTTP/1.0.

    Raises:
        RequestInvalid: it is not one.
    """

    def __missing__(self, line: bytes) -> tuple[str, bytes, bool]:
        match = _REQUEST.fullmatch(line)
        if match is None:
            raise RequestInvalid("the head is not an HTTP/1.1 request; check its lines")
        made = (match[1].decode("ascii"), match[2], match[3] == b"0")
        if b"?" not in line:
            self.keep(line, made)
        return made


class _StatusLines(_Remembered[tuple[int, bytes, bool]]):
    """Status lines -> status, the line as HTTP/1.1 with its end, and whether it was HTTP/1.0.

    Raises:
        StreamCut: it is not one.
    """

    def __missing__(self, line: bytes) -> tuple[int, bytes, bool]:
        match = _RESPONSE.fullmatch(line)
        if match is None:
            raise StreamCut("the engine's answer is not HTTP/1.1")
        made = (int(match[2]), b"HTTP/1.1%b\r\n" % line[8:], match[1] == b"0")
        self.keep(line, made)
        return made


def _meaning(name: bytes) -> int:
    return (
        _HOP * (name in _HOP_BY_HOP)
        | _REWRITE * (name in _REWRITTEN)
        | _SINGLE * (name in _ONCE)
        | _CONNECTION * (name == b"connection")
    )


header_lines, _request_lines, _status_lines = _HeaderLines(), _RequestLines(), _StatusLines()


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

    @property
    def opens_websocket(self) -> bool:
        """Whether the client asks to go on in the WebSocket protocol (RFC 6455, section 4.2.1)."""
        fields = self.fields
        upgrade = fields.get(b"upgrade", b"").lower() == b"websocket"
        return upgrade and b"upgrade" in fields.get(b"connection", b"").lower() and not self.old


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
    first, *lines = head.split(b"\r\n")
    method, target, old = _request_lines[first]
    if lines[-2:] != _END:
        raise RequestInvalid("the head is not an HTTP/1.1 request; check its line ends")
    fields, passed_on, connection = _read_fields(lines, _REWRITE)
    if b"host" not in fields and not old:
        raise RequestInvalid("the request has no Host header; HTTP/1.1 requires one")
    if old and b"transfer-encoding" in fields:
        raise RequestInvalid("an HTTP/1.0 request cannot be chunked; send Content-Length")
    return HttpRequestHead(
        method=method,
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
    first, *lines = head.split(b"\r\n")
    status, first, old = _status_lines[first]
    if lines[-2:] != _END:
        raise StreamCut("the engine's answer is not HTTP/1.1")
    try:
        fields, passed_on, connection = _read_fields(lines, _HOP)
        length = _length(fields, None)
    except RequestInvalid as error:
        raise StreamCut(f"the engine's answer cannot be relayed: {error}") from error
    chunked = b"transfer-encoding" in fields
    if status in (204, 304):
        length, chunked = 0, False
    return HttpResponseHead(
        status=status,
        fields=fields,
        first=first + passed_on,
        length=length,
        chunked=chunked,
        keep_alive=not old and b"close" not in connection and (chunked or length is not None),
    )


def request_head(head: HttpRequestHead, path: bytes, authority: bytes, length: int) -> bytes:
    """Return *head* as an engine at *authority* gets it, before a body of *length* bytes.

    *path* stands before the target.
    """
    lines = b"%b %b%b HTTP/1.1\r\nhost: %b\r\n%b" % (
        head.method.encode(),
        path,
        head.target,
        authority,
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


def _read_fields(lines: list[bytes], dropped: int) -> tuple[dict[bytes, bytes], bytes, bytes]:
    """Return the fields, the lines without those that are *dropped*, and the connection options.

    *lines* end with two that are empty.
    """
    fields: dict[bytes, bytes] = {}
    kept: list[bytes] = []
    connection = b""
    for line in lines[:-2]:
        name, value, meaning = header_lines[line]
        if meaning:
            if meaning & _SINGLE and name in fields:
                raise RequestInvalid(f"the header {name.decode()} is given twice; send it once")
            if meaning & _CONNECTION:
                connection += value.lower() + b","
            if not meaning & dropped:
                kept.append(line)
        else:
            kept.append(line)
        fields[name] = value
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
