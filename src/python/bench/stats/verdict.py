"""A run of two arms -> how they differ.  Pure."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from bench.loadgen.run_result import RunResult
from bench.stats.answers import why_incomparable
from bench.stats.comparison import Comparison, compare, without_latency_verdict
from bench.stats.validity import Validity, judge
from bench.stats.windowed_metrics import WINDOW_S, SloLimits, windows_of
from bench.workload.schedule import Part


class ComparedRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run of two arms, and how they differ.

    Attributes:
        parts: what each arm replayed.
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
    parts: tuple[Part, ...] | None = None,
    window_s: float = WINDOW_S,
) -> ComparedRun:
    """Return how the two arms of *run* differ in its parts, or in *parts*.

    Of an interrupted run only those parts count that every arm replayed to the end.
    """
    replayed = run.parts if parts is None else parts
    counted = _finished(run, replayed) if parts is None else replayed
    numbers = {part.number for part in counted}
    baseline, candidate = ([r for r in run.of(arm) if r.part in numbers] for arm in run.arms)
    found = compare(
        baseline,
        candidate,
        windows_of(counted, window_s),
        goal=goal,
        seed=run.schedule.seed,
        names=(run.arms[0], run.arms[1]),
    )
    why = why_incomparable([baseline, candidate], run.arms)
    return ComparedRun(
        run=run,
        comparison=without_latency_verdict(found, why) if why else found,
        validity=judge(run.records, run.burden),
        parts=replayed,
        goal=goal,
    )


def _finished(run: RunResult, parts: Sequence[Part]) -> list[Part]:
    """Return the parts that every arm replayed to the end."""
    done = {arm: Counter(r.part for r in run.of(arm)) for arm in run.arms}
    return [p for p in parts if all(done[arm][p.number] == len(p.calls) for arm in run.arms)]
