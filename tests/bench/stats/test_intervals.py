"""Verdicts, and Student's t against its printed tables."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats.intervals import Verdict, known, t_quantile, t_tail, verdict_of


@pytest.mark.parametrize(
    ("difference", "p", "of_less", "of_more"),
    [
        (1.0, 0.01, Verdict.WORSE, Verdict.BETTER),
        (-1.0, 0.01, Verdict.BETTER, Verdict.WORSE),
        (1.0, 0.05, Verdict.WORSE, Verdict.BETTER),
        (1.0, 0.0501, Verdict.NOT_SHOWN, Verdict.NOT_SHOWN),
        (0.0, 0.01, Verdict.NOT_SHOWN, Verdict.NOT_SHOWN),
        (1.0, None, Verdict.NOT_SHOWN, Verdict.NOT_SHOWN),
        (-1.0, 1.0, Verdict.NOT_SHOWN, Verdict.NOT_SHOWN),
    ],
)
def test_a_verdict_needs_a_small_p_and_a_sign(
    difference: float, p: float | None, of_less: Verdict, of_more: Verdict
) -> None:
    """*of_less* where less is better, *of_more* where more is."""
    assert verdict_of(difference, p, lower_is_better=True) is of_less
    assert verdict_of(difference, p, lower_is_better=False) is of_more


def test_only_a_finite_number_is_known() -> None:
    """Unknown is None, and 0 is a number."""
    found = [known(value) for value in (0.0, -2.5, math.nan, math.inf)]

    assert found == [0.0, -2.5, None, None]


@pytest.mark.parametrize(
    ("share", "free", "t"),
    [
        # Abramowitz and Stegun, table 26.10, and Fisher and Yates, table III.
        (0.975, 1, 12.706),
        (0.975, 2, 4.303),
        (0.975, 4, 2.776),
        (0.975, 5, 2.571),
        (0.975, 9, 2.262),
        (0.975, 11, 2.201),
        (0.975, 30, 2.042),
        (0.975, 120, 1.980),
        (0.8, 4, 0.941),
        (0.8, 11, 0.876),
        (0.95, 10, 1.812),
        (0.995, 3, 5.841),
        (0.9995, 2, 31.599),
        (0.5, 7, 0.0),
    ],
)
def test_t_is_that_of_the_printed_tables(share: float, free: float, t: float) -> None:
    """To the last digit of the tables."""
    assert t_quantile(share, free) == pytest.approx(t, abs=6e-4)


@given(t=st.floats(0.0, 50.0))
def test_t_with_one_and_two_degrees_of_freedom_has_a_formula(t: float) -> None:
    """One: Cauchy's, 1/2 - atan(t) / pi.  Two: 1/2 - t / (2 sqrt(2 + t^2))."""
    assert t_tail(t, 1) == pytest.approx(0.5 - math.atan(t) / math.pi, abs=1e-8)
    assert t_tail(t, 2) == pytest.approx(0.5 - t / (2 * math.sqrt(2 + t * t)), abs=1e-8)


@given(free=st.floats(1.0, 300.0), share=st.floats(0.5, 0.9999))
def test_the_quantile_is_the_tails_inverse(free: float, share: float) -> None:
    """For any number of degrees of freedom, whole or not."""
    assert 1.0 - t_tail(t_quantile(share, free), free) == pytest.approx(share, abs=1e-9)


def test_nothing_lies_beyond_infinity() -> None:
    """And half lies above zero."""
    assert t_tail(math.inf, 3) == 0.0
    assert t_tail(0.0, 3) == 0.5
