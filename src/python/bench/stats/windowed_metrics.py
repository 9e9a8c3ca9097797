"""The records of one arm -> its metrics, over any set of its turns.  Pure."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from copy import copy
from functools import partial

import msgspec
import numpy as np

from bench.loadgen.record import Record
from bench.stats import estimators
from bench.stats.estimators import Floats, WindowedSample
from bench.stats.plateau import Stretch, by_part, plateau_of
from bench.workload.schedule import Part

# What plots over time show as one point.
WINDOW_S = 3.0


class SloLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What a request must keep to count as good.  None asks for nothing."""

    ttft_ms: float | None = 1_000.0
    itl_ms: float | None = 50.0
    e2e_ms: float | None = None

    def met_by(self, record: Record) -> bool:
        """Whether *record* kept every limit.

        A time that is unknown counts as the longest that it can have been.  An answer that came
        whole has its first token with its last; one of a single token, or of a single read, has no
        time per token that could be too long.
        """
        limits = (
            (record.e2e_s if record.ttft_s is None else record.ttft_s, self.ttft_ms),
            (_longest_token_time_s(record), self.itl_ms),
            (record.e2e_s, self.e2e_ms),
        )
        return record.ok and all(
            limit is None or value is None or value * 1e3 <= limit for value, limit in limits
        )


DEFAULT_SLO = SloLimits()


def _longest_token_time_s(record: Record) -> float | None:
    """The time per token; uncounted, that of one token in each read."""
    if record.itl_s is not None or record.completion_tokens == 1:
        return record.itl_s
    reads = len(set(record.content_s))
    return (record.content_s[-1] - record.content_s[0]) / (reads - 1) if reads > 1 else None


class Window(msgspec.Struct, frozen=True):
    """A stretch of a part; a turn is a whole one.  Both arms have the same ones."""

    part: int
    start_s: float
    length_s: float

    def holds(self, part: int, at_s: float) -> bool:
        """Whether *at_s*, counted from the start of *part*, lies in it."""
        return part == self.part and 0.0 <= at_s - self.start_s < self.length_s


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """A number of an arm, and how to draw it from sets of windows.

    Attributes:
        least_answers: whole answers of an arm below which it is unknown.
        is_share: it is a share of the requests, in percent.
    """

    key: str
    label: str
    unit: str
    lower_is_better: bool
    draw: Callable[["ArmWindows", Floats | None], Floats]
    headline: bool = False
    least_answers: int = 0
    is_share: bool = False


class ArmWindows:
    """One arm's records, by window; `joined`, several arms', the windows of one after another's."""

    def __init__(
        self, records: Sequence[Record], windows: Sequence[Window], goal: SloLimits
    ) -> None:
        index = [_window_of(record, windows) for record in records]
        pairs = [(r, w) for r, w in zip(records, index, strict=True) if w is not None]
        good = [(r, w) for r, w in pairs if r.ok]
        n = len(windows)
        self.ttft = _sample(good, n, lambda record: record.ttft_s)
        self.e2e = _sample(good, n, lambda record: record.e2e_s)
        self.itl = _gaps([(r, w) for r, w in good if r.event_is_token], n)
        self.chunk = _gaps([(r, w) for r, w in good if not r.event_is_token], n)
        self.per_token = _sample(good, n, lambda record: record.itl_s)
        self.offered = _count(pairs, n)
        self.failed = _count([(r, w) for r, w in pairs if not r.ok], n)
        self.within_slo = _count([(r, w) for r, w in pairs if goal.met_by(r)], n)
        plateaus = _plateaus(records)
        self.seconds = _overlaps(plateaus, windows)
        done = [(r, w) for r in records if (w := _done_in(r, plateaus, windows)) is not None]
        self.completed = _count(done, n)
        self.good = _count([(r, w) for r, w in done if goal.met_by(r)], n)
        self.tokens = _tokens(done, n)


def joined(arms: Sequence[ArmWindows]) -> ArmWindows:
    """Return the windows of *arms*, which have as many each, as if they were those of one."""
    one = copy(arms[0])
    for name in vars(one):
        own = [getattr(arm, name) for arm in arms]
        together = estimators.joined if isinstance(own[0], WindowedSample) else np.concatenate
        setattr(one, name, together(own))
    return one


def turns_of(parts: Sequence[Part]) -> tuple[Window, ...]:
    """Return the turns in which an arm replays *parts*: one for each."""
    return windows_of(parts, math.inf)


def windows_of(parts: Sequence[Part], window_s: float = WINDOW_S) -> tuple[Window, ...]:
    """Return the windows of *parts*: in each, equal ones of about *window_s*."""
    windows = []
    for part in parts:
        n = max(1, round(part.length_s / window_s))
        length_s = part.length_s / n
        windows += [Window(part.number, i * length_s, length_s) for i in range(n)]
    return tuple(windows)


def _window_of(record: Record, windows: Sequence[Window]) -> int | None:
    for number, window in enumerate(windows):
        if window.holds(record.part, record.part_s):
            return number
    return None


def _sample(
    pairs: Sequence[tuple[Record, int]], n: int, value: Callable[[Record], float | None]
) -> WindowedSample:
    known = [(v, w) for r, w in pairs if (v := value(r)) is not None]
    return estimators.sample([v for v, _ in known], [w for _, w in known], n)


def _gaps(pairs: Sequence[tuple[Record, int]], n: int) -> WindowedSample:
    """Gaps between events: those of tokens and those of chunks are never mixed."""
    return estimators.binned([r.gaps_s for r, _ in pairs], [w for _, w in pairs], n)


def _count(pairs: Sequence[tuple[Record, int]], n: int) -> Floats:
    return np.bincount([w for _, w in pairs], minlength=n).astype(np.float64)


def _plateaus(records: Sequence[Record]) -> dict[int, Stretch]:
    """Return the plateau of each part that has one, counted from the start of the part."""
    found = {}
    for own in by_part(records):
        start_s = own[0].due_s - own[0].part_s
        plateau = plateau_of(own)
        if plateau is not None:
            found[own[0].part] = Stretch(plateau.start_s - start_s, plateau.end_s - start_s)
    return found


def _overlaps(plateaus: Mapping[int, Stretch], windows: Sequence[Window]) -> Floats:
    """Return the seconds of each window in which its part was on its plateau.

    A plateau may go on after its part's last window: that is of the last one too.
    """
    last = {window.part: number for number, window in enumerate(windows)}
    seconds = np.zeros(len(windows))
    for number, window in enumerate(windows):
        plateau = plateaus.get(window.part)
        if plateau is not None:
            end_s = window.start_s + window.length_s
            until_s = plateau.end_s if number == last[window.part] else min(plateau.end_s, end_s)
            seconds[number] = max(0.0, until_s - max(plateau.start_s, window.start_s))
    return seconds


def _done_in(
    record: Record, plateaus: Mapping[int, Stretch], windows: Sequence[Window]
) -> int | None:
    """Return the window in which *record* was completed, on the plateau of its part."""
    plateau = plateaus.get(record.part)
    at_s = record.last_token_s - (record.due_s - record.part_s)
    if not record.ok or plateau is None or not plateau.holds(at_s):
        return None
    own = [number for number, window in enumerate(windows) if window.part == record.part]
    return max((n for n in own if windows[n].start_s < at_s), default=None)


def _tokens(done: Sequence[tuple[Record, int]], n: int) -> Floats:
    """Return the output tokens of what was completed; unknown everywhere if somewhere."""
    if any(record.completion_tokens is None for record, _ in done):
        return np.full(n, np.nan)
    counts = [float(record.completion_tokens or 0) for record, _ in done]
    return np.bincount([w for _, w in done], counts, minlength=n).astype(np.float64)


def delivered_tokens(records: Iterable[Record], windows: Sequence[Window]) -> Floats:
    """Return the output tokens that arrived in each window, while load was offered; NaN where some
    answer's were not counted.

    An event of several tokens counts as its request's mean.
    """
    tokens = np.zeros(len(windows))
    of_part = _edges(windows)
    for one in records:
        if not one.content_s or one.part not in of_part:
            continue
        numbers, starts, ends = of_part[one.part]
        since_s = np.asarray(one.content_s) - (one.due_s - one.part_s)
        before = np.searchsorted(since_s, starts)
        events = np.searchsorted(since_s, ends) - before
        # A failed request has no usage, and what it delivered is of no use.
        counted = one.completion_tokens if one.ok else one.completion_tokens or 0
        each = np.nan if counted is None else counted / len(one.content_s)
        tokens[numbers] += np.where(events > 0, each, 0.0) * events
    return tokens


def _edges(windows: Sequence[Window]) -> dict[int, tuple[list[int], Floats, Floats]]:
    """Return, by part, the numbers of its windows, and when they start and end."""
    edges = {}
    for part in {window.part for window in windows}:
        numbers = [n for n, window in enumerate(windows) if window.part == part]
        starts = np.array([windows[n].start_s for n in numbers])
        edges[part] = numbers, starts, starts + [windows[n].length_s for n in numbers]
    return edges


def _latency(
    key: str,
    label: str,
    pick: Callable[[ArmWindows], WindowedSample],
    headline: tuple[str, ...] = (),
) -> list[Metric]:
    """The mean and three quantiles of a latency, in milliseconds."""
    return [
        Metric(
            key=f"{key}_{name}",
            label=f"{label} {name}",
            unit="ms",
            lower_is_better=True,
            draw=_in_ms(pick, statistic),
            headline=name in headline,
            least_answers=least,
        )
        for name, statistic, least in (("mean", estimators.mean, 0), *_quantiles())
    ]


def _quantiles() -> list[tuple[str, Callable[[WindowedSample, Floats | None], Floats], int]]:
    """Return each quantile that is told, with how many answers it needs."""
    return [
        (f"p{of}", partial(_quantile, q=of / 100), estimators.values_needed(of / 100))
        for of in (50, 90, 99)
    ]


def _quantile(of: WindowedSample, weights: Floats | None, *, q: float) -> Floats:
    return estimators.quantile(of, q, weights)


def _in_ms(
    pick: Callable[[ArmWindows], WindowedSample],
    statistic: Callable[[WindowedSample, Floats | None], Floats],
) -> Callable[[ArmWindows, Floats | None], Floats]:
    return lambda arm, weights: statistic(pick(arm), weights) * 1e3


def _throughput(
    key: str, unit: str, pick: Callable[[ArmWindows], Floats], *, headline: bool = False
) -> Metric:
    """What was completed in a second of the plateau: docs/benchmarks/definitions.md."""
    return Metric(
        key=key,
        label=key.replace("_", " "),
        unit=unit,
        lower_is_better=False,
        draw=lambda arm, weights: estimators.rate(pick(arm), arm.seconds, weights),
        headline=headline,
    )


METRICS: tuple[Metric, ...] = (
    *_latency("ttft", "TTFT", lambda arm: arm.ttft, ("p50", "p99")),
    *_latency("itl", "ITL", lambda arm: arm.itl, ("p50", "p99")),
    *_latency("e2e", "E2E", lambda arm: arm.e2e, ("p50", "p99")),
    *_latency("chunk", "inter-chunk latency", lambda arm: arm.chunk),
    *_latency("per_token", "time per token", lambda arm: arm.per_token),
    _throughput("output_throughput", "tokens/s", lambda arm: arm.tokens, headline=True),
    _throughput("request_throughput", "requests/s", lambda arm: arm.completed),
    _throughput("goodput", "requests/s", lambda arm: arm.good),
    Metric(
        key="slo_share",
        label="requests within the SLO",
        unit="%",
        lower_is_better=False,
        draw=lambda arm, weights: 100.0 * estimators.rate(arm.within_slo, arm.offered, weights),
        headline=True,
        is_share=True,
    ),
    Metric(
        key="error_rate",
        label="errors",
        unit="%",
        lower_is_better=True,
        draw=lambda arm, weights: 100.0 * estimators.rate(arm.failed, arm.offered, weights),
        headline=True,
        is_share=True,
    ),
)

HEADLINES = tuple(metric for metric in METRICS if metric.headline)
