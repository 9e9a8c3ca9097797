"""Many values by bins of half a per cent: what is kept of millions of token gaps.  Pure."""

from collections.abc import Sequence
from math import ceil, exp, log

# A quantile read from bins that grow by this factor is off by at most 0.25 %.
GROWTH = 1.005
FLOOR_S = 1e-6
_LOG = log(GROWTH)

# Gauss-Hermite nodes and weights of a standard normal, five points.
_NORMAL = (
    (-2.8569700138728, 0.0112574113277207),
    (-1.3556261799742, 0.222075922005613),
    (0.0, 0.533333333333333),
    (1.3556261799742, 0.222075922005613),
    (2.8569700138728, 0.0112574113277207),
)


class GapHistogram:
    """Gaps between tokens, in seconds."""

    def __init__(self) -> None:
        self._counts: dict[int, float] = {}
        self.total = 0
        self.sum_s = 0.0

    def add(self, seconds: float, times: int) -> None:
        place = _place(seconds)
        self._counts[place] = self._counts.get(place, 0) + times
        self.total += times
        self.sum_s += seconds * times

    def add_run(
        self,
        first_s: float,
        growth_s: float,
        steps: int,
        times: int,
        late_before_s: float = 0.0,
        late_s: float = 0.0,
    ) -> None:
        """Add a run of *steps* gaps, each *growth_s* longer than the one before, *times* over.

        The token before the run came *late_before_s* late, its last token *late_s*.
        """
        if steps == 1:
            self.add(first_s - late_before_s + late_s, times)
            return
        if late_before_s:
            self.add(first_s - late_before_s, times)
            self.add_run(first_s + growth_s, growth_s, steps - 1, times, 0.0, late_s)
            return
        if late_s:
            self.add_run(first_s, growth_s, steps - 1, times)
            self.add(first_s + growth_s * (steps - 1) + late_s, times)
            return
        span = growth_s * (steps - 1)
        pieces = min(steps, 1 + int(span / (first_s * (GROWTH - 1.0))))
        done = 0
        for piece in range(1, pieces + 1):
            until = steps * piece // pieces
            middle = first_s + growth_s * (done + until - 1) / 2
            self.add(middle, times * (until - done))
            done = until

    def quantiles(self, shares: Sequence[float], jitter_s: float = 0.0) -> list[float]:
        """Return the gap at each of *shares*, 0.0 to 1.0; zeros where there is none.

        *jitter_s* is how far each token, on its own, is seen early or late (standard deviation).
        """
        bins = self._counts if not jitter_s else self._spread(jitter_s)
        ordered = sorted(bins.items())
        total = sum(count for _, count in ordered)
        found = []
        for share in shares:
            reached = 0.0
            value = 0.0
            for place, count in ordered:
                reached += count
                value = _value(place)
                if reached >= share * total - 1e-9:
                    break
            found.append(value)
        return found

    def _spread(self, jitter_s: float) -> dict[int, float]:
        """Add to each gap the difference of two independent delays."""
        spread: dict[int, float] = {}
        for place, count in self._counts.items():
            for node, weight in _NORMAL:
                moved = _place(max(FLOOR_S, _value(place) + node * jitter_s * 2**0.5))
                spread[moved] = spread.get(moved, 0.0) + count * weight
        return spread


def _place(seconds: float) -> int:
    return ceil(log(max(seconds, FLOOR_S) / FLOOR_S) / _LOG - 1e-9)


def _value(place: int) -> float:
    return FLOOR_S * exp((place - 0.5) * _LOG)
