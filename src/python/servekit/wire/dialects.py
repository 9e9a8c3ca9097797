"""How each API says that something failed: before an answer, and in the middle of one.  Pure.

Sources: https://platform.openai.com/docs/guides/error-codes,
https://developers.openai.com/api/reference/resources/responses/streaming-events,
https://platform.claude.com/docs/en/api/errors.
"""

import re
from enum import Enum, auto

import msgspec

from servekit.wire.openai import error_envelope
from servekit.wire.sse import DONE

_encode = msgspec.json.Encoder().encode


class Dialect(Enum):
    """An API, as far as its errors and its streams differ from the others'."""

    # Chat, completions, embeddings, and what vLLM has besides: all answer errors alike.
    OPENAI = auto()
    RESPONSES = auto()
    # Anthropic's.
    MESSAGES = auto()
    # Errors as OpenAI's, but of its streams nothing is known.
    UNKNOWN = auto()


_MESSAGES_KINDS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
    529: "overloaded_error",
}
_ENDS = {
    Dialect.OPENAI: (DONE,),
    Dialect.MESSAGES: (b"message_stop", b"event: error"),
    Dialect.RESPONSES: tuple(
        b"response." + how for how in (b"completed", b"incomplete", b"failed", b"cancelled")
    ),
}
_SEQUENCE = re.compile(rb'"sequence_number": ?(\d{1,15})')


def error_body(dialect: Dialect, status: int, message: str, request_id: str = "") -> bytes:
    """Return the JSON body of an error answer, in the envelope that the API's clients read."""
    if dialect is Dialect.MESSAGES:
        return _messages_error(status, message, request_id)
    return error_envelope(status, message)


def error_event(dialect: Dialect, status: int, message: str, last: bytes = b"") -> bytes | None:
    """Return the event with which a stream says that it failed; None where it cannot.

    *last* is what came last of the stream: Responses number their events.  The stream must not be
    completed after it: a client that does not know the event has to see that the end is missing.
    """
    # The empty line in front ends an event that was cut in the middle.
    if dialect is Dialect.OPENAI:
        return b"\n\ndata: %b\n\n" % error_envelope(status, message)
    if dialect is Dialect.MESSAGES:
        return b"\n\nevent: error\ndata: %b\n\n" % _messages_error(status, message, "")
    if dialect is Dialect.RESPONSES:
        return b"\n\nevent: error\ndata: %b\n\n" % _responses_error(message, last)
    return None


def has_ended(dialect: Dialect, last: bytes) -> bool:
    """Whether a stream that ends with its connection has ended, and not broken off, by what came
    *last* of it; of an unknown API nothing is known."""
    ends = _ENDS.get(dialect)
    return ends is None or any(end in last for end in ends)


def _messages_error(status: int, message: str, request_id: str) -> bytes:
    kind = _MESSAGES_KINDS.get(status, "invalid_request_error" if status < 500 else "api_error")
    said = {"type": "error", "error": {"type": kind, "message": message}}
    return _encode({**said, "request_id": request_id} if request_id else said)


def _responses_error(message: str, last: bytes) -> bytes:
    """As the reference has it, and as OpenAI sends it, which its own client looks for."""
    numbers = _SEQUENCE.findall(last)
    numbered = {"sequence_number": int(numbers[-1]) + 1} if numbers else {}
    said = {"code": "server_error", "message": message, "param": None}
    return _encode({"type": "error", **said, **numbered, "error": {"type": "server_error", **said}})
