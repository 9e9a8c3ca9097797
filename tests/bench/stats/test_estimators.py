"""Quantiles of samples and resamples, with numpy as the oracle."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats import estimators

VALUES = st.lists(st.floats(0.001, 1e4), min_size=1, max_size=60)


@given(values=VALUES, q=st.floats(0.0, 1.0))
def test_a_quantile_of_the_whole_is_numpys(values: list[float], q: float) -> None:
    """Without weights the estimate is the one that every other tool prints."""
    of = estimators.sample(values, [0] * len(values), 1)

    assert estimators.quantile(of, q)[0] == pytest.approx(np.quantile(values, q), rel=1e-9)


@given(
    groups=st.lists(VALUES, min_size=2, max_size=5),
    weights=st.lists(st.integers(0, 3), min_size=5, max_size=5),
    q=st.sampled_from([0.0, 0.5, 0.9, 0.99, 1.0]),
)
def test_a_weighted_quantile_is_that_of_the_repeated_values(
    groups: list[list[float]], weights: list[int], q: float
) -> None:
    """A window drawn twice counts as if its requests had been there twice."""
    flat = [(value, window) for window, group in enumerate(groups) for value in group]
    of = estimators.sample([v for v, _ in flat], [w for _, w in flat], len(groups))
    rows = np.array([weights[: len(groups)]], dtype=float)
    repeated = [v for v, w in flat for _ in range(weights[w])]

    found = estimators.quantile(of, q, rows)[0]

    if repeated:
        assert found == pytest.approx(np.quantile(repeated, q), rel=1e-9)
    else:
        assert np.isnan(found)


@given(values=st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=200))
def test_a_binned_quantile_is_within_half_a_percent(values: list[float]) -> None:
    """The histogram of inter-token gaps costs no accuracy that anybody could see."""
    of = estimators.binned([values], [0], 1)

    for q in (0.0, 0.5, 1.0):
        exact = np.quantile(values, q, method="lower")
        above = np.quantile(values, q, method="higher")
        assert exact * 0.995 <= estimators.quantile(of, q)[0] <= above * 1.005


def test_events_of_one_read_are_no_time_apart() -> None:
    """A gap of zero stays zero: it is not rounded up to the smallest bin."""
    assert estimators.quantile(estimators.binned([[0.0, 0.0]], [0], 1), 0.5)[0] == 0.0


@given(n=st.integers(1, 40), block=st.integers(1, 5), seed=st.integers(0, 99))
def test_every_resample_has_as_many_windows_as_the_run(n: int, block: int, seed: int) -> None:
    """Resamples differ in which windows they hold, never in how many."""
    weights = estimators.resamples(n, 20, block, seed)

    assert (weights.sum(axis=1) == n).all()
    assert (estimators.resamples(n, 20, block, seed) == weights).all()


def test_a_rate_of_nothing_is_unknown() -> None:
    """No requests give no error rate, and not one of zero."""
    assert np.isnan(estimators.rate(np.zeros(2), np.zeros(2))[0])
