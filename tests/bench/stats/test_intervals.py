"""Intervals, p values and verdicts: exact small cases, and how often the interval is right."""

import math

import numpy as np
import pytest

from bench.stats import estimators
from bench.stats.estimators import Floats
from bench.stats.intervals import (
    CONFIDENCE,
    NEIGHBOURS,
    Verdict,
    interval_of,
    known,
    p_value,
    small_sample_widening,
    smallest_effect,
    verdict_of,
)

# 0, 1 … 100: its q quantile is 100 q.
HUNDRED = np.arange(101.0)

NAN = math.nan


def draws_of(negative: int, zero: int, positive: int) -> Floats:
    return np.array([-1.0] * negative + [0.0] * zero + [1.0] * positive)


@pytest.mark.parametrize(
    ("centre", "widening", "interval"),
    [
        (50.0, 1.0, (2.5, 97.5)),
        # 50 - 2 * 47.5 and 50 + 2 * 47.5.
        (50.0, 2.0, (-45.0, 145.0)),
        # 60 + 2 * (2.5 - 60) and 60 + 2 * (97.5 - 60): stretched around the estimate.
        (60.0, 2.0, (-55.0, 135.0)),
    ],
)
def test_the_interval_holds_the_middle_95_percent(
    centre: float, widening: float, interval: tuple[float, float]
) -> None:
    """2.5 % of the draws are left out on either side."""
    assert interval_of(HUNDRED, centre, widening) == pytest.approx(interval)


@pytest.mark.parametrize(
    ("draws", "p"),
    [
        (draws_of(1, 0, 99), 0.02),
        (draws_of(99, 0, 1), 0.02),
        # What is on neither side is on both: (10 + 10) of 100, twice.
        (draws_of(10, 10, 80), 0.4),
        (draws_of(50, 0, 50), 1.0),
        (draws_of(0, 100, 0), 1.0),
        # No draw beyond zero: p is below what 100 draws can tell, and not 0.
        (draws_of(0, 0, 100), 0.01),
        (draws_of(0, 0, 1_000), 0.001),
    ],
)
def test_p_is_twice_the_smaller_side(draws: Floats, p: float) -> None:
    """Two-sided, at least one draw, at most 1."""
    assert p_value(draws, 0.0, 1.0) == pytest.approx(p)


def test_p_is_of_the_widened_draws() -> None:
    """1 of 4 draws lies at 1; stretched around 2 by 3 it lies at -1."""
    draws = np.array([1.0, 2.0, 2.0, 3.0])

    assert p_value(draws, 2.0, 1.0) == 0.25
    assert p_value(draws, 2.0, 3.0) == 0.5


def test_the_smallest_effect_is_2_8_standard_errors() -> None:
    """Draws of -1 and 1 have a standard deviation of 1: z(0.975) + z(0.8) = 1.95996 + 0.84162."""
    draws = np.array([-1.0, 1.0] * 20)

    assert smallest_effect(draws, 1.0) == pytest.approx(2.80158, rel=1e-5)
    assert smallest_effect(draws, 1.5) == pytest.approx(1.5 * 2.80158, rel=1e-5)
    assert smallest_effect(draws + 7.0, 1.0) == pytest.approx(2.80158, rel=1e-5)


def test_a_metric_that_half_of_the_draws_lack_is_still_told() -> None:
    """Unknown draws are left out while they are not the larger half."""
    half = np.array([NAN, NAN, -1.0, 1.0])

    assert interval_of(half, 0.0, 1.0) == pytest.approx((-0.95, 0.95))
    assert p_value(half, 0.0, 1.0) == 1.0
    assert smallest_effect(half, 1.0) == pytest.approx(2.80158, rel=1e-5)


@pytest.mark.parametrize(
    ("draws", "centre", "widening"),
    [
        (np.array([NAN, NAN, NAN, -1.0, 1.0]), 0.0, 1.0),
        (np.array([-1.0, 1.0]), 0.0, math.inf),
    ],
)
def test_nothing_is_said_of_what_is_mostly_unknown(
    draws: Floats, centre: float, widening: float
) -> None:
    """No interval, no p, no smallest effect."""
    assert interval_of(draws, centre, widening) == (None, None)
    assert p_value(draws, centre, widening) is None
    assert smallest_effect(draws, widening) is None


def test_an_unknown_estimate_has_no_interval() -> None:
    """Whatever its draws are."""
    assert interval_of(HUNDRED, NAN, 1.0) == (None, None)
    assert p_value(HUNDRED, NAN, 1.0) is None


@pytest.mark.parametrize(
    ("windows", "free"),
    [(4, 2), (5, 2), (6, 2), (7, 2), (8, 3), (12, 5), (13, 5), (42, 20), (202, 100)],
)
def test_the_widening_is_students_t_over_the_normal(windows: int, free: int) -> None:
    """Abramowitz and Stegun 26.7.5: t = z + (z^3 + z) / 4v + (5 z^5 + 16 z^3 + 3 z) / 96 v^2; at
    z = 1.959964 the numerators over 4 and 96 are 2.37227 and 2.82250.  With v = 20 that is 2.08563,
    and the table has 2.0860.  A pair of windows is one draw, so v = windows / 2 - 1."""
    t = 1.959964 + 2.37227 / free + 2.82250 / free**2

    expected = t / 1.959964 * math.sqrt((free + 1) / free)
    assert small_sample_widening(windows) == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("free", "t"), [(5, 2.5706), (10, 2.2281), (20, 2.0860), (30, 2.0423), (120, 1.9799)]
)
def test_the_widening_agrees_with_the_printed_table_of_t(free: int, t: float) -> None:
    """Within 1 % from five degrees of freedom on."""
    widening = small_sample_widening(NEIGHBOURS * (free + 1))

    assert widening * 1.959964 / math.sqrt((free + 1) / free) == pytest.approx(t, rel=0.01)


@pytest.mark.parametrize("windows", [0, 1, 2, 3])
def test_three_windows_are_too_few(windows: int) -> None:
    """Nothing can be said of so few; of four something can."""
    assert small_sample_widening(windows) == math.inf


@pytest.mark.parametrize(
    ("low", "high", "of_less", "of_more"),
    [
        (1.0, 2.0, Verdict.WORSE, Verdict.BETTER),
        (-2.0, -1.0, Verdict.BETTER, Verdict.WORSE),
        (0.1, 0.5, Verdict.WORSE, Verdict.BETTER),
        (-0.5, -0.1, Verdict.BETTER, Verdict.WORSE),
        (-1.0, 1.0, Verdict.NOT_SHOWN, Verdict.NOT_SHOWN),
        (0.0, 1.0, Verdict.NOT_SHOWN, Verdict.NOT_SHOWN),
        (-1.0, 0.0, Verdict.NOT_SHOWN, Verdict.NOT_SHOWN),
        (None, -1.0, Verdict.NOT_SHOWN, Verdict.NOT_SHOWN),
        (1.0, None, Verdict.NOT_SHOWN, Verdict.NOT_SHOWN),
    ],
)
def test_a_verdict_needs_an_interval_without_zero(
    low: float | None, high: float | None, of_less: Verdict, of_more: Verdict
) -> None:
    """*of_less* where less is better, *of_more* where more is."""
    assert verdict_of(low, high, lower_is_better=True) is of_less
    assert verdict_of(low, high, lower_is_better=False) is of_more


def test_only_a_finite_number_is_known() -> None:
    """Unknown is None, and 0 is a number."""
    assert [known(value) for value in (0.0, -2.5, NAN, math.inf)] == [0.0, -2.5, None, None]


def holds_the_truth(noise: Floats, seed: int) -> tuple[bool, bool]:
    """Return whether the interval of the mean of *noise*, whose true mean is 0, holds 0, and
    whether p is below 0.05."""
    n = len(noise)
    weights = estimators.resamples(n, 400, NEIGHBOURS, seed)
    drawn = estimators.rate(noise, np.ones(n), weights)
    widening = small_sample_widening(n)
    low, high = interval_of(drawn, float(noise.mean()), widening)
    p = p_value(drawn, float(noise.mean()), widening)
    assert low is not None
    assert high is not None
    assert p is not None
    assert low <= noise.mean() <= high
    return low <= 0.0 <= high, p < 1.0 - CONFIDENCE


@pytest.mark.parametrize("windows", [12, 24, 60])
@pytest.mark.parametrize(("carried", "at_least"), [(0.0, 0.93), (0.3, 0.88)])
def test_95_of_100_intervals_hold_the_truth(windows: int, carried: float, at_least: float) -> None:
    """Of 400 runs with independent windows, 95 % within two standard errors, and at most 99 %.

    Where 0.3 of a window's noise carries over to the next, draws in pairs see a variance of 1.39
    for one of 1.69, and the interval is a tenth too narrow: 92.5 % by the normal, less two standard
    errors and what few windows cost.
    """
    rng = np.random.default_rng(windows)
    held, alarms = [], []
    for run in range(400):
        own = rng.normal(size=windows + 1)
        held_truth, alarm = holds_the_truth(own[1:] + carried * own[:-1], run)
        held.append(held_truth)
        alarms.append(alarm)

    assert at_least <= np.mean(held) <= 0.99
    assert np.mean(alarms) <= 1.0 - at_least
