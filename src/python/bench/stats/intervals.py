"""What an interval says, and Student's t for what few runs say.  Pure."""

import math
from enum import StrEnum

CONFIDENCE = 0.95

# The continued fraction of the incomplete beta function has converged long before.
_TERMS = 500
_CLOSE = 1e-15


class Verdict(StrEnum):
    """What the evidence says of the candidate, against the baseline."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "not shown"
    MIXED = "mixed"


def verdict_of(difference: float, p: float | None, lower_is_better: bool) -> Verdict:
    """Return what a difference with its *p* says; what is not known says nothing."""
    if p is None or p > 1.0 - CONFIDENCE or difference == 0.0:
        return Verdict.NOT_SHOWN
    return Verdict.BETTER if (difference < 0.0) == lower_is_better else Verdict.WORSE


def known(value: float) -> float | None:
    return value if math.isfinite(value) else None


def t_tail(t: float, free: float) -> float:
    """Return how often Student's t with *free* degrees of freedom exceeds *t*, which is >= 0."""
    if math.isinf(t):
        return 0.0
    return _incomplete_beta(free / 2.0, 0.5, free / (free + t * t)) / 2.0


def t_quantile(share: float, free: float) -> float:
    """Return what Student's t with *free* degrees of freedom stays below in *share* of cases;
    *share* is at least a half."""
    low, high = 0.0, 1.0
    while t_tail(high, free) > 1.0 - share:
        low, high = high, high * 2.0
    # Bisection: 60 halvings leave nothing of a double.
    for _ in range(60):
        middle = (low + high) / 2.0
        low, high = (middle, high) if t_tail(middle, free) > 1.0 - share else (low, middle)
    return (low + high) / 2.0


def _incomplete_beta(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function: Numerical Recipes 6.4, by Lentz's method."""
    if x <= 0.0 or x >= 1.0:
        return 0.0 if x <= 0.0 else 1.0
    scale = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    # The fraction converges fast below its mean only; above it the mirrored one does.
    if x < (a + 1.0) / (a + b + 2.0):
        return scale * _beta_fraction(a, b, x) / a
    return 1.0 - scale * _beta_fraction(b, a, 1.0 - x) / b


def _beta_fraction(a: float, b: float, x: float) -> float:
    d = 1.0 / (1.0 - (a + b) * x / (a + 1.0))
    c, value = 1.0, d
    for m in range(1, _TERMS):
        for factor in (
            m * (b - m) * x / ((a + 2 * m - 1.0) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1.0)),
        ):
            d = 1.0 / (1.0 + factor * d)
            c = 1.0 + factor / c
            value *= c * d
        if abs(c * d - 1.0) < _CLOSE:
            break
    return value
