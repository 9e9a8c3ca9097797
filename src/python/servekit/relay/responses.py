"""Answers of our own, and the status of every error.  Pure."""

from http import HTTPStatus
from math import ceil

import msgspec

from servekit.errors.tree import (
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
    ModelUnknown,
    ReplicaMissing,
    RequestInvalid,
    RequestTooLarge,
    ResponseUnknown,
    ServeError,
    ShortOfResources,
    StreamCut,
)
from servekit.wire.dialects import Dialect, error_body

_STATUSES: dict[type[ServeError], int] = {
    RequestInvalid: 400,
    ModelUnknown: 404,
    ResponseUnknown: 404,
    RequestTooLarge: 413,
    EngineUnreachable: 502,
    StreamCut: 502,
    EngineRefused: 502,
    ReplicaMissing: 503,
    ShortOfResources: 503,
    EngineTimeout: 504,
}

JSON = "application/json"
# A replica that is starting or restarting is seldom back sooner.
RETRY_AFTER_S = 1


class LocalResponse(msgspec.Struct, frozen=True):
    """A whole answer.

    Attributes:
        allowed: the methods that the endpoint takes, where the request had another.
        message: what went wrong, of an error; the body says it in the words of an API.
        lines: further header lines, each with its line end.
    """

    status: int
    body: bytes
    content_type: str = JSON
    retry_after_s: int | None = None
    allowed: tuple[str, ...] = ()
    message: str = ""
    lines: bytes = b""

    def encode(self, *, keep_alive: bool, bodiless: bool = False) -> bytes:
        """Return it as bytes; *bodiless* where the request was a HEAD."""
        head = (
            f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}\r\n"
            f"content-type: {self.content_type}\r\ncontent-length: {len(self.body)}\r\n"
        )
        if self.retry_after_s is not None:
            head += f"retry-after: {self.retry_after_s}\r\n"
        if self.allowed:
            head += f"allow: {', '.join(self.allowed)}\r\n"
        if self.status == 401:
            head += "www-authenticate: Bearer\r\n"
        if not keep_alive:
            head += "connection: close\r\n"
        return b"%b%b\r\n%b" % (head.encode(), self.lines, b"" if bodiless else self.body)

    def with_lines(self, lines: bytes) -> "LocalResponse":
        """Return it with *lines* besides those that it has."""
        return msgspec.structs.replace(self, lines=self.lines + lines)

    def in_dialect(self, dialect: Dialect) -> "LocalResponse":
        """Return it as clients of that API read errors; what is no error stays as it is."""
        if not self.message or dialect is not Dialect.MESSAGES:
            return self
        return msgspec.structs.replace(self, body=error_body(dialect, self.status, self.message))


def status_of(error: ServeError) -> int:
    """Return the HTTP status of *error*."""
    return next((status for kind, status in _STATUSES.items() if isinstance(error, kind)), 500)


def refusal(error: ServeError) -> LocalResponse:
    """Return *error* as an answer, in OpenAI's envelope."""
    answer = refuse(status_of(error), str(error))
    if isinstance(error, ReplicaMissing) and error.retry_after_s is not None:
        return msgspec.structs.replace(answer, retry_after_s=ceil(error.retry_after_s))
    return answer


def refuse(status: int, message: str) -> LocalResponse:
    """Return an error answer."""
    retry_after_s = RETRY_AFTER_S if status in (429, 503) else None
    body = error_body(Dialect.OPENAI, status, message)
    return LocalResponse(status, body, JSON, retry_after_s, message=message)


def not_allowed(message: str, allowed: tuple[str, ...]) -> LocalResponse:
    """Return the answer to a method that an endpoint does not take (RFC 9110, section 15.5.6)."""
    return msgspec.structs.replace(refuse(405, message), allowed=allowed)


def json_answer(value: object, status: int = 200) -> LocalResponse:
    """Return *value* as JSON."""
    return LocalResponse(status, msgspec.json.encode(value))


def last_chunk(event: bytes) -> bytes:
    """Return *event* as a chunk; what ends a chunked body does not follow it."""
    return b"%x\r\n%b\r\n" % (len(event), event)
