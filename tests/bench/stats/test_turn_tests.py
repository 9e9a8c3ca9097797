"""Exact tests over turns: small cases by hand, and how often they err under drift."""

import itertools

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from bench.stats.estimators import Floats
from bench.stats.turn_tests import (
    smallest_effect,
    subset_interval,
    subset_p,
    subsets,
    swap_p,
    swaps,
    turns_needed,
)


def means(differences: Floats) -> Floats:
    """Return the mean of each set of turns."""
    chosen = subsets(len(differences), 1)
    found: Floats = chosen @ differences / chosen.sum(axis=1)
    return found


def flipped(differences: Floats) -> Floats:
    """Return the mean with the arms swapped in each of the ways."""
    found: Floats = (1.0 - 2.0 * swaps(len(differences), 1)) @ differences / len(differences)
    return found


@pytest.mark.parametrize("turns", range(1, 13))
def test_every_way_to_swap_is_there_once(turns: int) -> None:
    """Up to the mirror image, the first being none."""
    ways = {tuple(row) for row in swaps(turns, 1).tolist()}

    assert len(ways) == len(swaps(turns, 1)) == 2 ** (turns - 1)
    assert not swaps(turns, 1)[0].any()
    mirrored = {tuple(1.0 - swap for swap in way) for way in ways}
    assert ways | mirrored == set(itertools.product((0.0, 1.0), repeat=turns))


@pytest.mark.parametrize("turns", range(1, 12))
def test_every_set_of_turns_is_there_once_but_the_empty_one(turns: int) -> None:
    """2^n - 1 of them."""
    found = [tuple(row) for row in subsets(turns, 1).tolist()]

    assert len(found) == len(set(found)) == 2**turns - 1
    assert (0.0,) * turns not in found


@pytest.mark.parametrize("turns", [13, 20, 60])
def test_of_many_turns_sets_are_drawn(turns: int) -> None:
    """Half of the turns in each on average; another seed draws others; none is empty."""
    ways, sets = swaps(turns, 1), subsets(turns, 1)

    assert ways.shape == (4_096, turns)
    assert sets.shape == (4_095, turns)
    assert not ways[0].any()
    assert sets.any(axis=1).all()
    for drawn in (ways[1:], sets):
        assert drawn.mean() == pytest.approx(0.5, abs=5 * 0.5 / drawn.size**0.5)
    assert (swaps(turns, 2) != ways).any()
    assert (subsets(turns, 2) != sets).any()


def test_p_of_three_turns_by_hand() -> None:
    """1, 2 and 4 can be swapped in four ways: |7|, |-1 + 2 + 4| = 5, |1 - 2 + 4| = 3, |1 + 2 - 4| =
    1 (up to their mirror images), so p of 7 is 1/4; of -1, 2 and 4 it is 2/4."""
    assert swap_p(flipped(np.array([1.0, 2.0, 4.0]))) == 0.25
    assert swap_p(flipped(np.array([-1.0, 2.0, 4.0]))) == 0.5


def test_p_of_ties_and_of_nothing() -> None:
    """What is equal is as large; of no difference at all p is 1."""
    assert swap_p(flipped(np.array([1.0, 1.0, -1.0]))) == 1.0
    assert swap_p(flipped(np.zeros(6))) == 1.0


def test_p_of_sets_by_hand() -> None:
    """Seven sets of 1, 2 and -4 have means 1, 2, -4, 1.5, -1.5, -1 and -1/3: three above 0, four
    below, none at it."""
    values = means(np.array([1.0, 2.0, -4.0]))

    assert sorted(values) == pytest.approx([-4.0, -1.5, -1.0, -1 / 3, 1.0, 1.5, 2.0])
    assert subset_p(values, values) == min(1.0, 2 * (1 + 3) / 8)
    assert subset_p(np.ones(63), np.ones(63)) == 2 / 64
    assert subset_p(np.zeros(63), np.zeros(63)) == 1.0


def test_the_interval_leaves_out_as_many_sets_as_may_err() -> None:
    """Of 1 to 127, 0.025 * 128 = 3.2 on either side: the third from either end."""
    values = np.arange(1.0, 128.0)[::-1]

    assert subset_interval(values, 0.05) == (3.0, 125.0)
    assert subset_interval(values, 0.5) == (32.0, 96.0)
    assert subset_interval(values[:31], 0.05) is None
    assert subset_interval(values[:63], 0.05) is not None


@given(st.lists(st.floats(-1.0, 1.0).map(lambda x: round(x, 3) + 0.0004), min_size=6, max_size=9))
def test_both_tests_and_the_interval_agree(differences: list[float]) -> None:
    """Of means: p by sets is that of sign flips (one side, twice), and the interval leaves out zero
    where p is at most 5 %."""
    values = means(np.array(differences))
    assume(np.abs(values).min() > 1e-9)
    every = [
        np.dot(signs, differences) for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    one_side = np.mean(np.array(every) >= sum(differences) - 1e-12)
    other = np.mean(np.array(every) <= sum(differences) + 1e-12)

    p = subset_p(values, values)

    assert p == pytest.approx(min(1.0, 2 * min(one_side, other)))
    interval = subset_interval(values, 0.05)
    assert interval is not None
    assert (p <= 0.05) == (not interval[0] <= 0.0 <= interval[1])


@pytest.mark.parametrize(
    ("metrics", "turns"),
    [(0, 6), (1, 6), (2, 7), (3, 7), (4, 8), (6, 8), (7, 9), (8, 9), (12, 9), (24, 10)],
)
def test_turns_that_a_verdict_needs(metrics: int, turns: int) -> None:
    """2 / 2^n must be at most 0.05 over the metrics."""
    assert turns_needed(metrics) == turns
    assert 2 / 2**turns <= 0.05 / max(1, metrics) < 2 / 2 ** (turns - 1)


def test_a_look_at_a_fifth_of_the_five_percent_needs_more_turns() -> None:
    """0.05 / 5 / 8 = 0.00125: 2^-10 = 0.00098."""
    assert turns_needed(8, 0.01) == 11


def test_the_smallest_effect_is_that_of_t() -> None:
    """2.262 + 0.883 standard errors with 9 degrees of freedom."""
    assert smallest_effect(np.array([-1.0, 1.0] * 20), 10) == pytest.approx(3.145, abs=2e-3)
    assert smallest_effect(np.array([-2.0, 2.0] * 20) + 9, 10) == pytest.approx(6.290, abs=4e-3)


def drift(rng: "np.random.Generator", steps: int, carried: float) -> Floats:
    """An AR(1) process of variance 1."""
    found = np.zeros(steps)
    found[0] = rng.normal()
    for n in range(1, steps):
        found[n] = carried * found[n - 1] + (1 - carried**2) ** 0.5 * rng.normal()
    return found


@pytest.mark.parametrize("turns", [6, 9, 11])
@pytest.mark.parametrize("carried", [0.0, 0.5, 0.9, 0.99])
def test_intervals_hold_the_truth_under_any_drift(turns: int, carried: float) -> None:
    """Of 1,000 runs in random order, 95 % or a little more (2^n is no multiple of 40), within three
    standard errors: whatever one turn hands on to the next."""
    rng = np.random.default_rng(turns)
    truth, held, alarms = 0.3, 0, 0
    for _ in range(1_000):
        state = drift(rng, 2 * turns, carried).reshape(turns, 2)
        coin = rng.integers(0, 2, turns) * 2 - 1
        differences = coin * (state[:, 0] - state[:, 1])
        interval = subset_interval(means(differences + truth), 0.05)
        assert interval is not None
        held += interval[0] <= truth <= interval[1]
        alarms += swap_p(flipped(differences)) <= 0.05

    left_out = 2 * int(0.025 * 2**turns) / 2**turns
    assert held / 1_000 == pytest.approx(1.0 - left_out, abs=3 * (0.05 * 0.95 / 1_000) ** 0.5)
    assert alarms / 1_000 <= 0.05 + 3 * (0.05 * 0.95 / 1_000) ** 0.5
