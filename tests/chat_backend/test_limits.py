"""Rates: laws of the bucket."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from chat_backend.failures import RateExceeded
from chat_backend.limits import MAX_CLIENTS, RateLimit


@given(
    per_minute=st.integers(1, 100),
    gaps=st.lists(st.floats(0, 30, allow_nan=False), max_size=200),
)
def test_no_client_gets_more_than_its_rate(per_minute: int, gaps: list[float]) -> None:
    """In any minute: a bucket's worth, and what flowed in meanwhile."""
    limit = RateLimit(per_minute)
    now, taken = 0.0, []
    for gap in gaps:
        now += gap
        try:
            limit.take("a", now)
        except RateExceeded:
            continue
        taken.append(now)

    for start in taken:
        assert sum(start <= moment < start + 60 for moment in taken) <= 2 * per_minute


def test_whoever_waits_as_told_is_taken() -> None:
    """The wait in the refusal is enough, and not a moment too long."""
    limit = RateLimit(6)
    for _ in range(6):
        limit.take("a", 0.0)
    with pytest.raises(RateExceeded) as refused:
        limit.take("a", 1.0)

    limit.take("a", 1.0 + refused.value.wait_s)

    with pytest.raises(RateExceeded):
        limit.take("a", 1.0 + refused.value.wait_s)


def test_clients_do_not_share() -> None:
    """One client's haste is not another's wait."""
    limit = RateLimit(1)
    limit.take("a", 0.0)

    limit.take("b", 0.0)


def test_zero_takes_everything() -> None:
    """For a backend behind a gateway that limits already."""
    limit = RateLimit(0)
    for _ in range(1000):
        limit.take("a", 0.0)


def test_clients_that_are_gone_are_forgotten() -> None:
    """Addresses are cheap to invent; memory is not."""
    limit = RateLimit(1)
    for number in range(MAX_CLIENTS + 1):
        limit.take(str(number), 0.0)

    limit.take("0", 0.0)
