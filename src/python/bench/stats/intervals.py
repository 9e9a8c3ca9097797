"""Resampled differences -> intervals, p values, verdicts, and what could have been seen.  Pure."""

import math
from enum import StrEnum
from statistics import NormalDist

import numpy as np

from bench.stats.estimators import Floats

CONFIDENCE = 0.95

# Neighbouring windows share queues and caches: they are drawn in pairs.
NEIGHBOURS = 2


class Verdict(StrEnum):
    """What the evidence says of the candidate, against the baseline."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "not shown"
    MIXED = "mixed"


def interval_of(drawn: Floats, centre: float, widening: float) -> tuple[float | None, float | None]:
    spread = _widened(drawn, centre, widening)
    if not len(spread):
        return None, None
    tail = (1.0 - CONFIDENCE) / 2.0
    low, high = np.quantile(spread, [tail, 1.0 - tail])
    return float(low), float(high)


def p_value(drawn: Floats, centre: float, widening: float) -> float | None:
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


def smallest_effect(drawn: Floats, widening: float) -> float | None:
    finite = drawn[np.isfinite(drawn)]
    if not math.isfinite(widening) or len(finite) < len(drawn) / 2:
        return None
    # Found in 80 % of runs at a two-sided 5 %: 1.96 + 0.84 standard errors.
    normal = NormalDist()
    reach = normal.inv_cdf(0.5 + CONFIDENCE / 2.0) + normal.inv_cdf(0.8)
    return float(np.std(finite)) * widening * reach


def small_sample_widening(n_windows: int) -> float:
    """A bootstrap of few windows is too sure of itself; Student's t says by how much.

    The quantile is Cornish and Fisher's expansion of t's, good to 1 % from 5 degrees of freedom
    on; sqrt(n / (n - 1)) is the bias of the resampled variance.
    """
    if n_windows < 4:
        # Too few to say anything: every interval would be a guess.
        return math.inf
    free = max(2, n_windows // NEIGHBOURS - 1)
    z = NormalDist().inv_cdf(0.5 + CONFIDENCE / 2.0)
    t = z + (z**3 + z) / (4 * free) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * free**2)
    return t / z * math.sqrt((free + 1) / free)


def verdict_of(low: float | None, high: float | None, lower_is_better: bool) -> Verdict:
    """Return what an interval of a difference says; one that holds zero says nothing."""
    if low is None or high is None or low <= 0.0 <= high:
        return Verdict.NOT_SHOWN
    return Verdict.BETTER if (high < 0.0) == lower_is_better else Verdict.WORSE


def known(value: float) -> float | None:
    return value if math.isfinite(value) else None
