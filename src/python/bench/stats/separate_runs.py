"""Arms that were measured in runs of their own -> differences, intervals, verdicts.  Pure.

A run shares one state of the machine, however long it is: what differs between two runs of the same
arm is seen only in several of them.  So the unit of evidence is the run, and its figures are
compared by Welch's t.  Runs of an arm that follow one another share that state in part.  Where the
arms' runs do not alternate, their spread says too little of the drift between the two groups, and
intervals are widened.
"""

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import fmean, variance

import msgspec

from bench.loadgen.run_result import RunResult
from bench.stats.comparison import ComparedMetric, Comparison, overall
from bench.stats.intervals import CONFIDENCE, Verdict, known, t_quantile, t_tail, verdict_of
from bench.stats.windowed_metrics import METRICS, ArmWindows, Metric, SloLimits, turns_of

LEAST_RUNS = 3

# Groups of runs, one after the other: in docs/benchmarks/verdict.md, what drift between them does.
_WIDER_IN_GROUPS = 2.5


class _Moments(msgspec.Struct, frozen=True):
    """Mean of several runs, the square of its standard error, and what that rests on."""

    mean: float
    error2: float
    free: int


def compare_runs(
    baseline: Sequence[RunResult],
    candidate: Sequence[RunResult],
    *,
    goal: SloLimits,
    names: tuple[str, str],
    min_effect: float = 0.0,
) -> Comparison:
    """Return how the runs of *candidate* differ from those of *baseline*, each being one arm's."""
    figures = [[_figures(run, goal) for run in runs] for runs in (baseline, candidate)]
    widening = widening_of(baseline, candidate)
    rows = tuple(
        row_of(metric, [[run[metric.key] for run in arm] for arm in figures], min_effect, widening)
        for metric in METRICS
    )
    fewer = min(len(baseline), len(candidate))
    verdict, reason = overall(rows, min_effect=min_effect)
    if fewer < LEAST_RUNS:
        verdict, reason = Verdict.NOT_SHOWN, _too_few(len(baseline), len(candidate), names)
    elif widening > 1.0:
        reason += (
            f"; the runs of the arms did not alternate: intervals are {widening:g} times as wide"
        )
    return Comparison(
        baseline=names[0],
        candidate=names[1],
        confidence=CONFIDENCE,
        turns=fewer,
        rows=rows,
        verdict=verdict,
        reason=reason,
        min_effect=min_effect,
        apart=True,
    )


def _too_few(first: int, second: int, names: tuple[str, str]) -> str:
    missing = [
        f"{LEAST_RUNS - runs} more of {name}"
        for runs, name in zip((first, second), names, strict=True)
        if runs < LEAST_RUNS
    ]
    return (
        f"arms measured apart need {LEAST_RUNS} runs each, since a run shares one state of the "
        f"machine: measure {' and '.join(missing)}, alternating the arms, and give the "
        "directories comma-separated"
    )


def widening_of(baseline: Sequence[RunResult], candidate: Sequence[RunResult]) -> float:
    """Return by how much intervals are widened: not at all where the arms' runs alternate."""
    return 1.0 if alternate(baseline, candidate) else _WIDER_IN_GROUPS


def alternate(baseline: Sequence[RunResult], candidate: Sequence[RunResult]) -> bool:
    """Whether the arms took turns at least as often as the one with fewer runs has runs, less one:
    A B A B A B, or A B B A A B, and not A A A B B B."""
    started = [(run.started, 0) for run in baseline] + [(run.started, 1) for run in candidate]
    order = [arm for _, arm in sorted(started)]
    changes = sum(before != after for before, after in pairwise(order))
    return changes >= min(len(baseline), len(candidate))


def _figures(run: RunResult, goal: SloLimits) -> dict[str, float]:
    """Return each metric of *run* as a whole; NaN where it is unknown."""
    arm = ArmWindows(run.records, turns_of(run.parts), goal)
    answered = float((arm.offered - arm.failed).sum())
    return {
        metric.key: float(metric.draw(arm, None)[0])
        if answered >= metric.least_answers
        else math.nan
        for metric in METRICS
    }


def row_of(
    metric: Metric, runs: Sequence[Sequence[float]], min_effect: float = 0.0, widening: float = 1.0
) -> ComparedMetric:
    """Return how the second arm's *runs* differ from the first's, by Welch's t."""
    first, second = (_moments(arm) for arm in runs)
    difference = second.mean - first.mean
    low = high = p = effect = None
    if math.isfinite(difference) and min(first.free, second.free) >= 1:
        error, free = _error(first, second)
        error *= widening
        reach = error * t_quantile(0.5 + CONFIDENCE / 2.0, free)
        low, high = difference - reach, difference + reach
        effect = reach + error * t_quantile(0.8, free)
        p = _p(metric, first, second, min_effect, widening)
    enough = min(first.free, second.free) >= LEAST_RUNS - 1
    return ComparedMetric(
        key=metric.key,
        label=metric.label,
        unit=metric.unit,
        lower_is_better=metric.lower_is_better,
        baseline=known(first.mean),
        candidate=known(second.mean),
        difference=known(difference),
        low=low,
        high=high,
        ratio=known(second.mean / first.mean) if first.mean else None,
        ratio_low=_over(low, first.mean),
        ratio_high=_over(high, first.mean),
        smallest_effect=effect,
        p=p if enough else None,
        verdict=verdict_of(difference, p if enough else None, metric.lower_is_better),
        headline=metric.headline,
    )


def _moments(values: Sequence[float]) -> _Moments:
    """Runs without the metric make it unknown: they may be those in which it was worst."""
    if not values or not all(math.isfinite(value) for value in values):
        return _Moments(math.nan, math.nan, 0)
    n = len(values)
    return _Moments(fmean(values), variance(values) / n if n > 1 else math.nan, n - 1)


def _error(first: _Moments, second: _Moments, weight: float = 1.0) -> tuple[float, float]:
    """Return the standard error of *second* - *weight* * *first*, and its degrees of freedom by
    Welch and Satterthwaite."""
    own = (weight**2 * first.error2, second.error2)
    total = sum(own)
    if total <= 0.0:
        return 0.0, float(first.free + second.free)
    spread = own[0] ** 2 / first.free + own[1] ** 2 / second.free
    return math.sqrt(total), total**2 / spread


def _p(
    metric: Metric, first: _Moments, second: _Moments, min_effect: float, widening: float
) -> float:
    """Two-sided: how often runs of alike arms, or of arms that differ by the least effect that
    matters, differ by so much."""
    tails = []
    for side in (1.0, -1.0):
        if metric.is_share:
            weight, floor = 1.0, side * min_effect * 100.0
        else:
            weight, floor = 1.0 + side * min_effect, 0.0
        beyond = side * (second.mean - weight * first.mean - floor)
        error, free = _error(first, second, weight)
        if beyond <= 0.0:
            tails.append(1.0)
        else:
            tails.append(t_tail(beyond / (widening * error), free) if error else 0.0)
    return min(1.0, 2.0 * min(tails))


def _over(bound: float | None, mean: float) -> float | None:
    return None if bound is None or mean <= 0.0 else 1.0 + bound / mean
