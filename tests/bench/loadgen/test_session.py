"""Runs against a real upstream on loopback, whose timing is known."""

import asyncio
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from bench.loadgen.progress import NoProgress, RunProgress
from bench.loadgen.record import Record
from bench.loadgen.run_result import LoadResult
from bench.loadgen.session import (
    EarlyEnd,
    Endpoint,
    SessionInputs,
    compare_arms,
    keep_busy,
    replay_once,
)
from bench.target.arms import Arm
from bench.target.mock_server import serve
from bench.workload.request_bodies import PromptBook
from bench.workload.schedule import Call, Part
from servekit.timing.clock import SystemClock

TTFT_S = 0.02
RNG = random.Random(1)


@asynccontextmanager
async def an_arm(name: str = "a", ttft_s: float = TTFT_S) -> AsyncIterator[Arm]:
    server = await serve(ttft_s, 0.001, 5)
    try:
        yield Arm(name=name, url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    finally:
        server.close()


def a_part(number: int, n: int, every_s: float = 0.01) -> Part:
    start_s = number * n * every_s
    calls = tuple(
        Call(at_s=start_s + i * every_s, model="m", prompt_tokens=5, output_tokens=5, blocks=(i,))
        for i in range(n)
    )
    return Part(number, start_s, n * every_s, calls)


class StopsAfter(NoProgress):
    """Asks to stop once so many requests have ended."""

    def __init__(self, requests: int, stop: asyncio.Event) -> None:
        self._left = requests
        self._stop = stop

    def count(self, record: Record) -> None:  # noqa: ARG002
        self._left -= 1
        if self._left == 0:
            self._stop.set()


def conditions(
    progress: RunProgress | None = None, stop: asyncio.Event | None = None
) -> SessionInputs:
    return SessionInputs(
        PromptBook(1),
        SystemClock(),
        progress or NoProgress(),
        Endpoint(),
        stop or asyncio.Event(),
    )


async def test_an_open_loop_sends_what_is_due_whether_or_not_it_is_answered() -> None:
    """Requests go out every 10 ms though each takes more than twice as long."""
    async with an_arm() as arm:
        measured = await replay_once(arm, a_part(0, 20), conditions())

    records = sorted(measured.records, key=lambda r: r.due_s)
    assert len(records) == 20
    assert all(r.ok for r in records)
    assert not measured.partial
    assert all(r.sent_s >= r.due_s for r in records)
    assert records[1].sent_s < records[0].end_s
    assert all(r.completion_tokens == 5 for r in records)


async def test_both_arms_are_asked_the_same() -> None:
    """Part by part, each arm gets every call of the schedule once; the warm-up is not counted."""
    async with an_arm("a") as a, an_arm("b") as b:
        parts = [a_part(number, 5) for number in (1, 2)]
        measured = await compare_arms(
            [a, b], a_part(0, 5), parts, conditions(), drain=False, rng=RNG
        )

    asked = {
        name: sorted((r.part, round(r.part_s, 6), r.conversation) for r in measured.of(name))
        for name in ("a", "b")
    }
    assert asked["a"] == asked["b"]
    assert len(asked["a"]) == 10


async def test_draining_arms_do_not_overlap() -> None:
    """For arms that share hardware: one is asked only when the other has answered everything."""
    async with an_arm("a") as a, an_arm("b") as b:
        measured = await compare_arms(
            [a, b], None, [a_part(0, 5)], conditions(), drain=True, rng=RNG
        )

    spans = sorted(
        (min(r.sent_s for r in own), max(r.end_s for r in own))
        for own in (measured.of("a"), measured.of("b"))
    )
    assert spans[0][1] <= spans[1][0]


class Phases(NoProgress):
    """Keeps the time at which each phase began."""

    def __init__(self) -> None:
        self.began: list[tuple[str, float]] = []

    def phase(self, name: str) -> None:
        self.began.append((name, SystemClock().now()))


async def test_arms_are_warmed_up_one_after_the_other() -> None:
    """Each to its last answer, before the next one's first request: arms may share hardware."""
    progress = Phases()
    async with an_arm("a", ttft_s=0.2) as a, an_arm("b") as b:
        parts = [a_part(number, 5) for number in (1, 2)]
        await compare_arms([a, b], a_part(0, 5), parts, conditions(progress), drain=False, rng=RNG)

    began = dict(progress.began)
    # Five requests in 40 ms, of which the last takes 200 ms.
    assert began["warm-up: b"] - began["warm-up: a"] >= 0.24
    assert list(began)[:2] == ["warm-up: a", "warm-up: b"]


@pytest.mark.parametrize(("sure_at", "replayed"), [(2, 2), (4, 4), (9, 6)])
async def test_a_run_ends_at_the_first_look_that_is_sure(sure_at: int, replayed: int) -> None:
    """A look has all answers of the parts before it; without one that is sure, all parts are
    replayed."""
    looked: list[int] = []

    def sure(records: Sequence[Record], done: int) -> bool:
        looked.append(done)
        assert len(records) == 2 * 5 * done
        return done >= sure_at

    async with an_arm("a") as a, an_arm("b") as b:
        measured = await compare_arms(
            [a, b],
            None,
            [a_part(number, 5) for number in range(6)],
            conditions(),
            drain=False,
            rng=RNG,
            early=EarlyEnd(looks=(2, 4, 6), is_sure=sure),
        )

    assert {r.part for r in measured.records} == set(range(replayed))
    assert looked == [look for look in (2, 4) if look <= replayed]
    assert not measured.partial


async def test_a_run_that_may_end_early_has_a_longest_time() -> None:
    """After it no further part begins."""
    async with an_arm("a") as a, an_arm("b") as b:
        measured = await compare_arms(
            [a, b],
            None,
            [a_part(number, 5) for number in range(6)],
            conditions(),
            drain=True,
            rng=RNG,
            early=EarlyEnd(most_s=0.2),
        )

    assert 1 <= len({r.part for r in measured.records}) < 4


async def test_each_turn_is_prepared_once_everything_has_ended() -> None:
    """An engine empties its prefix cache only while it is idle; the warm-up is over by then."""
    turns = []
    async with an_arm("a") as a, an_arm("b") as b:

        async def prepare(arm: Arm) -> None:
            turns.append((arm.name, asyncio.get_running_loop().time()))

        parts = [a_part(number, 5) for number in (0, 1)]
        measured = await compare_arms(
            [a, b], a_part(0, 5), parts, conditions(), drain=True, rng=RNG, prepare=prepare
        )

    names = [name for name, _ in turns]
    assert sorted(names[:2]) == sorted(names[2:]) == ["a", "b"]
    assert len(measured.records) == 20


async def test_a_closed_loop_never_has_more_under_way_than_users() -> None:
    """With three users there are at most three requests at any time, and all get done."""
    async with an_arm() as arm:
        measured = await keep_busy(arm, a_part(0, 12).calls, 3, conditions())

    edges = sorted(
        [(r.sent_s, 1) for r in measured.records] + [(r.end_s, -1) for r in measured.records]
    )
    under_way = [sum(step for _, step in edges[: i + 1]) for i in range(len(edges))]
    assert len(measured.records) == 12
    assert max(under_way) <= 3


async def test_a_stopped_run_keeps_what_it_has() -> None:
    """What had been answered is there, what was under way is not, and the run says so."""
    stop = asyncio.Event()
    async with an_arm() as arm:
        given = conditions(StopsAfter(5, stop), stop)
        measured: LoadResult = await replay_once(arm, a_part(0, 1000), given)

    assert measured.partial
    assert 5 <= len(measured.records) < 1000
    assert all(r.ok for r in measured.records)


async def test_an_upstream_that_is_gone_does_not_end_the_run(unused_tcp_port: int) -> None:
    """Every request fails under its name, and the run goes on to its end."""
    arm = Arm(name="gone", url=f"http://127.0.0.1:{unused_tcp_port}")

    measured = await replay_once(arm, a_part(0, 10), conditions())

    assert [r.error for r in measured.records] == ["refused"] * 10
