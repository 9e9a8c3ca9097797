"""Gaps by bins: quantiles to a quarter of a per cent, runs as if each gap were added."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.fleetsim.histogram import GapHistogram


@given(gaps=st.lists(st.floats(1e-4, 10.0), min_size=1, max_size=200))
def test_quantiles_are_within_a_bin(gaps: list[float]) -> None:
    """The median of the bins is within half a bin of the value of that rank."""
    histogram = GapHistogram()
    for gap in gaps:
        histogram.add(gap, 1)

    rank = sorted(gaps)[max(0, -(-len(gaps) // 2) - 1)]
    assert histogram.quantiles([0.5])[0] == pytest.approx(rank, rel=0.0026)


@given(
    first=st.floats(0.001, 0.1),
    growth=st.floats(0.0, 1e-4),
    steps=st.integers(1, 300),
    times=st.integers(1, 50),
    late_before=st.sampled_from([0.0, 0.0004, 0.0009]),
    late=st.sampled_from([0.0, 0.0004, 0.011]),
)
def test_run_counts_every_gap(
    first: float, growth: float, steps: int, times: int, late_before: float, late: float
) -> None:
    """A run has as many gaps, and the same sum, as its steps one by one; tokens that are held back
    move time from one gap to another."""
    histogram = GapHistogram()
    histogram.add_run(first, growth, steps, times, late_before, late)

    assert histogram.total == steps * times
    whole = (sum(first + growth * step for step in range(steps)) + late - late_before) * times
    assert histogram.sum_s == pytest.approx(whole, rel=1e-9)


def test_jitter_widens_without_moving_the_middle() -> None:
    """Equal gaps that are seen with jitter have the same median and a higher 90th percentile."""
    histogram = GapHistogram()
    histogram.add(0.005, 1000)

    still, seen = histogram.quantiles([0.5, 0.9]), histogram.quantiles([0.5, 0.9], 0.0003)

    assert seen[0] == pytest.approx(still[0], rel=0.01)
    assert 0.0002 < seen[1] - still[1] < 0.0009
