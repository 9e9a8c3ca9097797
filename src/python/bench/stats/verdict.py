"""A run of two arms, or several runs of each -> how they differ.  Pure."""

from collections.abc import Sequence

import msgspec

from bench.loadgen.record import Record
from bench.loadgen.run_result import RunResult
from bench.stats.answers import why_incomparable
from bench.stats.comparison import Comparison, compare, without_latency_verdict
from bench.stats.intervals import Verdict
from bench.stats.looks import share_of
from bench.stats.separate_runs import compare_runs
from bench.stats.validity import Validity, judge
from bench.stats.windowed_metrics import HEADLINES, SloLimits, Window, turns_of
from bench.workload.schedule import Part


class ComparedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run of two arms, and how they differ.

    Attributes:
        parts: what each arm replayed, to the end.
    """

    run: RunResult
    comparison: Comparison
    validity: Validity
    parts: tuple[Part, ...]
    goal: SloLimits


def conclude(
    run: RunResult,
    goal: SloLimits,
    *,
    min_effect: float = 0.0,
    parts: tuple[Part, ...] | None = None,
    turns: Sequence[Window] | None = None,
) -> ComparedRun:
    """Return how the two arms of *run*, which took turns, differ in its parts, or in *parts*.

    Of an interrupted run only those parts count that every arm replayed to the end.
    """
    counted = run.finished_parts if parts is None else parts
    numbers = {part.number for part in counted}
    arms = [[r for r in run.of(arm) if r.part in numbers] for arm in run.arms]
    looks = run.layout.looks if run.layout else ()
    found = compare(
        arms[0],
        arms[1],
        turns_of(counted) if turns is None else turns,
        goal=goal,
        seed=run.schedule.seed,
        names=(run.arms[0], run.arms[1]),
        min_effect=min_effect,
        share=share_of(looks),
    )
    return ComparedRun(
        run=run,
        comparison=_of_like_work(found, arms, run.arms),
        validity=judge(run.records, run.burden),
        parts=counted,
        goal=goal,
    )


def is_sure(
    records: Sequence[Record],
    arms: Sequence[str],
    parts: Sequence[Part],
    goal: SloLimits,
    *,
    looks: Sequence[int],
    min_effect: float = 0.0,
) -> bool:
    """Whether a look at *parts*, one of *looks*, shows a difference between two *arms*."""
    baseline, candidate = ([one for one in records if one.arm == arm] for arm in arms)
    found = compare(
        baseline,
        candidate,
        turns_of(parts),
        goal=goal,
        seed=0,
        min_effect=min_effect,
        share=share_of(looks),
        metrics=HEADLINES,
    )
    is_alike = not why_incomparable([baseline, candidate], arms)
    return is_alike and found.verdict is not Verdict.NOT_SHOWN


def conclude_apart(
    baseline: Sequence[RunResult],
    candidate: Sequence[RunResult],
    both: RunResult,
    goal: SloLimits,
    *,
    min_effect: float = 0.0,
) -> ComparedRun:
    """Return how arms differ that were measured in runs of their own; *both* is all of them as
    one run."""
    names = (both.arms[0], both.arms[1])
    found = compare_runs(baseline, candidate, goal=goal, names=names, min_effect=min_effect)
    validity = judge(both.records, both.burden)
    reasons = {
        reason: None
        for run in (*baseline, *candidate)
        for reason in judge(run.records, run.burden).reasons
    }
    arms = [both.of(arm) for arm in names]
    return ComparedRun(
        run=both,
        comparison=_of_like_work(found, arms, names),
        validity=msgspec.structs.replace(validity, reasons=tuple(reasons)),
        parts=both.parts,
        goal=goal,
    )


def _of_like_work(
    found: Comparison, arms: Sequence[Sequence[Record]], names: Sequence[str]
) -> Comparison:
    why = why_incomparable(arms, names)
    return without_latency_verdict(found, why) if why else found
