"""Deliveries over several instances are one report, by a bucket that they share."""

import random
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest
from google.cloud.devtools.cloudbuild_v1 import Build

from build_notifier.message import read_event
from build_notifier.notifier import Notifier
from build_notifier.report import Report
from build_notifier.shared_claims import LEASE_S, BucketClaims, ClaimHeld, ReportProgress
from servekit.errors.tree import EngineError, EngineRefused, EngineUnreachable
from tests.build_notifier.events import build, message
from tests.build_notifier.google_stand_ins import StorageStandIn, storage_stand_in


@dataclass
class World:
    """What every instance reaches.

    Attributes:
        failing: how many posts the webhook refuses yet.
    """

    storage: StorageStandIn
    now_s: float = 1_700_000_000.0
    written: list[str] = field(default_factory=list)
    posted: list[Report] = field(default_factory=list)
    analysed: list[str] = field(default_factory=list)
    failing: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def lines(self, build: Build, limit: int) -> list[str]:  # noqa: ARG002
        return ["ERROR: no space"]

    def has_report(self, project: str, key: str) -> bool:  # noqa: ARG002
        return key in self.written

    def write_report(self, report: Report) -> None:
        self.written.append(report.key)

    def explain(self, report: Report) -> str:
        self.analysed.append(report.key)
        return "The disk is full."

    def post(self, report: Report) -> None:
        with self.lock:
            if self.failing:
                self.failing -= 1
                raise EngineRefused("the webhook answers 503", status=503)
            self.posted.append(report)

    def instance(self, bucket: str = "claims/builds") -> Notifier:
        environ = {"STORAGE_EMULATOR_HOST": self.storage.url}
        claims = BucketClaims(bucket, environ, lambda: self.now_s)
        return Notifier(self, self, self, 100, 0.0, 1.0, lambda _: None, shared=claims)


@pytest.fixture(name="world")
def _world() -> Iterator[World]:
    with storage_stand_in() as storage:
        yield World(storage)


def _message(name: str = "b1") -> Build:
    return read_event({"message": message(build(id=name))})


def _deliver(instance: Notifier, build: Build) -> bool:
    """Whether the delivery was acknowledged."""
    try:
        instance.handle(build)
    except EngineError:
        return False
    return True


@pytest.mark.parametrize("instances", [1, 2, 4, 33])
def test_hundred_equal_deliveries_are_one_report(world: World, instances: int) -> None:
    """Spread over instances by chance, refused ones delivered again until all are acknowledged."""
    running = [world.instance() for _ in range(instances)]
    rng = random.Random(instances)
    left, rounds = 100, 0
    with ThreadPoolExecutor(100) as pool:
        while left and rounds < 20:
            targets = [rng.choice(running) for _ in range(left)]
            left -= sum(pool.map(lambda target: _deliver(target, _message()), targets))
            rounds += 1

    assert left == 0
    assert (len(world.posted), len(world.analysed), len(world.written)) == (1, 1, 1)


def test_work_of_an_instance_that_died_is_gone_on_with(world: World) -> None:
    """After its lease, by another one, with the analysis that was paid for."""
    dead = world.instance()
    assert dead.shared is not None
    key = "b1-FAILURE"
    progress = dead.shared.claim(key)
    progress.report = dead._report(_message())
    dead.shared.save(key, progress)
    world.analysed.clear()
    alive = world.instance()

    assert not _deliver(alive, _message())
    world.now_s += LEASE_S + 1
    assert _deliver(alive, _message())

    assert world.analysed == []
    assert world.posted[0].analysis == "The disk is full."
    assert world.posted[0].lines == ("ERROR: no space",)


def test_webhook_that_was_down_is_told_by_whichever_instance_comes_next(world: World) -> None:
    """At once: the instance that failed has given up its claim."""
    world.failing = 3
    answers = [_deliver(world.instance(), _message()) for _ in range(4)]

    assert answers == [False, False, False, True]
    assert _deliver(world.instance(), _message())
    assert (len(world.posted), len(world.analysed), len(world.written)) == (1, 1, 1)


def test_other_builds_are_not_held_up(world: World) -> None:
    """A claim is for one build in one status."""
    one, other = world.instance(), world.instance()
    assert one.shared is not None
    one.shared.claim("b1-FAILURE")

    assert _deliver(other, _message("b2"))
    assert not _deliver(other, _message("b1"))


@pytest.mark.parametrize("status", [429, 500, 503])
def test_bucket_that_fails_has_the_message_delivered_again(world: World, status: int) -> None:
    """Nothing is told before it is known that nobody else tells it."""
    world.storage.status = status

    assert not _deliver(world.instance(), _message())

    assert world.posted == []


@pytest.mark.parametrize("status", [403, 404])
def test_bucket_that_refuses_does_not_hold_a_report_up(world: World, status: int) -> None:
    """Twice is better than never; the log says that claims are not shared."""
    world.storage.status = status

    assert _deliver(world.instance(), _message())

    assert len(world.posted) == 1


def test_bucket_that_cannot_be_reached_is_tried_again() -> None:
    """As a fault that passes."""
    claims = BucketClaims("claims", {"STORAGE_EMULATOR_HOST": "http://127.0.0.1:9"}, lambda: 0.0)

    with pytest.raises(EngineUnreachable, match="cannot be reached"):
        claims.claim("b1-FAILURE")


def test_what_was_claimed_is_held_until_it_is_done(world: World) -> None:
    """Then everybody hears that it is."""
    one, other = world.instance().shared, world.instance().shared
    assert one is not None
    assert other is not None
    progress = one.claim("k")
    with pytest.raises(ClaimHeld):
        other.claim("k")

    one.save("k", ReportProgress(progress.report, is_written=True, is_done=True))

    assert other.claim("k").is_done
