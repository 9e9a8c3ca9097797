"""Two arms that replayed the same schedule in turns -> differences, intervals, verdicts.  Pure."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from bench.loadgen.record import Record
from bench.stats.estimators import Floats
from bench.stats.intervals import CONFIDENCE, Verdict, known, verdict_of
from bench.stats.turn_tests import (
    smallest_effect,
    subset_interval,
    subset_p,
    subsets,
    swap_p,
    swaps,
    turns_needed,
)
from bench.stats.windowed_metrics import METRICS, ArmWindows, Metric, SloLimits, Window, joined

JudgedT = TypeVar("JudgedT")


class ComparedMetric(msgspec.Struct, frozen=True, kw_only=True):
    """One metric of both arms.

    Attributes:
        low, high: the confidence interval of *difference*, candidate minus baseline.
        ratio: candidate over baseline, with its own interval.
        smallest_effect: the difference that this run would have shown in four cases of five.
        p: two-sided, of no difference, or of none that matters (`--min-effect`).
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

    @property
    def varies(self) -> bool:
        """Whether it differed anywhere: what is the same in all turns, such as no errors, can show
        nothing, and takes no part of the 5 %."""
        return (self.difference, self.low, self.high) != (0.0, 0.0, 0.0)


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """All metrics of two arms, and the verdict of the whole.

    Attributes:
        turns: of each arm; of arms measured apart, the runs of the one that has fewer.
        share: share of the 5 % that this look at the run may use.
        incomparable: why there is no verdict on latencies; empty where the arms did the same work.
        apart: the arms were measured in runs of their own.
    """

    baseline: str
    candidate: str
    confidence: float
    turns: int
    rows: tuple[ComparedMetric, ...]
    verdict: Verdict
    reason: str
    min_effect: float = 0.0
    share: float = 1.0
    incomparable: str = ""
    apart: bool = False

    def row(self, key: str) -> ComparedMetric:
        return next(row for row in self.rows if row.key == key)


def compare(
    baseline: Sequence[Record],
    candidate: Sequence[Record],
    turns: Sequence[Window],
    *,
    goal: SloLimits,
    seed: int,
    names: tuple[str, str] = ("baseline", "managed"),
    min_effect: float = 0.0,
    share: float = 1.0,
    metrics: Sequence[Metric] = METRICS,
) -> Comparison:
    """Return how *candidate* differs from *baseline*, both having replayed *turns*."""
    rows = tuple(
        _row(one, min_effect, share)
        for one in contrasts((baseline, candidate), turns, _DIFFERENCE, goal, seed, metrics)
    )
    verdict, reason = overall(rows, turns=len(turns), share=share, min_effect=min_effect)
    return Comparison(
        baseline=names[0],
        candidate=names[1],
        confidence=CONFIDENCE,
        turns=len(turns),
        rows=rows,
        verdict=verdict,
        reason=reason,
        min_effect=min_effect,
        share=share,
    )


# What depends on how long prompts and answers are.
_OF_THE_WORK = ("ttft_", "itl_", "e2e_", "chunk_", "per_token_", "output_", "goodput", "slo_")

INCOMPARABLE = "no verdict on latency, tokens and goodput, since"


def is_of_the_work(key: str) -> bool:
    """Whether metric *key* is another one where the work is another."""
    return key.startswith(_OF_THE_WORK)


def without_latency_verdict(found: Comparison, why: str) -> Comparison:
    """Return *found* without a verdict on what arms that did different work cannot be compared in;
    *why* says how their work differs."""
    rows = tuple(
        msgspec.structs.replace(row, verdict=Verdict.NOT_SHOWN, p=None)
        if is_of_the_work(row.key)
        else row
        for row in found.rows
    )
    verdict, reason = overall(
        rows,
        turns=None if found.apart else found.turns,
        share=found.share,
        min_effect=found.min_effect,
    )
    return msgspec.structs.replace(
        found,
        rows=rows,
        verdict=verdict,
        reason=f"{INCOMPARABLE} {why}; {reason}",
        incomparable=why,
    )


# By how much each of two arms counts in their difference.
_DIFFERENCE: Mapping[str, tuple[float, ...]] = {"difference": (-1.0, 1.0)}


class Contrasted(msgspec.Struct, frozen=True):
    """What is compared of several arms, of one metric.

    Attributes:
        signs: by how much each arm counts.
        whole: the metric of each arm, over all that it did.
        turns: the same of each turn that has it for all arms; shape (arms, turns).
        sets: the same over each of the sets of `subsets`; shape (arms, sets).
        seed: draws the ways to swap, where there are too many.
    """

    metric: Metric
    name: str
    signs: tuple[float, ...]
    whole: Floats
    turns: Floats
    sets: Floats
    seed: int

    @property
    def n_turns(self) -> int:
        return int(self.turns.shape[1])

    @property
    def estimate(self) -> float:
        return float(np.dot(self.signs, self.whole))

    @property
    def of_sets(self) -> Floats:
        found: Floats = np.asarray(self.signs) @ self.sets
        return found

    def p(self, share: float, min_effect: float = 0.0) -> float | None:
        """Return the larger p of swapped turns and of sets of turns, valid at a look with *share*
        of the 5 %."""
        if not self.n_turns:
            return None
        ways = 1.0 - 2.0 * swaps(self.n_turns, self.seed)
        swapped = swap_p(ways @ (np.asarray(self.signs) @ self.turns))
        return min(1.0, max(swapped, subset_p(*self._beyond(min_effect))) / share)

    def _beyond(self, min_effect: float) -> tuple[Floats, Floats]:
        """By how much each set's contrast is above, or below, the least effect that matters: a
        share of the baseline, and of what is a share itself that many points."""
        floor = np.full(len(self.of_sets), 100.0) if self.metric.is_share else self.sets[0]
        return self.of_sets - min_effect * floor, self.of_sets + min_effect * floor

    def interval(self, share: float) -> tuple[float, float] | None:
        alpha = (1.0 - CONFIDENCE) * share
        return subset_interval(self.of_sets, alpha) if self.n_turns else None


def contrasts(
    arms: Sequence[Sequence[Record]],
    turns: Sequence[Window],
    wanted: Mapping[str, tuple[float, ...]],
    goal: SloLimits,
    seed: int,
    metrics: Sequence[Metric] = METRICS,
    units: Sequence[int] | None = None,
) -> Iterator[Contrasted]:
    """Yield each of *wanted*, signs by name, for each metric, *arms* having replayed *turns* one
    after another.

    *units* says for each turn which unit of evidence it is part of; without it, each is one.
    """
    all_arms = joined([ArmWindows(records, turns, goal) for records in arms])
    answered = (all_arms.offered - all_arms.failed).reshape(len(arms), -1).sum(axis=1)
    of_unit = _of_unit(range(len(turns)) if units is None else units)
    shape = len(arms), len(of_unit)
    each_arm = np.eye(len(arms))
    for metric in metrics:
        whole = metric.draw(all_arms, _spread(each_arm, np.ones(len(turns))))
        whole[answered < metric.least_answers] = np.nan
        each = metric.draw(all_arms, _spread(each_arm, of_unit)).reshape(shape)
        used = _used(each, whole)
        sets = _of_sets(metric, all_arms, of_unit[used], each_arm, seed)
        for name, signs in wanted.items():
            yield Contrasted(metric, name, signs, whole, each[:, used], sets, seed)


def _used(each: Floats, whole: Floats) -> NDArray[np.intp]:
    """Return the turns in which every arm has a value; none where those that are left are too few
    to show anything, which would take a part of the 5 % for nothing."""
    found = np.flatnonzero(np.isfinite(each).all(axis=0) & np.isfinite(whole).all())
    is_lacking = len(found) < min(each.shape[1], turns_needed(1))
    return found[:0] if is_lacking else found


def _spread(arms: Floats, turns: Floats) -> Floats:
    """Return weights for the turns of all arms: *turns* for each arm, as often as *arms* says."""
    found: Floats = np.kron(arms, turns).astype(np.float64)
    return found


def _of_unit(units: Sequence[int]) -> Floats:
    """Return which turns are part of each unit; shape (units, turns)."""
    found: Floats = (np.unique(np.asarray(units))[:, None] == np.asarray(units)).astype(np.float64)
    return found


def _of_sets(
    metric: Metric, arms: ArmWindows, of_unit: Floats, each_arm: Floats, seed: int
) -> Floats:
    """Return *metric* of each arm over each set of units; shape (arms, sets)."""
    if not len(of_unit):
        return np.zeros((len(each_arm), 0))
    chosen = subsets(len(of_unit), seed) @ of_unit
    return np.stack([metric.draw(arms, _spread(arm, chosen)) for arm in each_arm])


def overall(
    rows: Iterable[ComparedMetric],
    *,
    turns: int | None = None,
    share: float = 1.0,
    min_effect: float = 0.0,
) -> tuple[Verdict, str]:
    """Return one verdict for the headline metrics, and why.

    Without *turns*, any number of them can carry one.
    """
    judged = [row for row in rows if row.headline and row.p is not None and row.varies]
    shown = holm([(row, row.p or 0.0) for row in judged])
    better = [row.label for row in shown if row.verdict is Verdict.BETTER]
    worse = [row.label for row in shown if row.verdict is Verdict.WORSE]
    if better and worse:
        return Verdict.MIXED, f"better: {', '.join(better)}; worse: {', '.join(worse)}"
    if better or worse:
        verdict = Verdict.BETTER if better else Verdict.WORSE
        return verdict, f"{', '.join(better or worse)}; no headline metric contradicts"
    if turns is not None and (said := too_few_turns(turns, len(judged), share)):
        return Verdict.NOT_SHOWN, said
    size = f" by more than {min_effect:.3g}" if min_effect else ""
    return (
        Verdict.NOT_SHOWN,
        f"none of {len(judged)} headline metrics differs significantly{size}",
    )


def too_few_turns(
    turns: int, metrics: int, share: float = 1.0, *, unit: str = "turns per arm"
) -> str:
    """Return how many turns are missing for a verdict on *metrics*; empty where they suffice."""
    needed = turns_needed(metrics, (1.0 - CONFIDENCE) * share)
    if turns >= needed:
        return ""
    many = f"{metrics} headline metrics" if metrics > 1 else "one headline metric"
    return (
        f"{turns} {unit} cannot carry a verdict on {many}, {needed} can; missing: "
        f"{needed - turns} (--parts {needed})"
    )


def holm(judged: Sequence[tuple[JudgedT, float]]) -> list[JudgedT]:
    """Return those of *judged*, each with its p, that are shown.

    Each one's own p errs in one of twenty cases; together they are held to that by Holm's rule:
    the k-th smallest must be at most 0.05 / (those left).
    """
    shown: list[JudgedT] = []
    for place, (one, p) in enumerate(sorted(judged, key=_second)):
        if p > (1.0 - CONFIDENCE) / (len(judged) - place):
            break
        shown.append(one)
    return shown


def _second(pair: tuple[object, float]) -> float:
    return pair[1]


def _row(one: Contrasted, min_effect: float, share: float) -> ComparedMetric:
    metric, first, second = one.metric, float(one.whole[0]), float(one.whole[1])
    low, high = one.interval(share) or (None, None)
    ratio_low, ratio_high = _ratios(one, share) or (None, None)
    p = one.p(share, min_effect) if math.isfinite(one.estimate) else None
    return ComparedMetric(
        key=metric.key,
        label=metric.label,
        unit=metric.unit,
        lower_is_better=metric.lower_is_better,
        baseline=known(first),
        candidate=known(second),
        difference=known(one.estimate),
        low=low,
        high=high,
        ratio=known(second / first) if first else None,
        ratio_low=ratio_low,
        ratio_high=ratio_high,
        smallest_effect=None if low is None else smallest_effect(one.of_sets, one.n_turns),
        p=p,
        verdict=verdict_of(one.estimate, p, metric.lower_is_better),
        headline=metric.headline,
    )


def _ratios(one: Contrasted, share: float) -> tuple[float, float] | None:
    """Return the interval of the ratio; None where some set of turns has a baseline of nothing."""
    first, second = one.sets
    if not one.n_turns or not (first > 0.0).all():
        return None
    return subset_interval(second / first, (1.0 - CONFIDENCE) * share)
