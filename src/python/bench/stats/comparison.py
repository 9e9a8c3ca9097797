"""Two arms that replayed the same schedule -> differences, intervals and verdicts.  Pure."""

import math
from collections.abc import Iterable, Iterator, Sequence

import msgspec
import numpy as np

from bench.loadgen.record import Record
from bench.stats import estimators
from bench.stats.estimators import Floats
from bench.stats.intervals import (
    CONFIDENCE,
    NEIGHBOURS,
    Verdict,
    interval_of,
    known,
    p_value,
    small_sample_widening,
    smallest_effect,
    verdict_of,
)
from bench.stats.windowed_metrics import METRICS, ArmWindows, Metric, SloLimits, Window

RESAMPLES = 2_000


class ComparedMetric(msgspec.Struct, frozen=True, kw_only=True):
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
    """All metrics of two arms, and the verdict of the whole.

    Attributes:
        incomparable: why there is no verdict on latencies; empty where the arms did the same work.
    """

    baseline: str
    candidate: str
    confidence: float
    windows: int
    resamples: int
    rows: tuple[ComparedMetric, ...]
    verdict: Verdict
    reason: str
    incomparable: str = ""

    def row(self, key: str) -> ComparedMetric:
        return next(row for row in self.rows if row.key == key)


def compare(
    baseline: Sequence[Record],
    candidate: Sequence[Record],
    windows: Sequence[Window],
    *,
    goal: SloLimits,
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


# What depends on how long prompts and answers are.
_OF_THE_WORK = ("ttft_", "itl_", "e2e_", "chunk_", "per_token_", "output_", "goodput", "slo_")


def without_latency_verdict(found: Comparison, why: str) -> Comparison:
    """Return *found* without a verdict on what arms that did different work cannot be compared in;
    *why* says how their work differs."""
    rows = tuple(
        msgspec.structs.replace(row, verdict=Verdict.NOT_SHOWN, p=None)
        if row.key.startswith(_OF_THE_WORK)
        else row
        for row in found.rows
    )
    verdict, reason = overall(rows)
    return msgspec.structs.replace(
        found,
        rows=rows,
        verdict=verdict,
        reason=f"no verdict on latency, tokens and goodput, since {why}; {reason}",
        incomparable=why,
    )


def draws(
    arms: Sequence[Sequence[Record]],
    windows: Sequence[Window],
    goal: SloLimits,
    seed: int,
    resamples: int,
) -> Iterator[tuple[Metric, list[float], list[Floats], float]]:
    """Yield each metric with its value for every arm, its resampled values for every arm, and by
    how much resampled differences are to be widened."""
    by_window = [ArmWindows(records, windows, goal) for records in arms]
    weights = estimators.resamples(len(windows), resamples, NEIGHBOURS, seed)
    widening = small_sample_widening(len(windows))
    for metric in METRICS:
        whole = [float(metric.draw(arm, None)[0]) for arm in by_window]
        yield metric, whole, [metric.draw(arm, weights) for arm in by_window], widening


def overall(rows: Iterable[ComparedMetric]) -> tuple[Verdict, str]:
    """Return one verdict for the headline metrics, and why.

    Each metric's own verdict errs in one of twenty cases; together they are held to that by
    Holm's rule: the k-th smallest p must be below 0.05 / (metrics left).
    """
    judged = sorted(
        (row for row in rows if row.headline and row.p is not None), key=lambda row: row.p or 0.0
    )
    shown: list[ComparedMetric] = []
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
        return verdict, f"{', '.join(better or worse)}; no headline metric contradicts"
    if not judged:
        return (
            Verdict.NOT_SHOWN,
            "too few data; raise --parts or --part-s",
        )
    return Verdict.NOT_SHOWN, f"none of {len(judged)} headline metrics differs significantly"


def _row(
    metric: Metric, whole: list[float], drawn: list[Floats], widening: float
) -> ComparedMetric:
    difference = whole[1] - whole[0]
    low, high = interval_of(drawn[1] - drawn[0], difference, widening)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = drawn[1] / drawn[0]
    ratio = whole[1] / whole[0] if whole[0] else math.nan
    ratio_low, ratio_high = interval_of(ratios, ratio, widening)
    return ComparedMetric(
        key=metric.key,
        label=metric.label,
        unit=metric.unit,
        lower_is_better=metric.lower_is_better,
        baseline=known(whole[0]),
        candidate=known(whole[1]),
        difference=known(difference),
        low=low,
        high=high,
        ratio=known(ratio),
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        smallest_effect=smallest_effect(drawn[1] - drawn[0], widening),
        p=p_value(drawn[1] - drawn[0], difference, widening),
        verdict=verdict_of(low, high, metric.lower_is_better),
        headline=metric.headline,
    )
