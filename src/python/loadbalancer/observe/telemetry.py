"""Counts and histograms of the data path, as cheap as a list.  Pure.

prometheus_client takes a lock and a label look-up for every observation; here an observation is a
bisection, and `exposition.py` hands the totals to prometheus_client when it is asked.
"""

from bisect import bisect_left
from collections import Counter

# Own work takes tens of microseconds; a first token takes from milliseconds to minutes.
OVERHEAD_BOUNDS_S = (25e-6, 50e-6, 100e-6, 200e-6, 400e-6, 800e-6, 1.6e-3, 5e-3, 25e-3, 0.1)
WAIT_BOUNDS_S = (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0)


class BucketCounts:
    """Observations by upper bound."""

    __slots__ = ("bounds", "counts", "total")

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.total = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value


class TrafficStats:
    """What happened since the start.

    Attributes:
        refusals: errors that we answered with ourselves, by status.
    """

    def __init__(self) -> None:
        self.overhead_s = BucketCounts(OVERHEAD_BOUNDS_S)
        self.ttft_s = BucketCounts(WAIT_BOUNDS_S)
        self.duration_s = BucketCounts(WAIT_BOUNDS_S)
        self.queue_s = BucketCounts(WAIT_BOUNDS_S)
        # (replica, outcome), (policy, reason), (shadow policy, same or other), why, replica
        self.requests: Counter[tuple[str, str]] = Counter()
        self.decisions: Counter[tuple[str, str]] = Counter()
        self.shadow: Counter[tuple[str, str]] = Counter()
        self.retries: Counter[str] = Counter()
        self.refusals: Counter[int] = Counter()
        self.ejections: Counter[str] = Counter()
        # (replica, what was wrong with its answer)
        self.faults: Counter[tuple[str, str]] = Counter()
