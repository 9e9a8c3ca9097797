"""Two engines times two load balancers: what each contributes, and what only both do.  Pure.

The seeds change both at once and cannot say which of them helped.  With all four cells measured on
one schedule, the effect of the engine is its mean difference over both load balancers, and the
other way round; the interaction is by how much the engine's effect depends on the load balancer.
"""

from collections.abc import Mapping, Sequence

import msgspec
import numpy as np

from bench.loadgen.record import Record
from bench.loadgen.run_result import RunResult
from bench.stats.comparison import RESAMPLES, draws
from bench.stats.intervals import Verdict, interval_of, verdict_of
from bench.stats.validity import Validity, judge
from bench.stats.windowed_metrics import SloLimits, Window, windows_of
from bench.workload.schedule import Part

# Which cell is which: engine, then load balancer; 0 is the baseline's.
CELLS = ("00", "01", "10", "11")

# By how much each cell counts in an effect.
EFFECTS: Mapping[str, tuple[float, float, float, float]] = {
    "engine": (-0.5, -0.5, 0.5, 0.5),
    "load balancer": (-0.5, 0.5, -0.5, 0.5),
    "interaction": (1.0, -1.0, -1.0, 1.0),
    "both": (-1.0, 0.0, 0.0, 1.0),
}


class Effect(msgspec.Struct, frozen=True, kw_only=True):
    """One effect on one metric, in the metric's unit, with its 95 % interval."""

    metric: str
    label: str
    unit: str
    effect: str
    estimate: float | None
    low: float | None
    high: float | None
    verdict: Verdict


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
    """

    run: RunResult
    targets: Sequence[str]
    values: Sequence[CellValues]
    effects: Sequence[Effect]
    validity: Validity
    goal: SloLimits


def grid_run(
    run: RunResult,
    targets: Sequence[str],
    goal: SloLimits,
    parts: Sequence[Part] | None = None,
) -> GridRun:
    """Return the effects that *run*, whose arms are CELLS, shows.

    *parts* are those of the run, unless it is several starts in one.
    """
    windows = windows_of(run.parts if parts is None else parts)
    cells = [run.of(cell) for cell in CELLS]
    return GridRun(
        run=run,
        targets=targets,
        values=cell_values(cells, windows, goal=goal),
        effects=effects(cells, windows, goal=goal, seed=run.schedule.seed),
        validity=judge(run.records, run.burden),
        goal=goal,
    )


def cell_values(
    cells: Sequence[Sequence[Record]], windows: Sequence[Window], *, goal: SloLimits
) -> list[CellValues]:
    """Return every metric of every cell."""
    return [
        CellValues(
            metric=metric.key,
            label=metric.label,
            unit=metric.unit,
            values=tuple(value if np.isfinite(value) else None for value in whole),
        )
        for metric, whole, _, _ in draws(cells, windows, goal, 0, 1)
    ]


def effects(
    cells: Sequence[Sequence[Record]], windows: Sequence[Window], *, goal: SloLimits, seed: int
) -> list[Effect]:
    """Return the effects on every metric.  *cells* are in the order of CELLS."""
    found = []
    for metric, whole, drawn, widening in draws(cells, windows, goal, seed, RESAMPLES):
        for name, signs in EFFECTS.items():
            estimate = float(np.dot(signs, whole))
            resampled = np.tensordot(np.asarray(signs), np.asarray(drawn), axes=1)
            low, high = interval_of(resampled, estimate, widening)
            found.append(
                Effect(
                    metric=metric.key,
                    label=metric.label,
                    unit=metric.unit,
                    effect=name,
                    estimate=estimate if np.isfinite(estimate) else None,
                    low=low,
                    high=high,
                    verdict=verdict_of(low, high, metric.lower_is_better),
                )
            )
    return found
