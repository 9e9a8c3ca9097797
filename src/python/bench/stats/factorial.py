"""Two engines times two load balancers: what each contributes, and what only both do.  Pure.

The seeds change both at once and cannot say which of them helped.  With all four cells measured on
one schedule, the effect of the engine is its mean difference over both load balancers, and the
other way round; the interaction is by how much the engine's effect depends on the load balancer.
"""

from collections.abc import Iterable, Mapping, Sequence

import msgspec

from bench.loadgen.run_result import RunResult
from bench.stats.answers import why_incomparable
from bench.stats.comparison import (
    INCOMPARABLE,
    Contrasted,
    contrasts,
    holm,
    is_of_the_work,
    too_few_turns,
)
from bench.stats.intervals import Verdict, known, verdict_of
from bench.stats.validity import Validity, judge
from bench.stats.windowed_metrics import SloLimits, turns_of
from bench.workload.schedule import Part

# Which cell is which: engine, then load balancer; 0 is the baseline's.
CELLS = ("00", "01", "10", "11")

# By how much each cell counts in an effect.
EFFECTS: Mapping[str, tuple[float, ...]] = {
    "engine": (-0.5, -0.5, 0.5, 0.5),
    "load balancer": (-0.5, 0.5, -0.5, 0.5),
    "interaction": (1.0, -1.0, -1.0, 1.0),
    "both": (-1.0, 0.0, 0.0, 1.0),
}

# What the sentence is about; "both" is the sum of these.
_JUDGED = ("engine", "load balancer", "interaction")


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """One effect on one metric, in the metric's unit, with its 95 % interval.

    Attributes:
        p, headline: as in ComparedMetric.
        shown: it is one of those that Holm's rule lets stand, all headline metrics and effects
            taken together.
    """

    metric: str
    label: str
    unit: str
    effect: str
    estimate: float | None
    low: float | None
    high: float | None
    p: float | None
    verdict: Verdict
    headline: bool
    shown: bool = False


class CellValues(msgspec.Struct, frozen=True, kw_only=True):
    """One metric in every cell, in the metric's unit and in the order of CELLS."""

    metric: str
    label: str
    unit: str
    values: tuple[float | None, ...]


class GridRun(msgspec.Struct, frozen=True, kw_only=True):
    """A run of a 2x2 design; the arms of the run are CELLS.

    Attributes:
        targets: what was measured in each cell, in the order of CELLS.
        values: every metric of every cell.
        turns: of each cell; of cells measured apart, starts.
        sentence: what the headline metrics say, taken together.
    """

    run: RunResult
    targets: Sequence[str]
    values: Sequence[CellValues]
    effects: Sequence[Effect]
    validity: Validity
    goal: SloLimits
    turns: int
    sentence: str


def grid_run(
    run: RunResult,
    targets: Sequence[str],
    goal: SloLimits,
    starts: Sequence[Sequence[Part]] | None = None,
) -> GridRun:
    """Return the effects that *run*, whose arms are CELLS, shows.

    *starts* are the parts of several runs in one.  Cells that took turns are compared by turns, of
    which those count that every cell replayed to the end; cells measured apart share nothing but
    their start, and are compared by starts.
    """
    units = _units(run, starts)
    turns = turns_of([part for part, _ in units])
    cells = [run.of(cell) for cell in CELLS]
    all_of_them = list(
        contrasts(cells, turns, EFFECTS, goal, run.schedule.seed, units=[unit for _, unit in units])
    )
    why = why_incomparable(cells, [f"{c} ({t})" for c, t in zip(CELLS, targets, strict=True)])
    found = judged_together(
        _without_verdict(one) if why and is_of_the_work(one.metric) else one
        for one in map(effect_of, all_of_them)
    )
    n_units = len({unit for _, unit in units})
    said = sentence(found, n_units, interleaved=run.interleaved)
    return GridRun(
        run=run,
        targets=targets,
        values=[_values(one) for one in all_of_them if one.name == _JUDGED[0]],
        effects=found,
        validity=judge(run.records, run.burden),
        goal=goal,
        turns=n_units,
        sentence=f"{INCOMPARABLE} {why}; {said}" if why else said,
    )


def _units(run: RunResult, starts: Sequence[Sequence[Part]] | None) -> list[tuple[Part, int]]:
    """Return the parts that count, each with the unit of evidence that it belongs to."""
    if starts is None:
        return [(part, number) for number, part in enumerate(run.finished_parts)]
    of_starts = [(part, start) for start, parts in enumerate(starts) for part in parts]
    if not run.interleaved:
        return of_starts
    return [(part, number) for number, (part, _) in enumerate(of_starts)]


def _values(one: Contrasted) -> CellValues:
    metric = one.metric
    values = tuple(known(float(value)) for value in one.whole)
    return CellValues(metric=metric.key, label=metric.label, unit=metric.unit, values=values)


def effect_of(one: Contrasted) -> Effect:
    """Return the effect that *one* is of a metric, judged by itself."""
    metric, estimate = one.metric, known(one.estimate)
    low, high = one.interval(1.0) or (None, None)
    p = None if estimate is None else one.p(1.0)
    return Effect(
        metric=metric.key,
        label=metric.label,
        unit=metric.unit,
        effect=one.name,
        estimate=estimate,
        low=low,
        high=high,
        p=p,
        verdict=verdict_of(one.estimate, p, metric.lower_is_better),
        headline=metric.headline,
    )


def _without_verdict(one: Effect) -> Effect:
    return msgspec.structs.replace(one, p=None, verdict=Verdict.NOT_SHOWN)


def judged_together(found: Iterable[Effect]) -> list[Effect]:
    """Return *found*, those marked that Holm's rule lets stand."""
    all_of_them = list(found)
    shown = {id(one) for one in holm([(one, one.p or 0.0) for one in _family(all_of_them)])}
    return [
        msgspec.structs.replace(one, shown=True) if id(one) in shown else one for one in all_of_them
    ]


def _family(found: Iterable[Effect]) -> list[Effect]:
    return [
        one
        for one in found
        if one.headline
        and one.effect in _JUDGED
        and one.p is not None
        and (one.estimate, one.low, one.high) != (0.0, 0.0, 0.0)
    ]


def sentence(found: Sequence[Effect], turns: int, *, interleaved: bool = True) -> str:
    """Return what each factor does, in one sentence; *found* have been judged together."""
    family = _family(found)
    said = "; ".join(
        f"{name}: {_said([e for e in family if e.effect == name])}" for name in _JUDGED
    )
    if any(one.shown for one in family):
        return said
    unit = "turns per arm" if interleaved else "starts of cells that took no turns"
    too_few = too_few_turns(turns, len(family), unit=unit)
    return too_few or f"{said} ({len(family)} effects on headline metrics)"


def _said(own: Sequence[Effect]) -> str:
    """What the effects of one factor are; an interaction is neither better nor worse."""
    shown = [one for one in own if one.shown]
    if not shown:
        return "not shown"
    if shown[0].effect == "interaction":
        return f"shown in {', '.join(one.label for one in shown)}"
    groups = [
        (verdict, [one.label for one in shown if one.verdict is verdict])
        for verdict in (Verdict.BETTER, Verdict.WORSE)
    ]
    return ", ".join(f"{verdict} in {', '.join(labels)}" for verdict, labels in groups if labels)
