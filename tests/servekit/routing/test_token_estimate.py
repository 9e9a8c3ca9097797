"""Counts by rule become the model's own, whoever reports them."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.routing.token_estimate import TokenEstimate


def test_estimate_is_the_rule_before_anything_is_known() -> None:
    """Four bytes a token, and token ids as they are."""
    assert TokenEstimate().tokens(100, 50, 7) == 157


@pytest.mark.parametrize("true", [0.5, 1.0, 1.4, 3.0])
def test_text_ratio_is_learnt_from_a_dozen_answers(true: float) -> None:
    """Code and Chinese have fewer bytes a token than English."""
    estimate, rng = TokenEstimate(), Random(1)
    for _ in range(12):
        text = rng.randrange(100, 3000)
        estimate.learn(text, 0, 0, round(text * true * rng.lognormvariate(0.0, 0.05)))

    assert estimate.tokens(1000) == pytest.approx(1000 * true, rel=0.1)


def test_media_have_a_ratio_of_their_own() -> None:
    """A model that makes twice as many tokens of a picture changes nothing for text."""
    estimate, rng = TokenEstimate(), Random(2)
    for _ in range(100):
        text = rng.randrange(100, 500)
        estimate.learn(text, 0, 0, round(1.2 * text))
        estimate.learn(text, 1000, 0, round(1.2 * text) + 2000)

    assert estimate.text_ratio == pytest.approx(1.2, rel=0.02)
    assert estimate.media_ratio == pytest.approx(2.0, rel=0.05)
    assert estimate.tokens(100, 1000) == pytest.approx(2120, rel=0.05)


def test_one_replica_in_four_that_counts_wrongly_moves_it_little() -> None:
    """Nor a single answer that is off by a factor of a thousand."""
    estimate, rng = TokenEstimate(), Random(3)
    for number in range(2000):
        text = rng.randrange(100, 500)
        estimate.learn(text, 0, 0, 90_000_000 if number % 4 == 0 else text)

    assert estimate.text_ratio == pytest.approx(1.0, rel=0.15)


@given(
    samples=st.lists(
        st.tuples(*[st.integers(0, 10**6)] * 3, st.integers(-(10**9), 10**12)), max_size=30
    )
)
def test_ratios_stay_within_bounds(samples: list[tuple[int, int, int, int]]) -> None:
    """Whatever engines say: between an eighth and eight times the rule."""
    estimate = TokenEstimate()
    for text, media, exact, counted in samples:
        estimate.learn(text, media, exact, counted)

    assert 0.124 < estimate.text_ratio < 8.01
    assert 0.124 < estimate.media_ratio < 8.01


def test_token_ids_are_not_estimated() -> None:
    """What is exact says nothing about text."""
    estimate = TokenEstimate()
    for _ in range(50):
        estimate.learn(0, 0, 500, 500)
        estimate.learn(3, 0, 0, 40)

    assert estimate.tokens(100) == 100
