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


def test_a_rate_of_nothing_is_unknown() -> None:
    """No requests give no error rate, and not one of zero."""
    assert np.isnan(estimators.rate(np.zeros(2), np.zeros(2))[0])


BIN = 1.005


@pytest.mark.parametrize("steps", [0.001, 0.5, 1.0, 1.5, 2.0, 7.3, 900.0, 2000.5])
def test_a_bin_is_read_at_its_middle(steps: float) -> None:
    """A bin reaches from floor * 1.005^(k-1), not included, to floor * 1.005^k, and stands for
    floor * 1.005^(k-1/2)."""
    of = estimators.binned([[1e-6 * BIN**steps]], [0], 1)

    assert of.values == pytest.approx([1e-6 * BIN ** (np.ceil(steps) - 0.5)], rel=1e-9)


@pytest.mark.parametrize("seconds", [0.0, 1e-7, 1e-6])
def test_up_to_the_floor_is_no_time(seconds: float) -> None:
    """A microsecond and less counts as none."""
    assert estimators.binned([[seconds]], [0], 1).values.tolist() == [0.0]


def test_binned_values_stay_in_their_windows() -> None:
    """Groups of one window add up; a window without a group has none."""
    of = estimators.binned([[0.01, 0.02], [0.01], [], [0.01, 0.01]], [0, 2, 1, 2], 4)

    assert of.size == 5
    assert of.values == pytest.approx([0.01, 0.02], rel=0.0025)
    assert of.counts.tolist() == [[1.0, 1.0], [0.0, 0.0], [3.0, 0.0], [0.0, 0.0]]


def test_nothing_binned_is_nothing_known() -> None:
    """Windows without a gap have a shape, and no quantile and no mean."""
    of = estimators.binned([[], []], [0, 1], 2)

    assert of.size == 0
    assert of.counts.shape == (2, 0)
    assert np.isnan(estimators.quantile(of, 0.5, np.ones((3, 2)))).tolist() == [True] * 3
    assert np.isnan(estimators.quantile(of, 0.5)).tolist() == [True]
    assert np.isnan(estimators.mean(of)).tolist() == [True]


def test_a_sample_is_sorted_and_each_value_keeps_its_window() -> None:
    """3 of window 1, 1 of window 0, 2 of window 1."""
    of = estimators.sample([3.0, 1.0, 2.0], [1, 0, 1], 3)

    assert of.size == 3
    assert of.values.tolist() == [1.0, 2.0, 3.0]
    assert of.counts.tolist() == [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]


def test_a_mean_weighs_each_value_by_its_window() -> None:
    """(1 + 2 + 3) / 3; window 0 twice and window 1 once: (2 * 1 + 2 + 3) / 4; nothing: unknown."""
    of = estimators.sample([3.0, 1.0, 2.0], [1, 0, 1], 2)

    assert estimators.mean(of).tolist() == [2.0]
    weighted = estimators.mean(of, np.array([[2.0, 1.0], [0.0, 1.0], [0.0, 0.0]]))
    assert weighted[:2].tolist() == [1.75, 2.5]
    assert np.isnan(weighted[2])


def test_a_rate_is_a_ratio_of_sums() -> None:
    """(6 + 1) / (2 + 5) = 1, not the mean of 3 and 0.2; weights repeat a window in both sums."""
    amounts, per = np.array([6.0, 1.0]), np.array([2.0, 5.0])

    assert estimators.rate(amounts, per).tolist() == [1.0]
    assert estimators.rate(amounts, per, np.array([[2.0, 0.0], [1.0, 2.0]])) == pytest.approx(
        [3.0, 8.0 / 12.0]
    )


def test_batches_of_resamples_are_joined_in_order() -> None:
    """More resamples than are worked on at once: each has its own quantile."""
    of = estimators.sample([float(n) for n in range(600)], list(range(600)), 600)

    found = estimators.quantile(of, 0.5, np.eye(600))

    assert found.tolist() == [float(n) for n in range(600)]


def test_quantiles_of_bins_and_of_values_agree() -> None:
    """Counted by a product or by owner: the same draw."""
    of = estimators.sample([1.0, 2.0, 3.0, 4.0], [0, 1, 0, 1], 2)
    product = estimators.WindowedSample(of.values, of.counts)
    rows = np.array([[2.0, 1.0], [0.0, 3.0], [1.0, 1.0]])

    assert estimators.quantile(of, 0.3, rows).tolist() == (
        estimators.quantile(product, 0.3, rows).tolist()
    )


@pytest.mark.parametrize("q", [0.0, 0.5, 1.0])
def test_a_resample_of_one_value_has_that_quantile(q: float) -> None:
    """Values of windows that were not drawn are no neighbours."""
    of = estimators.sample([1.0, 2.0], [0, 1], 2)

    assert estimators.quantile(of, q, np.eye(2)).tolist() == [1.0, 2.0]


@given(
    groups=st.lists(st.lists(st.floats(0.0, 9.0), min_size=1, max_size=90), min_size=2, max_size=4),
    chosen=st.lists(st.integers(0, 2), min_size=8, max_size=8),
    q=st.sampled_from([0.0, 0.1, 0.5, 0.9, 0.99, 1.0]),
)
def test_a_quantile_of_sets_is_numpys_of_their_values(
    groups: list[list[float]], chosen: list[int], q: float
) -> None:
    """However many values, blocks and windows there are, and however often each is drawn."""
    windows = [n for n, group in enumerate(groups) for _ in group]
    of = estimators.sample([v for group in groups for v in group], windows, len(groups))
    weights = np.array([chosen[: len(groups)]], dtype=np.float64)
    values = [v for n, group in enumerate(groups) for v in group * chosen[n]]

    found = estimators.quantile(of, q, weights)

    if values:
        assert found[0] == pytest.approx(float(np.quantile(values, q)))
    else:
        assert np.isnan(found[0])


@pytest.mark.parametrize("is_binned", [False, True])
def test_joined_samples_keep_their_windows(is_binned: bool) -> None:
    """Two of two windows are one of four; each window has the quantiles that it had."""
    rng = np.random.default_rng(1)
    own = [rng.uniform(0.001, 0.1, (2, 50)) for _ in range(2)]
    samples = [
        estimators.binned(groups, [0, 1], 2)
        if is_binned
        else estimators.sample(groups.ravel().tolist(), [0] * 50 + [1] * 50, 2)
        for groups in own
    ]

    together = estimators.joined(samples)

    assert together.size == 200
    apart = [estimators.quantile(one, 0.9, np.eye(2)) for one in samples]
    assert estimators.quantile(together, 0.9, np.eye(4)) == pytest.approx(np.concatenate(apart))


@pytest.mark.parametrize(("q", "n"), [(0.99, 368), (0.9, 36), (0.5, 6), (0.1, 36), (0.01, 368)])
def test_a_quantile_needs_values_beyond_it(q: float, n: int) -> None:
    """1 - q^n is the chance that the largest of n lies above it: 97.5 % from n on, by hand
    0.99^368 = 0.0248 and 0.99^367 = 0.0250."""
    assert estimators.values_needed(q) == n
    farther = max(q, 1 - q)
    assert farther**n <= 0.025 < farther ** (n - 1)
