"""What was measured -> what it says of two arms.  Pure."""

from collections import Counter
from collections.abc import Sequence

import msgspec

from bench.loadgen.session import LoadResult
from bench.stats.answers import why_incomparable
from bench.stats.comparison import Comparison, compare, without_latency_verdict
from bench.stats.validity import Validity, judge
from bench.stats.windowed_metrics import SloLimits, windows_of
from bench.workload.schedule import Part, Schedule


class Judged(msgspec.Struct, frozen=True, kw_only=True):
    """Two arms compared.

    Attributes:
        apart: they were measured in runs of their own, not in turns.
    """

    comparison: Comparison
    validity: Validity
    measured: LoadResult
    parts: tuple[Part, ...]
    schedule: Schedule
    goal: SloLimits
    apart: bool = False


def conclude(
    arms: Sequence[str],
    measured: LoadResult,
    parts: Sequence[Part],
    schedule: Schedule,
    goal: SloLimits,
    *,
    apart: bool = False,
) -> Judged:
    """Return what *measured* says of the two *arms*, baseline first."""
    baseline, candidate = arms
    kept = _through(arms, measured, parts)
    numbers = {part.number for part in kept}
    records = [record for record in measured.records if record.part in numbers]
    sides = [[r for r in records if r.arm == name] for name in arms]
    found = compare(
        sides[0],
        sides[1],
        windows_of(kept),
        goal=goal,
        seed=schedule.seed,
        names=(baseline, candidate),
    )
    why = why_incomparable(sides, arms)
    return Judged(
        comparison=without_latency_verdict(found, why) if why else found,
        validity=judge(measured.records, measured.burden),
        measured=measured,
        parts=tuple(parts),
        schedule=schedule,
        goal=goal,
        apart=apart,
    )


def _through(arms: Sequence[str], measured: LoadResult, parts: Sequence[Part]) -> list[Part]:
    """Return the parts that every arm has been through to the end: of an interrupted run only
    these count."""
    done = {name: Counter(r.part for r in measured.of(name)) for name in arms}
    return [p for p in parts if all(done[name][p.number] == len(p.calls) for name in arms)]
