"""What became of one request.  Pure."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Fault(StrEnum):
    """What an upstream can do wrong, under its own name.

    An error status is none of these: it is named for itself, `http 503`, and so is a redirect.
    """

    REFUSED = "refused"  # nothing listens
    UNREACHABLE = "unreachable"  # no such host, no route, no TLS
    TIMEOUT = "timeout"  # no connection, or no end of the answer, in time
    RESET = "reset"  # closed before the first byte of the answer
    CUT = "cut"  # closed in the middle of the answer
    NO_END = "no [DONE]"  # the body ended in order, but neither [DONE] nor a finish reason came
    MALFORMED = "malformed"  # not HTTP, not an event stream, or not our JSON
    ENCODING = "content encoding"  # compressed in a way that cannot be read
    ERROR_EVENT = "error event"  # the stream said that it failed
    ABORTED = "aborted"  # the engine gave the request up: finish reason abort or cancelled
    FILTERED = "content filter"  # a filter stopped the answer
    EMPTY = "empty"  # a whole answer in which nothing was generated


class Notice(StrEnum):
    """What is odd about an answer that is whole: some measures are unknown, or mean another thing.

    docs/benchmarks/definitions.md says which.
    """

    NO_DONE = "no [DONE]"  # a finish reason came, [DONE] did not
    NO_FINISH = "no finish reason"
    ODD_FINISH = "unknown finish reason"
    UNENDED = "last event not ended"  # without its empty line
    AFTER_DONE = "events after [DONE]"  # ignored
    NULL_CHOICES = "choices: null"
    CONTENT_TYPE = "content type"  # an event stream that is called something else
    COMPRESSED = "compressed"
    NOT_STREAMED = "not streamed"  # a stream was asked for
    STREAMED = "streamed"  # none was asked for
    LINGERING = "lingering"  # the body was closed long after the last token
    NOT_CLOSED = "not closed in order"  # cut, reset or timed out, but after [DONE]
    BUFFERED = "buffered"  # every token came in one read
    BURSTS = "bursts"  # many tokens came in the read of the one before
    SEVERAL_CHOICES = "several choices"
    NO_USAGE = "no usage"
    ZERO_USAGE = "usage of zeros"
    FEWER_TOKENS = "usage counts fewer tokens than events"
    MORE_TOKENS = "usage counts more tokens than events"
    HIDDEN_REASONING = "hidden reasoning"  # counted, and not streamed
    HIDDEN_TOKENS = "hidden tokens"  # counted are too many for the text that was streamed
    INLINE_REASONING = "reasoning inside the text"


# Finish reasons of an answer that is as long as it was to be.
NORMAL_FINISHES = frozenset(
    {
        *("stop", "length", "tool_calls", "function_call"),
        *("eos", "eos_token", "stop_sequence", "stop_token"),  # TGI, SGLang
        *("end_turn", "max_tokens", "tool_use", "pause_turn"),  # Messages
        *("max_output_tokens", "incomplete"),  # Responses
    }
)

FINISH_FAULTS = {
    "abort": Fault.ABORTED,
    "aborted": Fault.ABORTED,
    "cancelled": Fault.ABORTED,
    "canceled": Fault.ABORTED,
    "error": Fault.ERROR_EVENT,
    "failed": Fault.ERROR_EVENT,
    "content_filter": Fault.FILTERED,
    "content-filter": Fault.FILTERED,
    "refusal": Fault.FILTERED,
    "safety": Fault.FILTERED,
}


# Where one of these holds, a gap between two events is not the time that a token took.
GAPS_ARE_NOT_TOKENS = frozenset({Notice.BUFFERED, Notice.BURSTS, Notice.SEVERAL_CHOICES})


def streamed_tokens(completion: int | None, hidden: int | None) -> int | None:
    """Return how many of *completion* tokens the events of a stream carried."""
    return None if completion is None or hidden is None else completion - hidden


def token_time_s(
    content_s: Sequence[float], streamed: int | None, first: int, notices: Iterable[str]
) -> float | None:
    """Return the mean time per token: from the first read to the last token, over the tokens that
    came after those *first* ones.  None where that is unknown, never zero."""
    if streamed is None or streamed <= first or Notice.SEVERAL_CHOICES in notices:
        return None
    span_s = content_s[-1] - content_s[0] if content_s else 0.0
    return span_s / (streamed - first) if span_s > 0.0 else None


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request, timed.  Times are seconds of the client's clock.

    Attributes:
        sent_s: when the request was begun, before a connection was looked for.
        wrote_s: when its last byte was given to the socket; None without a connection.
        content_s: when each event that carried tokens, of any kind, arrived; empty if not streamed.
        answer_s: when the first token that is no reasoning arrived; None where none was told apart.
        end_s: when the body was closed, or had failed.
        error: a Fault or `http NNN`; None where the answer is whole.  A failed request has no
            latency, whatever its times say.
        detail: what the upstream said of its failure, shortened.
        finish: why generation ended, in the upstream's word.
        notices: what is odd about the answer.
        prompt_tokens: as the upstream counted them; None where it did not say.
        completion_tokens: likewise, of all kinds.
        hidden_tokens: how many of them no event carried; None where that is unknown.
        first_tokens: how many came in the first read; estimated from its share of the text where
            an event is no token.
        served_by: the replica that the load balancer named; empty where it named none.
        text: what was answered, without reasoning, tool calls and refusals; empty unless it was
            asked to be kept.
    """

    sent_s: float
    end_s: float
    wrote_s: float | None = None
    content_s: tuple[float, ...] = ()
    answer_s: float | None = None
    error: str | None = None
    detail: str = ""
    finish: str | None = None
    notices: tuple[str, ...] = ()
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    hidden_tokens: int | None = 0
    first_tokens: int = 1
    served_by: str = ""
    text: str = ""

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def first_content_s(self) -> float | None:
        """When the first token, of any kind, arrived; None where nothing was streamed."""
        return self.content_s[0] if self.content_s else None

    @property
    def event_is_token(self) -> bool:
        """Whether each event carried exactly one token, so that a gap is an inter-token latency."""
        streamed = streamed_tokens(self.completion_tokens, self.hidden_tokens)
        return streamed == len(self.content_s) and GAPS_ARE_NOT_TOKENS.isdisjoint(self.notices)

    @property
    def token_time_s(self) -> float | None:
        """Mean time per token after those of the first read."""
        return token_time_s(
            self.content_s,
            streamed_tokens(self.completion_tokens, self.hidden_tokens),
            self.first_tokens,
            self.notices,
        )

    @property
    def last_token_s(self) -> float:
        """When the last token arrived; of what was not streamed, the whole answer."""
        return self.content_s[-1] if self.content_s else self.end_s
