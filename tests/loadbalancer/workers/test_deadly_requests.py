"""Requests that engines die of: suspected, confirmed, cleared, refused for minutes."""

import mmap

from hypothesis import given
from hypothesis import strategies as st

from loadbalancer.workers.deadly_requests import (
    REFUSED_S,
    SIZE_BYTES,
    SUSPECTED_S,
    DeadlyRequests,
)

REQUEST, ONE, OTHER = 11, 1, 2


def test_request_that_two_engines_died_of_is_refused_for_minutes() -> None:
    """Not after one; and not for ever."""
    deadly = DeadlyRequests()
    deadly.suspect(REQUEST, ONE, 10.0)
    after_one = deadly.refused_for_s(REQUEST, 10.0)
    deadly.suspect(REQUEST, OTHER, 11.0)
    assert deadly.gone(ONE, 11.1)
    assert deadly.gone(OTHER, 11.2)

    assert after_one == 0.0
    assert deadly.refused_for_s(REQUEST, 11.0 + REFUSED_S / 2) == REFUSED_S / 2
    assert deadly.refused_for_s(REQUEST, 11.0 + REFUSED_S) == 0.0
    assert not deadly.watchful(11.0 + REFUSED_S)
    assert deadly.refused_for_s(REQUEST + 1, 12.0) == 0.0


def test_engine_that_lives_on_was_not_killed() -> None:
    """A connection that broke, and a poll that was begun after that."""
    deadly = DeadlyRequests()
    deadly.suspect(REQUEST, ONE, 10.0)
    deadly.suspect(REQUEST, OTHER, 10.0)
    deadly.alive(ONE, 9.9)
    before = deadly.refused_for_s(REQUEST, 10.1)
    deadly.alive(ONE, 10.1)

    assert before > 0.0
    assert deadly.refused_for_s(REQUEST, 10.2) == 0.0


def test_request_that_is_answered_is_harmless() -> None:
    """Engines that were killed by somebody held thousands of requests like it."""
    deadly = DeadlyRequests()
    for replica in (ONE, OTHER):
        deadly.suspect(REQUEST, replica, 10.0)
        deadly.gone(replica, 10.1)
    deadly.answered(REQUEST)

    assert deadly.refused_for_s(REQUEST, 10.2) == 0.0


def test_same_engine_twice_is_one_engine() -> None:
    """It is started again, and gets the request again."""
    deadly = DeadlyRequests()
    for at_s in (10.0, 20.0):
        deadly.suspect(REQUEST, ONE, at_s)
        deadly.gone(ONE, at_s + 0.1)

    assert deadly.refused_for_s(REQUEST, 20.2) == 0.0


def test_suspicion_that_nothing_confirms_passes() -> None:
    """Replicas that were removed meanwhile are not polled any more."""
    deadly = DeadlyRequests()
    deadly.suspect(REQUEST, ONE, 10.0)
    deadly.suspect(REQUEST, OTHER, 10.0)

    assert deadly.refused_for_s(REQUEST, 10.1) > 0.0
    assert deadly.refused_for_s(REQUEST, 10.0 + SUSPECTED_S) == 0.0


def test_error_alone_kills_nothing() -> None:
    """It does once the engine is gone a moment later, as vLLM is whose core has died."""
    deadly = DeadlyRequests()
    for replica in (ONE, OTHER):
        deadly.suspect(REQUEST, replica, 10.0, broke=False)
    before = deadly.refused_for_s(REQUEST, 10.1)
    for replica in (ONE, OTHER):
        deadly.gone(replica, 10.5)

    assert before == 0.0
    assert deadly.refused_for_s(REQUEST, 11.0) > 0.0


def test_workers_share_what_they_know() -> None:
    """The second engine may have got it from another worker."""
    memory = mmap.mmap(-1, SIZE_BYTES)
    here, there = DeadlyRequests(memory), DeadlyRequests(memory)
    here.suspect(REQUEST, ONE, 10.0)
    there.suspect(REQUEST, OTHER, 10.1)

    assert here.refused_for_s(REQUEST, 10.2) > 0.0
    assert there.watchful(10.2)


@given(st.lists(st.tuples(st.integers(1, 1 << 63), st.integers(1, 1 << 63)), max_size=600))
def test_however_many_are_suspected_the_last_ones_are_known(rows: list[tuple[int, int]]) -> None:
    """Rows are used again; the memory does not grow."""
    deadly = DeadlyRequests()
    for at_s, (request, replica) in enumerate(rows):
        deadly.suspect(request, replica, float(at_s))

    assert all(deadly.is_suspected(request) for request, _ in rows[-200:])
