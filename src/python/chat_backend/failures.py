"""Errors -> HTTP.  Pure: one table says which status, code and advice each error has."""

from dataclasses import dataclass

from chat_backend.messages import ChatFieldInvalid, ErrorReply, Problem
from servekit.errors.tree import (
    EngineError,
    EngineRefused,
    EngineTimeout,
    EngineUnreachable,
    RequestError,
    RequestInvalid,
    RequestTooLarge,
    StreamCut,
)

# A model server that restarts loads for minutes; one that is full has room in seconds.
RETRY_AFTER_S = 5

# vLLM's words for a prompt that does not fit (tests/golden/vllm).
_TOO_LONG = "maximum context length"


class KeyMissing(RequestError):
    """No bearer key, or an unknown one."""


class ClientGone(RequestError):
    """The client closed the connection before its answer."""


class RateExceeded(RequestError):
    """More requests than one client may make.

    Attributes:
        wait_s: seconds until the next one is taken.
    """

    def __init__(self, message: str, *, wait_s: float) -> None:
        super().__init__(message)
        self.wait_s = wait_s


@dataclass(frozen=True, slots=True)
class HttpProblem:
    """How an error is told.

    Attributes:
        retry_after_s: seconds after which another try makes sense; None where it never does.
    """

    status: int
    code: str
    message: str
    retry_after_s: int | None = None

    @property
    def headers(self) -> dict[str, str]:
        headers = {}
        if self.retry_after_s is not None:
            headers["Retry-After"] = str(self.retry_after_s)
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        return headers

    def reply(self, request_id: str) -> ErrorReply:
        return ErrorReply(Problem(self.code, self.message, request_id))


# The first row that fits holds, so a special case stands above its parent.
_TABLE: tuple[tuple[type[Exception], int, str], ...] = (
    (KeyMissing, 401, "key_missing"),
    # As in nginx; nobody reads it but the metrics and the log.
    (ClientGone, 499, "client_gone"),
    (RequestTooLarge, 413, "too_long"),
    (ChatFieldInvalid, 422, "field_invalid"),
    (RequestInvalid, 400, "not_json"),
    (RequestError, 400, "request_invalid"),
    (EngineTimeout, 504, "engine_timeout"),
    (StreamCut, 502, "answer_cut"),
)


def failure_of(error: Exception) -> HttpProblem:
    """Return the HTTP response for *error*."""
    if isinstance(error, RateExceeded):
        return HttpProblem(429, "rate_exceeded", str(error), max(1, round(error.wait_s + 0.5)))
    if isinstance(error, EngineUnreachable):
        return HttpProblem(503, "engine_unavailable", str(error), RETRY_AFTER_S)
    if isinstance(error, EngineRefused):
        return _refused(error)
    for kind, status, code in _TABLE:
        if isinstance(error, kind):
            return HttpProblem(status, code, str(error))
    if isinstance(error, EngineError):
        return HttpProblem(502, "engine_failed", str(error))
    return HttpProblem(
        500, "internal", "internal error; the backend's log has details under the request id"
    )


def is_too_long(error: EngineRefused) -> bool:
    """Whether the prompt does not fit the model's context."""
    return error.status == 413 or (error.status < 500 and _TOO_LONG in str(error))


def _refused(error: EngineRefused) -> HttpProblem:
    """An engine's refusal is the caller's fault below 500, apart from having no room."""
    if error.status in (429, 503):
        return HttpProblem(503, "engine_busy", str(error), RETRY_AFTER_S)
    if error.status >= 500:
        return HttpProblem(502, "engine_failed", str(error))
    if is_too_long(error):
        return HttpProblem(413, "too_long", str(error))
    if error.status in (401, 403, 404):
        # Our key or our model name is wrong, which the caller cannot mend.
        return HttpProblem(502, "engine_misconfigured", str(error))
    return HttpProblem(422, "refused_by_engine", str(error))
