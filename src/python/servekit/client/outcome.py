"""What became of one request.  Pure."""

from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What an upstream can do wrong, under its own name.

    An error status is none of these: it is named for itself, `http 503`.
    """

    REFUSED = "refused"  # nobody listens
    UNREACHABLE = "unreachable"  # no such host, no route, no TLS
    TIMEOUT = "timeout"  # no connection, or no end of the answer, in time
    RESET = "reset"  # closed before the first byte of the answer
    CUT = "cut"  # closed in the middle of the answer, or ended it without [DONE]
    MALFORMED = "malformed"  # not HTTP, not an event stream, or not our JSON
    ERROR_EVENT = "error event"  # the stream said that it failed
    EMPTY = "empty"  # a whole answer in which nothing was generated


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request, timed.  Times are seconds of the client's clock.

    Attributes:
        sent_s: when the request was begun, before a connection was looked for.
        wrote_s: when its last byte was given to the socket; None without a connection.
        content_s: when each event that carried text arrived; empty if not streamed.
        end_s: when the answer was complete, or had failed.
        error: a Fault or `http NNN`; None where the answer is whole.  A failed request has no
            latency, whatever its times say.
        detail: what the upstream said of its failure, shortened.
        prompt_tokens: as the upstream counted them; None where it did not say.
        completion_tokens: likewise.
        served_by: the replica that the load balancer named; empty where it named none.
    """

    sent_s: float
    end_s: float
    wrote_s: float | None = None
    content_s: tuple[float, ...] = ()
    error: str | None = None
    detail: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    served_by: str = ""

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def first_content_s(self) -> float | None:
        """When the first text arrived; None where nothing was streamed."""
        return self.content_s[0] if self.content_s else None

    @property
    def event_is_token(self) -> bool:
        """Whether each event carried exactly one token, so that a gap is an inter-token latency."""
        return self.completion_tokens is not None and self.completion_tokens == len(self.content_s)
