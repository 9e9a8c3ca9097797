"""What is wrong with an engine's answer, told from its head and its first bytes.  Pure.

What the caller did wrong (400, 413, 422 and their like) is no fault, nor is a lack of room (429,
503).
"""

import re

from servekit.relay.heads import HttpResponseHead
from servekit.wire import routes

UNAUTHORIZED = "unauthorized"
NOT_FOUND = "not_found"
SERVER_ERROR = "server_error"
NOT_JSON = "not_json"
EMPTY = "empty"
ERROR_EVENT = "error_event"
NO_TOKENS = "no_tokens"
NO_PROGRESS = "no_progress"

# They may be the caller's doing: only a sibling that answers the same request tells.
CALLERS = frozenset([UNAUTHORIZED, NOT_FOUND])

_OF_STATUS = {401: UNAUTHORIZED, 403: UNAUTHORIZED, 404: NOT_FOUND}
# Their answers are JSON objects, or streams of events.
_GENERATING = frozenset(route.path.encode() for route in routes.ROUTES if route.generates)
_JSON_ROUTES = _GENERATING | {path.encode() for path in (routes.EMBEDDINGS, routes.COUNT_TOKENS)}
# In the words of each API; OpenAI's have no `event:`, and Anthropic's say it twice.
_ERROR_EVENT = re.compile(
    rb'(?:[0-9a-fA-F]+\r\n)?(?:event: (?:error|response\.failed)\r?\n|data: ?\{"error")'
)
_NO_COMPLETION, _NO_COMPLETION_SPACED = b'"completion_tokens":0', b'"completion_tokens": 0'
# Something that was generated: text, a part of it, a tool call, or what a model thinks.
_TOKEN = re.compile(
    rb'"(?:content|text|reasoning|reasoning_content|refusal|delta|arguments|thinking|partial_json)"'
    rb': ?"(?:[^"])'
    rb'|"tool_calls": ?\[\{'
)


def fault_of_status(status: int) -> str | None:
    """Return what is wrong with an answer of this *status*, as far as that says."""
    if status >= 500 and status != 503:
        return SERVER_ERROR
    return _OF_STATUS.get(status)


def fault_of_body(head: HttpResponseHead, piece: bytes, path: bytes) -> str | None:
    """Return what is wrong with a body that begins with *piece*, in answer to *path*."""
    if head.status != 200:
        return None
    # The last chunk alone is no body either.
    if not piece or (head.chunked and piece.startswith(b"0\r\n")):
        return EMPTY
    if head.is_event_stream:
        return ERROR_EVENT if _ERROR_EVENT.match(piece) else None
    if b"content-encoding" in head.fields:
        return None
    first = _first_byte(piece, chunked=head.chunked)
    if first in b"{[":
        # An embedding has none either.
        return NO_TOKENS if says_no_tokens(piece) and path in _GENERATING else None
    kind = head.fields.get(b"content-type", b"")
    markup = first == b"<" or kind.startswith(b"text/html")
    declared = kind.startswith(b"application/json")
    return NOT_JSON if markup or declared or path in _JSON_ROUTES else None


def says_no_tokens(piece: bytes) -> bool:
    """Whether a whole answer says that nothing was generated; vLLM writes it without the space."""
    return _NO_COMPLETION in piece or _NO_COMPLETION_SPACED in piece


def stream_has_no_tokens(pieces: tuple[bytes, ...]) -> bool:
    """Whether a stream, of which *pieces* are all, generated nothing."""
    return not any(_TOKEN.search(piece) for piece in pieces)


def _first_byte(piece: bytes, *, chunked: bool) -> bytes:
    start = piece.find(b"\r\n") + 2 if chunked else 0
    return piece[start : start + 64].lstrip()[:1]
