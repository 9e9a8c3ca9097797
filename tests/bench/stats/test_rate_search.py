"""The search for the highest rate that holds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.stats.rate_search import RateTrial, highest, next_rate, search_text


def climb(limit: float, start: float) -> list[RateTrial]:
    """Return the trials of an upstream that holds up to *limit* requests per second."""
    trials: list[RateTrial] = []
    while len(trials) < 40 and (rate := next_rate(trials, start, 0.95)) is not None:
        share = 1.0 if rate <= limit else 0.5
        trials.append(RateTrial(rate, share, rate * share))
    return trials


@given(limit=st.floats(0.1, 500.0), start=st.floats(0.1, 500.0))
def test_the_peak_is_found_to_three_percent(limit: float, start: float) -> None:
    """Wherever the search starts, it ends just below the limit."""
    best = highest(climb(limit, start), 0.95)

    assert best is not None
    assert limit / 1.031 < best.rate <= limit


def test_a_rate_above_one_that_broke_does_not_count() -> None:
    """An upstream that held 8/s once, and broke at 6/s, holds less than 6/s."""
    trials = [RateTrial(4.0, 1.0, 4.0), RateTrial(6.0, 0.5, 3.0), RateTrial(8.0, 1.0, 8.0)]

    best = highest(trials, 0.95)

    assert best is not None
    assert best.rate == 4.0


def test_nothing_that_held_is_no_peak() -> None:
    """An upstream that never keeps its limits has no highest rate."""
    assert highest([RateTrial(1.0, 0.1, 0.1)], 0.95) is None
    assert next_rate([RateTrial(1.0, 0.1, 0.1)], 2.0, 0.95) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        ([], "no rate was measured"),
        ([(2.0, 0.5)], "no rate met the SLO; lower --start-rate"),
        (
            [(2.0, 1.0), (4.0, 0.96)],
            "max rate: at least 4.00 requests/s, of which 96.0% met the SLO (goodput 3.84/s); no "
            "rate that was tried broke the SLO",
        ),
        (
            [(2.0, 1.0), (4.0, 0.5)],
            "max rate: 2.00 requests/s, of which 100.0% met the SLO (goodput 2.00/s); 4.00/s broke "
            "the SLO",
        ),
    ],
)
def test_what_is_said_of_a_search(trials: list[tuple[float, float]], said: str) -> None:
    """It is a bound where nothing broke: more trials may find more."""
    tried = [RateTrial(rate, share, rate * share) for rate, share in trials]

    assert search_text(tried, 0.95) == said


def test_a_rate_at_the_required_share_holds() -> None:
    """95 % of 95 % is enough, and breaks nothing."""
    trials = [RateTrial(2.0, 0.95, 1.9)]

    assert highest(trials, 0.95) == trials[0]
    assert next_rate(trials, 2.0, 0.95) == 4.0
    assert search_text(trials, 0.95).startswith("max rate: at least 2.00")
