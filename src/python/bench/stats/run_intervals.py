"""How sure the figures of one run are.  Pure.

Requests that were under way together share a queue, so the run is cut into ten stretches of as many
requests each, and the figure is computed over all sets of them, as over the turns of a comparison.
What changes more slowly than a tenth of the run lasts is not in the interval: only further runs
show it.
"""

from collections.abc import Sequence

import numpy as np

from bench.loadgen.record import Record
from bench.stats import estimators
from bench.stats.intervals import CONFIDENCE
from bench.stats.request_metrics import Measure, measured
from bench.stats.turn_tests import subset_interval, subsets

STRETCHES = 10

# With fewer values a stretch has no figure of its own.
_LEAST = 2 * STRETCHES

Interval = tuple[float, float]


def quantile_interval(values: Sequence[float], q: float) -> Interval | None:
    """Return the 95 % interval of the *q* quantile of *values*, in the order in which their
    requests were due; None where they are too few for it."""
    if len(values) < max(_LEAST, estimators.values_needed(q)):
        return None
    of = estimators.sample(values, _stretches(len(values)), STRETCHES)
    return subset_interval(estimators.quantile(of, q, subsets(STRETCHES, 0)), 1.0 - CONFIDENCE)


def share_interval(flags: Sequence[bool]) -> Interval | None:
    """Return the 95 % interval of the share of *flags* that are set; None of too few."""
    if len(flags) < _LEAST:
        return None
    stretches = _stretches(len(flags))
    count = np.bincount(stretches, minlength=STRETCHES).astype(np.float64)
    weights = np.asarray(flags, dtype=np.float64)
    hits = np.bincount(stretches, weights, minlength=STRETCHES).astype(np.float64)
    return subset_interval(estimators.rate(hits, count, subsets(STRETCHES, 0)), 1.0 - CONFIDENCE)


def _stretches(n: int) -> list[int]:
    return [place * STRETCHES // n for place in range(n)]


def intervals(records: Sequence[Record], percentile: int) -> dict[Measure, Interval]:
    """Return the interval of a percentile of each measure of *records* that has enough values."""
    whole = sorted((one for one in records if one.ok), key=lambda one: one.due_s)
    each = [measured(one) for one in whole]
    found: dict[Measure, Interval] = {}
    for measure in {measure for one in each for measure in one}:
        values = [one[measure] for one in each if measure in one]
        interval = quantile_interval(values, percentile / 100)
        if interval is not None:
            found[measure] = interval
    return found


def told(percentiles: dict[int, float], count: int) -> dict[int, float | None]:
    """Return *percentiles* of *count* values, unknown where those are too few."""
    return {
        at: value if count >= estimators.values_needed(at / 100) else None
        for at, value in percentiles.items()
    }
