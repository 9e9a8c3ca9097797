"""Planned looks: when they are, and that they err in at most one run of twenty together."""

import numpy as np
import pytest

from bench.stats.looks import FIRST_LOOK, looks_of, share_of
from bench.stats.turn_tests import subset_p, subsets, swap_p, swaps, turns_needed


@pytest.mark.parametrize(
    ("most", "looks"),
    [(5, (5,)), (12, (12,)), (13, (12, 13)), (40, (12, 18, 27, 40)), (18, (12, 18))],
)
def test_looks_come_when_there_is_half_as_much_more_to_see(
    most: int, looks: tuple[int, ...]
) -> None:
    """And the last one is the end."""
    assert looks_of(most) == looks


@pytest.mark.parametrize("most", [12, 20, 60, 99, 300])
def test_the_first_look_can_show_something(most: int) -> None:
    """In one of eight headline metrics, at its share of the 5 %."""
    looks = looks_of(most)

    assert turns_needed(8, 0.05 * share_of(looks)) <= FIRST_LOOK
    always = np.ones(len(subsets(most, 1)))
    assert subset_p(always, always) / share_of(looks) <= 0.05 / 8
    assert swap_p(swaps(most, 1).sum(axis=1) - most / 2) / share_of(looks) <= 0.05 / 8
    assert sum(share_of(looks) for _ in looks) == pytest.approx(1.0)


def test_without_planned_looks_the_one_at_the_end_has_all() -> None:
    """5 % are 5 %."""
    assert share_of(()) == 1.0


def test_whoever_stops_at_the_first_look_that_shows_something_errs_in_one_run_of_twenty() -> None:
    """Of 1,000 runs of alike arms; looking at each with 5 % would err in one of eight."""
    rng = np.random.default_rng(1)
    looks = looks_of(34)
    alarms = greedy = 0
    for run in range(1_000):
        differences = rng.normal(size=34)
        ps = [swap_p((1.0 - 2.0 * swaps(look, run)) @ differences[:look] / look) for look in looks]
        alarms += min(ps) <= 0.05 * share_of(looks)
        greedy += min(ps) <= 0.05

    assert alarms <= 50
    assert greedy > 100
