"""Records -> the named measures of a run, as lists of numbers.  Pure.

Names and meanings are genai-perf's and aiperf's, which count from when a request was sent;
`effective_latency` counts from when it was due.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import msgspec
import numpy as np

from bench.loadgen.record import Record

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
DECODE = Measure("decode_duration", "Decode Duration", "ms")

# One number, or None where it is unknown, per request.
_OF: Mapping[Measure, Callable[[Record], float | None]] = {
    TTFT: lambda r: _ms(r.content_s[0] - r.sent_s) if r.content_s else None,
    TTST: lambda r: _ms(r.content_s[1] - r.content_s[0]) if len(r.content_s) > 1 else None,
    LATENCY: lambda r: _ms(r.end_s - r.sent_s),
    ITL: lambda r: None if r.itl_s is None else _ms(r.itl_s),
    PER_USER: lambda r: 1.0 / r.itl_s if r.itl_s else None,
    OSL: lambda r: r.completion_tokens,
    ISL: lambda r: r.prompt_tokens,
    EFFECTIVE: lambda r: _ms(r.end_s - r.due_s),
    EFFECTIVE_TTFT: lambda r: _ms(r.content_s[0] - r.due_s) if r.content_s else None,
    DISPATCH: lambda r: _ms(r.dispatch_delay_s),
    SENDING: lambda r: None if r.wrote_s is None else _ms(r.wrote_s - r.sent_s),
    RECEIVING: lambda r: _ms(r.end_s - r.content_s[0]) if r.content_s else None,
    DECODE: lambda r: _ms(r.content_s[-1] - r.content_s[0]) if len(r.content_s) > 1 else None,
}

MEASURES = (*_OF, CHUNK)


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
    """Counts and rates of a whole run.

    Attributes:
        duration_s: from the first request sent to the last answer, stretches in which the arm was
            not asked anything left out.
        errors: how often each error came up.
    """

    requests: int
    failed: int
    duration_s: float
    output_tokens: int
    errors: dict[str, int]

    @property
    def request_throughput(self) -> float:
        return (self.requests - self.failed) / self.duration_s if self.duration_s else 0.0

    @property
    def output_token_throughput(self) -> float:
        return self.output_tokens / self.duration_s if self.duration_s else 0.0


def totals(records: Sequence[Record]) -> Totals:
    """Return the counts of *records*."""
    errors: dict[str, int] = {}
    for one in records:
        if one.error is not None:
            errors[one.error] = errors.get(one.error, 0) + 1
    return Totals(
        requests=len(records),
        failed=sum(errors.values()),
        duration_s=busy_s((one.sent_s, one.end_s) for one in records),
        output_tokens=sum(one.completion_tokens or 0 for one in records if one.ok),
        errors=dict(sorted(errors.items())),
    )


def busy_s(spans: Iterable[tuple[float, float]]) -> float:
    """Return how long at least one of *spans* was open."""
    total = 0.0
    until = float("-inf")
    for start, end in sorted(spans):
        total += max(0.0, end - max(start, until))
        until = max(until, end)
    return total


def _ms(seconds: float) -> float:
    return seconds * 1e3
