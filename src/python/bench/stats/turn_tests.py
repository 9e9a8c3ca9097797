"""What chance could have made of turns: exact p values and intervals.  Pure.

The unit of evidence is the turn: a stretch of the schedule that each arm replays while the other
waits.  A coin decides which of them goes first.  If the arms are alike, whatever a machine does
over time, slow or fast, fell to one arm or the other by that coin; so the arms may be swapped in
any set of turns, which turns the signs of those turns' differences, and each outcome was as likely
as the one that was seen.  The share of them whose mean difference is at least as large is p,
exactly (Fisher's randomization test).

The differences of all sets of turns cut the line into pieces that are equally likely to hold the
true difference, for means exactly, whatever the distribution (Hartigan, "Using subsample values as
typical values", JASA 64, 1969): that is the interval, and it agrees with the sign-flip test.
"""

import math

import numpy as np

from bench.stats.estimators import Floats
from bench.stats.intervals import CONFIDENCE, t_quantile

# Beyond so many turns their sets are drawn at random: all of them would be too many.  The smallest
# p of so many is small enough for nine looks at eleven metrics: 2 / 4,096 < 0.05 / 99.
_MOST_EXACT = 11
_DRAWN = 4_095

# Sums in another order differ in their last digits, and are equal all the same.
_EQUAL = 1e-9


def swaps(turns: int, seed: int) -> Floats:
    """Return in which turns the arms are swapped, a row for each way; shape (ways, turns).

    The first row swaps nothing.  Swapping all others instead gives the same difference with the
    other sign, so the first turn is never swapped.
    """
    if turns <= _MOST_EXACT + 1:
        return np.hstack([np.zeros((2 ** (turns - 1), 1)), _bits(turns - 1)])
    drawn = np.random.default_rng(seed).integers(0, 2, (_DRAWN + 1, turns)).astype(np.float64)
    drawn[0] = 0.0
    return drawn


def subsets(turns: int, seed: int) -> Floats:
    """Return sets of turns, none of them empty, a row for each; shape (sets, turns)."""
    if turns <= _MOST_EXACT:
        return _bits(turns)[1:]
    rng = np.random.default_rng(seed)
    drawn = rng.integers(0, 2, (_DRAWN, turns)).astype(np.float64)
    # One of thousands may be empty; the set of all turns stands in for it.
    drawn[drawn.sum(axis=1) == 0.0] = 1.0
    return drawn


def _bits(places: int) -> Floats:
    numbers = np.arange(2**places)[:, None]
    bits: Floats = ((numbers >> np.arange(places)) & 1).astype(np.float64)
    return bits


def swap_p(differences: Floats) -> float:
    """Return the share of *differences*, one per row of `swaps`, as large as the first."""
    sizes = np.abs(differences)
    return float(np.mean(sizes >= sizes[0] * (1.0 - _EQUAL)))


def subset_p(above: Floats, below: Floats) -> float:
    """Return the two-sided p of sets of turns; an effect is shown where nearly all values of
    *above* are above zero, or of *below* below it.

    Without a least effect that matters both are the differences of the sets.
    """
    zero = _EQUAL * float(np.abs(above).max())
    sides = np.count_nonzero(above <= zero), np.count_nonzero(below >= -zero)
    return min(1.0, 2.0 * (1 + int(min(sides))) / (len(above) + 1))


def subset_interval(values: Floats, alpha: float) -> tuple[float, float] | None:
    """Return the interval that misses the truth in a share *alpha* of cases, from the values of
    `subsets`; None where they are too few."""
    left_out = math.floor(alpha / 2.0 * (len(values) + 1) + _EQUAL)
    if left_out < 1:
        return None
    ordered = np.sort(values)
    return float(ordered[left_out - 1]), float(ordered[-left_out])


def turns_needed(metrics: int, alpha: float = 1.0 - CONFIDENCE) -> int:
    """Return how many turns can show a difference in one of *metrics* judged together: with n of
    them no p is below 2 / 2^n, and Holm's rule asks the smallest to be alpha / metrics."""
    return 1 + math.ceil(math.log2(max(1, metrics) / alpha) - _EQUAL)


def smallest_effect(values: Floats, turns: int) -> float:
    """Return the difference that is found in 80 % of runs at a two-sided 5 %, from the values of
    `subsets`, whose spread is the standard error."""
    free = turns - 1
    reach = t_quantile(0.5 + CONFIDENCE / 2.0, free) + t_quantile(0.8, free)
    return float(np.std(values)) * reach
