"""One piece of work per key."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from build_notifier.claims import Claims


class _Fault(Exception):
    pass


def test_those_who_wait_share_a_failure() -> None:
    """100 deliveries while a webhook is down are one attempt, not a hundred in a row."""
    claims: Claims[list[int]] = Claims(list, 10)
    entered, leave = threading.Event(), threading.Event()
    attempts: list[int] = []

    def work(state: list[int]) -> bool:
        attempts.append(1)
        state.append(1)
        entered.set()
        leave.wait(10)
        raise _Fault

    with ThreadPoolExecutor(8) as pool:
        first = pool.submit(claims.once, "a", work)
        entered.wait(10)
        claim = claims._claims["a"]
        waiting = [pool.submit(claims.once, "a", work) for _ in range(7)]
        while claim.waiting < 7:
            threading.Event().wait(0.001)
        leave.set()
        errors = [task.exception(10) for task in (first, *waiting)]

    assert all(isinstance(error, _Fault) for error in errors)
    assert len(attempts) == 1


def test_what_was_done_before_a_failure_is_kept() -> None:
    """The next attempt goes on with the state of the last one."""
    claims: Claims[list[int]] = Claims(list, 10)

    def fail(state: list[int]) -> bool:
        state.append(1)
        raise _Fault

    def succeed(state: list[int]) -> bool:
        return state == [1, 1]

    for _ in range(2):
        with pytest.raises(_Fault):
            claims.once("a", fail)

    assert claims.once("a", succeed)
    assert not claims.once("a", fail)


@pytest.mark.parametrize("limit", [1, 33])
def test_the_oldest_are_forgotten(limit: int) -> None:
    """An instance that lives for months does not grow."""
    claims: Claims[list[int]] = Claims(list, limit)

    for number in range(500):
        assert claims.once(str(number), lambda _: True)

    assert len(claims._claims) <= limit + 1
    assert not claims.once("499", lambda _: True)
    assert claims.once("0", lambda _: True)
