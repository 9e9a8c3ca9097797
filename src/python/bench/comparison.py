"""Two arms that replayed the same schedule -> differences, intervals and verdicts.  Pure."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from enum import StrEnum
from functools import partial
from statistics import NormalDist

import msgspec
import numpy as np

from bench import estimates
from bench.estimates import Floats, Sample
from bench.record import Record
from bench.schedule import Part

CONFIDENCE = 0.95
RESAMPLES = 2_000

# Windows this long hold tens of requests, and there are enough of them to resample.
WINDOW_S = 3.0

# Neighbouring windows share queues and caches: they are drawn in pairs.
_NEIGHBOURS = 2


class Verdict(StrEnum):
    """What the evidence says of the candidate, against the baseline."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "not shown"
    MIXED = "mixed"


class Goal(msgspec.Struct, frozen=True, kw_only=True):
    """What a request must keep to count as good.  None asks for nothing."""

    ttft_ms: float | None = 1_000.0
    itl_ms: float | None = 50.0
    e2e_ms: float | None = None

    def met_by(self, record: Record) -> bool:
        limits = (
            (record.ttft_s, self.ttft_ms),
            (record.itl_s, self.itl_ms),
            (record.e2e_s, self.e2e_ms),
        )
        # A request of one token has no ITL that could be too long.
        return record.ok and all(
            limit is None or value is None or value * 1e3 <= limit for value, limit in limits
        )


DEFAULT_GOAL = Goal()


class Window(msgspec.Struct, frozen=True):
    """A stretch of a part: what is resampled.  Both arms have the same ones."""

    part: int
    start_s: float
    length_s: float


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of both arms.

    Attributes:
        low, high: the confidence interval of *difference*, candidate minus baseline.
        ratio: candidate over baseline, with its own interval.
        smallest_effect: the difference that this run would have shown in four cases of five.
        p: two-sided, from the resamples; never below one over the resamples.
        headline: whether it takes part in the verdict of the whole.
    """

    key: str
    label: str
    unit: str
    lower_is_better: bool
    baseline: float | None
    candidate: float | None
    difference: float | None
    low: float | None
    high: float | None
    ratio: float | None
    ratio_low: float | None
    ratio_high: float | None
    smallest_effect: float | None
    p: float | None
    verdict: Verdict
    headline: bool = False


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """All metrics of two arms, and the verdict of the whole."""

    baseline: str
    candidate: str
    confidence: float
    windows: int
    resamples: int
    rows: tuple[Row, ...]
    verdict: Verdict
    reason: str

    def row(self, key: str) -> Row:
        return next(row for row in self.rows if row.key == key)


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """A number of an arm, and how to draw it from resampled windows."""

    key: str
    label: str
    unit: str
    lower_is_better: bool
    draw: Callable[["_Arm", Floats | None], Floats]
    headline: bool = False


class _Arm:
    """One arm's records, by window."""

    def __init__(self, records: Sequence[Record], windows: Sequence[Window], goal: Goal) -> None:
        index = [_window_of(record, windows) for record in records]
        pairs = [(r, w) for r, w in zip(records, index, strict=True) if w is not None]
        good = [(r, w) for r, w in pairs if r.ok]
        n = len(windows)
        self.ttft = _sample(good, n, lambda record: record.ttft_s)
        self.e2e = _sample(good, n, lambda record: record.e2e_s)
        self.itl = _gaps(good, n)
        self.per_token = _sample(good, n, lambda record: record.itl_s)
        self.offered = _count(pairs, n)
        self.failed = _count([(r, w) for r, w in pairs if not r.ok], n)
        self.good = _count([(r, w) for r, w in pairs if goal.met_by(r)], n)
        self.tokens = delivered_tokens(records, windows)
        self.ended = _ended(records, windows)
        self.seconds = np.array([window.length_s for window in windows])


def compare(
    baseline: Sequence[Record],
    candidate: Sequence[Record],
    windows: Sequence[Window],
    *,
    goal: Goal,
    seed: int,
    names: tuple[str, str] = ("baseline", "managed"),
    resamples: int = RESAMPLES,
) -> Comparison:
    """Return how *candidate* differs from *baseline*, both having replayed *windows*.

    The same resamples of windows are drawn for both arms: what made a window heavy made it heavy
    for both, and cancels in the difference.
    """
    rows = tuple(
        _row(metric, whole, drawn, widening)
        for metric, whole, drawn, widening in draws(
            (baseline, candidate), windows, goal, seed, resamples
        )
    )
    verdict, reason = overall(rows)
    return Comparison(
        baseline=names[0],
        candidate=names[1],
        confidence=CONFIDENCE,
        windows=len(windows),
        resamples=resamples,
        rows=rows,
        verdict=verdict,
        reason=reason,
    )


def draws(
    arms: Sequence[Sequence[Record]],
    windows: Sequence[Window],
    goal: Goal,
    seed: int,
    resamples: int,
) -> Iterator[tuple[Metric, list[float], list[Floats], float]]:
    """Yield each metric with its value for every arm, its resampled values for every arm, and by
    how much resampled differences are to be widened."""
    by_window = [_Arm(records, windows, goal) for records in arms]
    weights = estimates.resamples(len(windows), resamples, _NEIGHBOURS, seed)
    widening = _small_sample_widening(len(windows))
    for metric in METRICS:
        whole = [float(metric.draw(arm, None)[0]) for arm in by_window]
        yield metric, whole, [metric.draw(arm, weights) for arm in by_window], widening


def windows_of(parts: Sequence[Part], window_s: float = WINDOW_S) -> tuple[Window, ...]:
    """Return the windows of *parts*: in each, equal ones of about *window_s*."""
    windows = []
    for part in parts:
        n = max(1, round(part.length_s / window_s))
        length_s = part.length_s / n
        windows += [Window(part.number, i * length_s, length_s) for i in range(n)]
    return tuple(windows)


def overall(rows: Iterable[Row]) -> tuple[Verdict, str]:
    """Return one verdict for the headline metrics, and why.

    Each metric's own verdict errs in one of twenty cases; together they are held to that by
    Holm's rule: the k-th smallest p must be below 0.05 / (metrics left).
    """
    judged = sorted(
        (row for row in rows if row.headline and row.p is not None), key=lambda row: row.p or 0.0
    )
    shown: list[Row] = []
    for place, row in enumerate(judged):
        if (row.p or 0.0) >= (1.0 - CONFIDENCE) / (len(judged) - place):
            break
        shown.append(row)
    better = [row.label for row in shown if row.verdict is Verdict.BETTER]
    worse = [row.label for row in shown if row.verdict is Verdict.WORSE]
    if better and worse:
        return Verdict.MIXED, f"better: {', '.join(better)}; worse: {', '.join(worse)}"
    if better or worse:
        verdict = Verdict.BETTER if better else Verdict.WORSE
        return verdict, f"{', '.join(better or worse)}; no headline metric says otherwise"
    return Verdict.NOT_SHOWN, f"none of {len(judged)} headline metrics differs beyond chance"


def _row(metric: Metric, whole: list[float], drawn: list[Floats], widening: float) -> Row:
    difference = whole[1] - whole[0]
    low, high = interval_of(drawn[1] - drawn[0], difference, widening)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = drawn[1] / drawn[0]
    ratio = whole[1] / whole[0] if whole[0] else math.nan
    ratio_low, ratio_high = interval_of(ratios, ratio, widening)
    return Row(
        key=metric.key,
        label=metric.label,
        unit=metric.unit,
        lower_is_better=metric.lower_is_better,
        baseline=_known(whole[0]),
        candidate=_known(whole[1]),
        difference=_known(difference),
        low=low,
        high=high,
        ratio=_known(ratio),
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        smallest_effect=_smallest_effect(drawn[1] - drawn[0], widening),
        p=_p(drawn[1] - drawn[0], difference, widening),
        verdict=verdict_of(low, high, metric.lower_is_better),
        headline=metric.headline,
    )


def interval_of(drawn: Floats, centre: float, widening: float) -> tuple[float | None, float | None]:
    spread = _widened(drawn, centre, widening)
    if not len(spread):
        return None, None
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(spread, [tail, 1.0 - tail])
    return float(low), float(high)


def _p(drawn: Floats, centre: float, widening: float) -> float | None:
    spread = _widened(drawn, centre, widening)
    if not len(spread):
        return None
    share = min(float(np.mean(spread <= 0)), float(np.mean(spread >= 0)))
    return min(1.0, max(2.0 * share, 1.0 / len(spread)))


def _widened(drawn: Floats, centre: float, widening: float) -> Floats:
    """Return the finite draws, stretched around the estimate; none where it is unknown."""
    finite: Floats = drawn[np.isfinite(drawn)]
    known = math.isfinite(centre) and math.isfinite(widening)
    if not known or len(finite) < len(drawn) / 2:
        return np.zeros(0)
    return centre + (finite - centre) * widening


def _smallest_effect(drawn: Floats, widening: float) -> float | None:
    finite = drawn[np.isfinite(drawn)]
    if not math.isfinite(widening) or len(finite) < len(drawn) / 2:
        return None
    # Found in 80 % of runs at a two-sided 5 %: 1.96 + 0.84 standard errors.
    normal = NormalDist()
    reach = normal.inv_cdf(0.5 + CONFIDENCE / 2.0) + normal.inv_cdf(0.8)
    return float(np.std(finite)) * widening * reach


def _small_sample_widening(n_windows: int) -> float:
    """A bootstrap of few windows is too sure of itself; Student's t says by how much.

    The quantile is Cornish and Fisher's expansion of t's, good to 1 % from 5 degrees of freedom
    on; sqrt(n / (n - 1)) is the bias of the resampled variance.
    """
    if n_windows < 4:
        # Too few to say anything: every interval would be a guess.
        return math.inf
    free = max(2, n_windows // _NEIGHBOURS - 1)
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2.0)
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return t / z * math.sqrt((free + 1) / free)


def verdict_of(low: float | None, high: float | None, lower_is_better: bool) -> Verdict:
    """Return what an interval of a difference says; one that holds zero says nothing."""
    if low is None or high is None or low <= 0.0 <= high:
        return Verdict.NOT_SHOWN
    return Verdict.BETTER if (high < 0.0) == lower_is_better else Verdict.WORSE


def _known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _window_of(record: Record, windows: Sequence[Window]) -> int | None:
    for number, window in enumerate(windows):
        ahead_s = record.part_s - window.start_s
        if record.part == window.part and 0.0 <= ahead_s < window.length_s:
            return number
    return None


def _sample(
    pairs: Sequence[tuple[Record, int]], n: int, value: Callable[[Record], float | None]
) -> Sample:
    known = [(v, w) for r, w in pairs if (v := value(r)) is not None]
    return estimates.sample([v for v, _ in known], [w for _, w in known], n)


def _gaps(pairs: Sequence[tuple[Record, int]], n: int) -> Sample:
    """Gaps between events, where each event is a token; elsewhere a gap is none of a token's."""
    known = [(r, w) for r, w in pairs if r.event_is_token]
    return estimates.binned([r.gaps_s for r, _ in known], [w for _, w in known], n)


def _count(pairs: Sequence[tuple[Record, int]], n: int) -> Floats:
    return np.bincount([w for _, w in pairs], minlength=n).astype(np.float64)


def delivered_tokens(records: Iterable[Record], windows: Sequence[Window]) -> Floats:
    """Return the output tokens that arrived in each window, while load was offered.

    An event of several tokens counts as its request's mean.
    """
    tokens = np.zeros(len(windows))
    for one in records:
        if one.completion_tokens is None or not one.content_s:
            continue
        edges = [(n, w) for n, w in enumerate(windows) if w.part == one.part]
        since_s = np.asarray(one.content_s) - (one.due_s - one.part_s)
        each = one.completion_tokens / len(one.content_s)
        for number, window in edges:
            inside = (since_s >= window.start_s) & (since_s < window.start_s + window.length_s)
            tokens[number] += each * np.count_nonzero(inside)
    return tokens


def _ended(records: Iterable[Record], windows: Sequence[Window]) -> Floats:
    ended = np.zeros(len(windows))
    for one in records:
        since_s = one.end_s - (one.due_s - one.part_s)
        for number, window in enumerate(windows):
            if (
                one.ok
                and one.part == window.part
                and 0 <= since_s - window.start_s < window.length_s
            ):
                ended[number] += 1
    return ended


def _latency(
    key: str, label: str, pick: Callable[[_Arm], Sample], headline: tuple[str, ...] = ()
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
        )
        for name, statistic in (
            ("mean", estimates.mean),
            ("p50", partial(_quantile, q=0.50)),
            ("p90", partial(_quantile, q=0.90)),
            ("p99", partial(_quantile, q=0.99)),
        )
    ]


def _quantile(of: Sample, weights: Floats | None, *, q: float) -> Floats:
    return estimates.quantile(of, q, weights)


def _in_ms(
    pick: Callable[[_Arm], Sample], statistic: Callable[[Sample, Floats | None], Floats]
) -> Callable[[_Arm, Floats | None], Floats]:
    return lambda arm, weights: statistic(pick(arm), weights) * 1e3


METRICS: tuple[Metric, ...] = (
    *_latency("ttft", "TTFT", lambda arm: arm.ttft, ("p50", "p99")),
    *_latency("itl", "ITL", lambda arm: arm.itl, ("p50", "p99")),
    *_latency("e2e", "E2E", lambda arm: arm.e2e, ("p50", "p99")),
    *_latency("per_token", "time per token", lambda arm: arm.per_token),
    Metric(
        key="output_throughput",
        label="output throughput",
        unit="tokens/s",
        lower_is_better=False,
        draw=lambda arm, weights: estimates.rate(arm.tokens, arm.seconds, weights),
        headline=True,
    ),
    Metric(
        key="request_throughput",
        label="request throughput",
        unit="requests/s",
        lower_is_better=False,
        draw=lambda arm, weights: estimates.rate(arm.ended, arm.seconds, weights),
    ),
    Metric(
        key="goodput",
        label="goodput",
        unit="requests/s",
        lower_is_better=False,
        draw=lambda arm, weights: estimates.rate(arm.good, arm.seconds, weights),
        headline=True,
    ),
    Metric(
        key="error_rate",
        label="errors",
        unit="%",
        lower_is_better=True,
        draw=lambda arm, weights: 100.0 * estimates.rate(arm.failed, arm.offered, weights),
        headline=True,
    ),
)
