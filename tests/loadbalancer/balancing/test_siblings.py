"""Replicas are compared by their answers; laws of the comparison, and how often it errs."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadbalancer.balancing.siblings import (
    WINDOW,
    AnswerCounts,
    SiblingComparison,
    chance_of_worse,
    is_worse,
)

COUNTS = st.builds(AnswerCounts, st.integers(0, WINDOW), st.integers(0, WINDOW))


@given(own=COUNTS, siblings=COUNTS)
def test_chances_of_both_add_up_to_one(own: AnswerCounts, siblings: AnswerCounts) -> None:
    """Either is worse, and both are as far from certain with as little."""
    both = chance_of_worse(own, siblings) + chance_of_worse(siblings, own)

    assert both == pytest.approx(1.0, abs=1e-6)


@given(own=COUNTS, siblings=COUNTS)
def test_a_bad_answer_more_never_speaks_for_a_replica(
    own: AnswerCounts, siblings: AnswerCounts
) -> None:
    """And a good one more never against it."""
    chance = chance_of_worse(own, siblings)

    assert chance_of_worse(AnswerCounts(own.good, own.bad + 1), siblings) >= chance - 1e-9
    assert chance_of_worse(AnswerCounts(own.good + 1, own.bad), siblings) <= chance + 1e-9


@given(own=COUNTS)
def test_nothing_is_proven_without_siblings(own: AnswerCounts) -> None:
    """A model with one replica has none that is better."""
    assert not is_worse(own, AnswerCounts())


@given(bad=st.integers(0, WINDOW), good=st.integers(0, WINDOW), size=st.integers(1, 40))
def test_where_all_are_bad_none_is_worse(bad: int, good: int, size: int) -> None:
    """A request, a model or a network that fails everywhere is no replica's fault."""
    assert not is_worse(AnswerCounts(good, bad), AnswerCounts(size * good, size * bad))


@pytest.mark.parametrize("siblings", [1, 7, 39])
def test_a_replica_that_fails_always_is_found_after_few(siblings: int) -> None:
    """Each of its requests was answered by a sibling then."""
    comparison = SiblingComparison()
    found = 0
    for number in range(20):
        found += 1
        if comparison.bad("bad"):
            break
        comparison.good(f"good{number % siblings}")

    assert 3 <= found <= 8


def test_a_draw_of_a_beta_variable_agrees() -> None:
    """The closed form is the share of draws in which the one is above the other."""
    rng = Random(1)
    own, siblings = AnswerCounts(good=12, bad=3), AnswerCounts(good=40, bad=4)
    draws = [
        rng.betavariate(1 + own.bad, 4 + own.good)
        > rng.betavariate(1 + siblings.bad, 4 + siblings.good)
        for _ in range(20_000)
    ]

    assert chance_of_worse(own, siblings) == pytest.approx(sum(draws) / len(draws), abs=0.015)


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
@pytest.mark.parametrize("replicas", [2, 8, 40])
def test_equal_replicas_are_hardly_ever_called_worse(share: float, replicas: int) -> None:
    """Once in some thousand answers, at most: a false alarm costs a second of one replica."""
    rng, comparison, alarms = Random(replicas), SiblingComparison(), 0
    for _ in range(10_000):
        name = f"r{rng.randrange(replicas)}"
        if rng.random() >= share:
            comparison.good(name)
        elif comparison.bad(name):
            alarms += 1
            comparison.forget(name)

    assert alarms <= 5
