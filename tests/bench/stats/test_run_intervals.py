"""How sure the figures of one run are."""

import math
from collections import Counter

import numpy as np
import pytest

from bench.loadgen.record import Record
from bench.stats.request_metrics import LATENCY, TTFT
from bench.stats.run_intervals import intervals, quantile_interval, share_interval, told
from tests.support.records import a_record, at, delayed


def coverage(n: int, q: float, carried: float = 0.0) -> float:
    """Return in how many of 600 runs of *n* exponential values the interval holds the truth."""
    held = Counter[bool]()
    truth = -math.log(1.0 - q)
    for run in range(600):
        rng = np.random.default_rng(run)
        values = rng.exponential(size=n + 1)
        mixed = np.where(rng.random(n) < carried, values[:-1], values[1:])
        interval = quantile_interval(mixed.tolist(), q)
        assert interval is not None
        held[interval[0] <= truth <= interval[1]] += 1
    return held[True] / 600


@pytest.mark.parametrize(("n", "q"), [(100, 0.5), (1_000, 0.5), (400, 0.9), (4_000, 0.99)])
def test_the_interval_holds_the_truth(n: int, q: float) -> None:
    """95 % of 600 runs, less two and a half standard errors."""
    assert 0.925 <= coverage(n, q) <= 0.99


def test_neighbours_that_are_alike_change_nothing() -> None:
    """Half of the values are those of the request before: still in the same stretch."""
    assert coverage(400, 0.5, carried=0.5) >= 0.925


def test_few_answers_have_no_interval_and_no_p99() -> None:
    """20 have a median's, 368 a p99's."""
    assert quantile_interval([1.0] * 19, 0.5) is None
    assert quantile_interval([1.0] * 20, 0.5) == (1.0, 1.0)
    assert quantile_interval([1.0] * 367, 0.99) is None
    assert quantile_interval([1.0] * 368, 0.99) == (1.0, 1.0)
    assert told({50: 1.0, 90: 2.0, 99: 3.0}, 100) == {50: 1.0, 90: 2.0, 99: None}
    assert told({50: 1.0, 90: 2.0, 99: 3.0}, 5) == {50: None, 90: None, 99: None}


def test_a_run_that_changes_is_less_sure_than_one_that_does_not() -> None:
    """Stretches are of neighbours in time: a slow half widens the interval."""
    values = [1.0, 2.0] * 100

    mixed, halves = quantile_interval(values, 0.5), quantile_interval(sorted(values), 0.5)

    assert mixed == (1.5, 1.5)
    assert halves == (1.0, 2.0)


def test_shares_have_intervals() -> None:
    """Of alike stretches none; of half good in each, one half."""
    assert share_interval([True] * 19) is None
    assert share_interval([True] * 40) == (1.0, 1.0)
    assert share_interval([True, False] * 20) == (0.5, 0.5)
    uneven = share_interval([True] * 30 + [False] * 10)
    assert uneven is not None
    assert uneven[0] < 0.75 < uneven[1]


def test_intervals_are_of_whole_answers_in_the_order_they_were_due() -> None:
    """Failed ones have no latency, and records come in the order in which they ended."""

    def records(*, failed: bool) -> list[Record]:
        rng = np.random.default_rng(1)
        own = [delayed(at(a_record(), 0, n / 10), float(rng.exponential())) for n in range(60)]
        broken = [at(a_record(error="reset"), 0, n / 10) for n in range(60)] if failed else []
        return [*own, *broken]

    found = intervals(records(failed=True), 50)

    assert found[TTFT] == intervals(records(failed=False)[::-1], 50)[TTFT]
    assert found[LATENCY][0] > found[TTFT][0]
    assert intervals(records(failed=True), 99) == {}
