"""Several workers that decide as one."""

import copy
import os
from random import Random

from loadbalancer.balancing.balancer import Balancer, Rules
from loadbalancer.observe.exposition import exposition
from loadbalancer.workers.shared_counts import SharedCounts
from loadbalancer.workers.shared_stats import ROOM_BYTES, SharedStats, WorkerStats, discard_worker
from loadbalancer.workers.supervisor import FIRST_PAUSE_S, LONGEST_PAUSE_S, pause_s
from servekit.routing.load_tracker import InFlight, LoadTracker, Pool


def test_worker_sees_what_another_process_has_in_flight() -> None:
    """And its own requests are not counted twice."""
    shared = SharedCounts(workers=2)
    tracker = LoadTracker(period_s=1.0)
    load = tracker.load_of("a")
    child = os.fork()
    if child == 0:
        shared.become(1)
        for _ in range(3):
            tracker.begin(load)
        shared.publish(load)
        os._exit(0)
    os.waitpid(child, 0)
    shared.become(0)
    tracker.begin(load)
    shared.publish(load)

    shared.refresh(Pool([load]))

    assert (load.in_flight, load.other_workers, load.ours) == (1, 3, 4)


def test_successor_of_a_worker_starts_from_nothing() -> None:
    """What a worker that died had in flight ended with it."""
    shared = SharedCounts(workers=2)
    load = LoadTracker(period_s=1.0).load_of("a")
    load.in_flight = 7
    shared.become(1)
    shared.publish(load)
    shared.become(1)
    shared.become(0)

    shared.refresh(Pool([load]))

    assert load.other_workers == 0


async def test_limit_holds_for_all_workers_together() -> None:
    """What one has let in, another has no room for; it is let in once there is."""
    one = SharedCounts(workers=2)
    other = copy.copy(one)
    other.become(1)
    here, there = Worker(one), Worker(other)
    guests = [Guest(here), Guest(here), Guest(there)]
    for guest in guests:
        guest.worker.room.enter(guest, now_s=5.0)
    assert [guest.held is not None for guest in guests] == [True, True, False]

    assert guests[0].held is not None
    here.balancer.ended(guests[0].held)
    there.balancer.sweep()

    assert guests[2].held is not None


class Worker:
    """One of those that share a limit of two requests for the one replica."""

    def __init__(self, shared: SharedCounts) -> None:
        rules = Rules(policy="queue", max_in_flight=2)
        self.shared = shared
        self.balancer = Balancer(rules, Random(0), lambda: 5.0, shared)
        self.load = self.balancer.add("r", "http://127.0.0.1:1", ("m",)).load
        self.room = self.balancer.services["m"].admission


class Guest:
    """Is at the replica from when it is let in."""

    def __init__(self, worker: Worker) -> None:
        self.worker = worker
        self.held: InFlight | None = None

    def admitted(self, waited_s: float) -> None:
        del waited_s
        self.held = self.worker.balancer.tracker.begin(self.worker.load)
        self.worker.shared.publish(self.worker.load)

    def turned_away(self, why: str) -> None:
        raise AssertionError(why)


def test_post_is_what_was_posted_last_and_whole() -> None:
    """One that is too long is not taken, and what was there stays."""
    shared_stats = SharedStats(workers=2)
    assert shared_stats.read(0) is None
    for message in (b"a" * 1000, b"b", b"c" * 10):
        assert shared_stats.post(0, message)

    assert shared_stats.read(0) == b"c" * 10
    assert shared_stats.read(1) is None
    assert not shared_stats.post(0, b"d" * ROOM_BYTES)
    assert shared_stats.read(0) == b"c" * 10


async def test_workers_are_added_up() -> None:
    """Counts, histograms and requests in flight; decisions are in the order they were made."""
    shared_stats = SharedStats(workers=2)
    workers = [Balancer(Rules(policy="queue"), Random(0), lambda: 5.0) for _ in range(2)]
    for number, balancer in enumerate(workers):
        replica = balancer.add("r", "http://127.0.0.1:1", ("m",))
        balancer.tracker.begin(replica.load)
        balancer.telemetry.requests["r", "done"] += 10 + number
        balancer.telemetry.refusals[503] += 1
        balancer.telemetry.ttft_s.observe(0.1)
        WorkerStats(balancer, shared_stats, number).post()

    text = exposition(WorkerStats(workers[0], shared_stats, 0).snapshot()).decode()

    assert 'servekit_lb_requests_total{outcome="done",replica="r"} 21.0' in text
    assert 'servekit_lb_refusals_total{status="503"} 2.0' in text
    assert 'servekit_lb_in_flight{replica="r"} 2.0' in text
    assert "servekit_lb_ttft_seconds_count 2.0" in text
    assert 'servekit_lb_breaker{replica="r"} 0.0' in text


async def test_successor_counts_on_from_what_the_dead_left() -> None:
    """And what that had in flight is in flight no more."""
    shared_stats = SharedStats(workers=2)
    dead, other, successor = (
        Balancer(Rules(policy="queue"), Random(0), lambda: 5.0) for _ in range(3)
    )
    dead.tracker.begin(dead.add("r", "http://127.0.0.1:1", ("m",)).load)
    dead.telemetry.requests["r", "done"] += 7
    dead.telemetry.refusals[404] += 3
    WorkerStats(dead, shared_stats, 0).post()
    other.add("r", "http://127.0.0.1:1", ("m",))

    discard_worker(shared_stats, 0)
    meanwhile = WorkerStats(other, shared_stats, 1).snapshot()
    WorkerStats(successor, shared_stats, 0).resume()

    assert meanwhile.requests == {("r", "done"): 7}
    assert meanwhile.replicas["r"].in_flight == 0
    assert successor.telemetry.requests["r", "done"] == 7
    assert successor.telemetry.refusals == {404: 3}


def test_pause_before_the_next_life_grows_to_a_limit() -> None:
    """A worker that dies at once is not started a hundred times a second."""
    pauses = [pause_s(deaths) for deaths in range(1, 100)]

    assert pauses[0] == FIRST_PAUSE_S
    assert pauses == sorted(pauses)
    assert pauses[-1] == LONGEST_PAUSE_S
