"""Several workers that decide as one."""

import os

from loadbalancer.workers import SharedCounts
from servekit.routing.ledger import Ledger, Pool


def test_worker_sees_what_another_process_has_in_flight() -> None:
    """And its own requests are not counted twice."""
    shared = SharedCounts(workers=2)
    ledger = Ledger(period_s=1.0)
    account = ledger.account("a")
    child = os.fork()
    if child == 0:
        shared.become(1)
        for _ in range(3):
            ledger.begin(account)
        shared.publish(account)
        os._exit(0)
    os.waitpid(child, 0)
    shared.become(0)
    ledger.begin(account)
    shared.publish(account)

    shared.refresh(Pool([account]))

    assert (account.in_flight, account.elsewhere, account.ours) == (1, 3, 4)


def test_successor_of_a_worker_starts_from_nothing() -> None:
    """What a worker that died had in flight ended with it."""
    shared = SharedCounts(workers=2)
    account = Ledger(period_s=1.0).account("a")
    account.in_flight = 7
    shared.become(1)
    shared.publish(account)
    shared.become(1)
    shared.become(0)

    shared.refresh(Pool([account]))

    assert account.elsewhere == 0
