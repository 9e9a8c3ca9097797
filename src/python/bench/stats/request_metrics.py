"""Records -> the named measures of a run, as lists of numbers.  Pure.

Names and meanings are genai-perf's and aiperf's, which count from when a request was sent;
`effective_latency` counts from when it was due.
"""

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import numpy as np

from bench.loadgen.record import Record
from bench.stats.plateau import by_part

PERCENTILES = (1, 5, 10, 25, 50, 75, 90, 95, 99)


class Stats(msgspec.Struct, frozen=True):
    """What is told of many values.  *percentiles* has a key for each of PERCENTILES."""

    count: int
    avg: float
    min: float
    max: float
    std: float
    sum: float
    percentiles: dict[int, float]


class Measure(msgspec.Struct, frozen=True):
    """A measure under its three names."""

    key: str
    label: str
    unit: str


TTFT = Measure("time_to_first_token", "Time To First Token", "ms")
ANSWER = Measure("time_to_first_output_token", "Time To First Answer Token", "ms")
TTST = Measure("time_to_second_token", "Time To Second Token", "ms")
LATENCY = Measure("request_latency", "Request Latency", "ms")
ITL = Measure("inter_token_latency", "Inter Token Latency", "ms")
CHUNK = Measure("inter_chunk_latency", "Inter Chunk Latency", "ms")
PER_USER = Measure(
    "output_token_throughput_per_user", "Output Token Throughput Per User", "tokens/sec/user"
)
OSL = Measure("output_sequence_length", "Output Sequence Length", "tokens")
ISL = Measure("input_sequence_length", "Input Sequence Length", "tokens")
EFFECTIVE = Measure("effective_latency", "Effective Latency", "ms")
EFFECTIVE_TTFT = Measure("effective_time_to_first_token", "Effective Time To First Token", "ms")
DISPATCH = Measure("credit_to_start_latency", "Credit To Start Latency", "ms")
SENDING = Measure("http_req_sending", "HTTP Request Sending", "ms")
RECEIVING = Measure("http_req_receiving", "HTTP Request Receiving", "ms")
CLOSE = Measure("close_delay", "Close Of Body After Last Token", "ms")
DECODE = Measure("decode_duration", "Decode Duration", "ms")

# One number, or None where it is unknown, per request.
_OF: Mapping[Measure, Callable[[Record], float | None]] = {
    TTFT: lambda r: _ms(r.content_s[0] - r.sent_s) if r.content_s else None,
    ANSWER: lambda r: None if r.answer_s is None else _ms(r.answer_s - r.sent_s),
    TTST: lambda r: _ms(r.content_s[1] - r.content_s[0]) if _has_second_token(r) else None,
    LATENCY: lambda r: _ms(r.last_token_s - r.sent_s),
    ITL: lambda r: None if r.itl_s is None else _ms(r.itl_s),
    PER_USER: lambda r: 1.0 / r.itl_s if r.itl_s else None,
    OSL: lambda r: r.completion_tokens,
    ISL: lambda r: r.prompt_tokens,
    EFFECTIVE: lambda r: _ms(r.last_token_s - r.due_s),
    EFFECTIVE_TTFT: lambda r: _ms(r.content_s[0] - r.due_s) if r.content_s else None,
    DISPATCH: lambda r: _ms(r.dispatch_delay_s),
    SENDING: lambda r: None if r.wrote_s is None else _ms(r.wrote_s - r.sent_s),
    RECEIVING: lambda r: _ms(r.end_s - r.content_s[0]) if r.content_s else None,
    CLOSE: lambda r: _ms(r.end_s - r.content_s[-1]) if r.content_s else None,
    DECODE: lambda r: _ms(r.content_s[-1] - r.content_s[0]) if len(r.content_s) > 1 else None,
}


def _has_second_token(record: Record) -> bool:
    """Where an event holds several tokens, the second came with the first."""
    is_uncounted = record.completion_tokens is None and len(set(record.content_s)) > 1
    return len(record.content_s) > 1 and (record.event_is_token or is_uncounted)


def measured(record: Record) -> dict[Measure, float]:
    """Return what is known of one whole request."""
    values = {measure: of(record) for measure, of in _OF.items()}
    return {measure: float(value) for measure, value in values.items() if value is not None}


def summarize(records: Iterable[Record]) -> dict[Measure, Stats]:
    """Return the statistics of every measure that some whole request has."""
    whole = [record for record in records if record.ok]
    each = [measured(record) for record in whole]
    found = {m: stats([one[m] for one in each if m in one]) for m in _OF}
    found[CHUNK] = stats([_ms(gap) for record in whole for gap in record.gaps_s])
    return {measure: of for measure, of in found.items() if of is not None}


def stats(values: Sequence[float]) -> Stats | None:
    """Return the statistics of *values*; None of no values."""
    if not values:
        return None
    array = np.asarray(values, dtype=np.float64)
    at = np.percentile(array, PERCENTILES)
    return Stats(
        count=len(values),
        avg=float(array.mean()),
        min=float(array.min()),
        max=float(array.max()),
        std=float(array.std()),
        sum=float(array.sum()),
        percentiles={q: float(value) for q, value in zip(PERCENTILES, at, strict=True)},
    )


class Totals(msgspec.Struct, frozen=True):
    """Counts and rates of a whole run, ramp and tail included, as aiperf 0.13 defines them.

    Attributes:
        duration_s: from the first request sent to the last token, by part: an arm is not asked
            anything while another has its turn.
        output_tokens: of whole requests; None where some answer's were not counted.
        errors: how often each error came up; words: what the upstream said of it most often.
        notices: how many whole answers were odd in each way.
    """

    requests: int
    failed: int
    duration_s: float
    output_tokens: int | None
    errors: dict[str, int]
    words: dict[str, str] = {}
    notices: dict[str, int] = {}

    @property
    def request_throughput(self) -> float | None:
        return (self.requests - self.failed) / self.duration_s if self.duration_s else None

    @property
    def output_token_throughput(self) -> float | None:
        if self.output_tokens is None or not self.duration_s:
            return None
        return self.output_tokens / self.duration_s


def totals(records: Sequence[Record]) -> Totals:
    """Return the counts of *records*."""
    tokens = [one.completion_tokens for one in records if one.ok]
    errors = Counter(one.error for one in records if one.error is not None)
    return Totals(
        requests=len(records),
        failed=errors.total(),
        duration_s=sum(_span_s(own) for own in by_part(records)),
        output_tokens=None if None in tokens else sum(n for n in tokens if n is not None),
        errors=dict(sorted(errors.items())),
        words={error: _commonest_words(records, error) for error in sorted(errors)},
        notices=dict(sorted(Counter(n for r in records if r.ok for n in r.notices).items())),
    )


def _commonest_words(records: Iterable[Record], error: str) -> str:
    said = Counter(one.detail for one in records if one.error == error and one.detail)
    return said.most_common(1)[0][0] if said else ""


def _span_s(records: Sequence[Record]) -> float:
    ended_s = [one.last_token_s for one in records if one.ok]
    return max(ended_s) - min(one.sent_s for one in records) if ended_s else 0.0


def _ms(seconds: float) -> float:
    return seconds * 1e3
