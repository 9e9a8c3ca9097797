"""What was measured of one call, in a form that merges and is saved without loss.  Pure."""

from collections.abc import Iterable
from itertools import pairwise

import msgspec

from bench.workload.schedule import Call
from servekit.client.outcome import (
    GAPS_ARE_NOT_TOKENS,
    Outcome,
    streamed_tokens,
    token_time_s,
)
from servekit.errors.tree import WorkloadInvalid


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One call's fate.  Times are seconds from the start of the run.

    Attributes:
        arm: whom it was sent to.
        part, part_s: the part of the schedule it belongs to, and when in the part it was due.
        due_s: when the schedule wanted it sent; sent_s: when it was.
        content_s: when each event with tokens, of any kind, arrived.
        end_s: when the body was closed.
        error: None where the answer is whole; else the latencies mean nothing.
        answer_s, finish, notices, hidden_tokens, first_tokens: as in Outcome.
    """

    arm: str
    part: int
    part_s: float
    model: str
    conversation: int
    asked_prompt_tokens: int
    asked_output_tokens: int
    due_s: float
    sent_s: float
    wrote_s: float | None
    content_s: tuple[float, ...]
    end_s: float
    error: str | None = None
    detail: str = ""
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    served_by: str = ""
    answer_s: float | None = None
    finish: str | None = None
    notices: tuple[str, ...] = ()
    hidden_tokens: int | None = 0
    first_tokens: int = 1

    @property
    def ok(self) -> bool:
        return self.error is None

    @property
    def event_is_token(self) -> bool:
        """Whether a gap between two events is the latency of one token."""
        is_counted = self.streamed_tokens == len(self.content_s)
        return is_counted and GAPS_ARE_NOT_TOKENS.isdisjoint(self.notices)

    @property
    def streamed_tokens(self) -> int | None:
        """Output tokens that the events carried."""
        return streamed_tokens(self.completion_tokens, self.hidden_tokens)

    @property
    def last_token_s(self) -> float:
        """When the last token arrived; of what was not streamed, the whole answer."""
        return self.content_s[-1] if self.content_s else self.end_s

    @property
    def ttft_s(self) -> float | None:
        """From when it was due to its first token, of any kind."""
        return self.content_s[0] - self.due_s if self.ok and self.content_s else None

    @property
    def e2e_s(self) -> float | None:
        """From when it was due to its last token."""
        return self.last_token_s - self.due_s if self.ok else None

    @property
    def dispatch_delay_s(self) -> float:
        """How late it was sent: our own fault, never the upstream's."""
        return self.sent_s - self.due_s

    @property
    def gaps_s(self) -> list[float]:
        """Between each event and the next; where events are no tokens, between each read and the
        next, since what came in one read did not come apart."""
        times = self.content_s if self.event_is_token else sorted(set(self.content_s))
        return [after - before for before, after in pairwise(times)]

    @property
    def itl_s(self) -> float | None:
        """Mean time per token after the first read, by the upstream's own count."""
        if not self.ok:
            return None
        return token_time_s(self.content_s, self.streamed_tokens, self.first_tokens, self.notices)


def record(
    call: Call,
    outcome: Outcome,
    *,
    arm: str,
    part: int,
    due_s: float,
    part_s: float,
    start_s: float,
) -> Record:
    """Return what became of *call*.  *due_s* is on the client's clock, as are outcome's times;
    *start_s* is when the run started on it."""
    return Record(
        arm=arm,
        part=part,
        part_s=part_s,
        model=call.model,
        conversation=call.conversation,
        asked_prompt_tokens=call.prompt_tokens,
        asked_output_tokens=call.output_tokens,
        due_s=due_s - start_s,
        sent_s=outcome.sent_s - start_s,
        wrote_s=None if outcome.wrote_s is None else outcome.wrote_s - start_s,
        content_s=tuple(at_s - start_s for at_s in outcome.content_s),
        end_s=outcome.end_s - start_s,
        error=outcome.error,
        detail=outcome.detail,
        prompt_tokens=outcome.prompt_tokens,
        completion_tokens=outcome.completion_tokens,
        served_by=outcome.served_by,
        answer_s=None if outcome.answer_s is None else outcome.answer_s - start_s,
        finish=outcome.finish,
        notices=outcome.notices,
        hidden_tokens=outcome.hidden_tokens,
        first_tokens=outcome.first_tokens,
    )


_encode = msgspec.msgpack.Encoder().encode


def write_records(records: Iterable[Record]) -> bytes:
    """Return *records* as MessagePack."""
    return _encode(list(records))


def read_records(content: bytes, source: str) -> list[Record]:
    """Return what `write_records` wrote.

    Raises:
        WorkloadInvalid: it is something else.
    """
    try:
        return msgspec.msgpack.decode(content, type=list[Record])
    except msgspec.DecodeError as error:
        raise WorkloadInvalid(f"{source}: not a records file: {error}") from error


def merged(batches: Iterable[Iterable[Record]]) -> list[Record]:
    """Return the records of several workers as if one had made them: by when they were due."""
    everything = [record for batch in batches for record in batch]
    return sorted(everything, key=lambda r: (r.due_s, r.arm, r.part_s, r.conversation))
