"""Measure arms: warm up, replay, watch ourselves, and keep what there is when stopped early."""

import asyncio
import math
import random
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime

import msgspec
import uvloop

from bench.loadgen.client_load import ClientLoadMonitor, few_collections
from bench.loadgen.progress import RunProgress
from bench.loadgen.record import Record
from bench.loadgen.replay import ArmReplay, Bodies, in_random_order
from bench.loadgen.run_result import LoadResult
from bench.loadgen.server_metrics import ServerMetricsPoller
from bench.target.arms import Arm
from bench.workload.request_bodies import PATHS, PromptBook, RequestShape
from bench.workload.schedule import Call, Part, Schedule
from servekit.cli.server import until_stopped
from servekit.client.client import Client
from servekit.client.outcome import Outcome
from servekit.timing.clock import Clock, SystemClock


class Endpoint(msgspec.Struct, frozen=True, kw_only=True):
    """How requests are sent to an arm.

    Attributes:
        path: where they go, with a query if there is one; empty for the API's usual path.
        headers: sent with every request, in place of ours of the same name.
    """

    shape: RequestShape = RequestShape()
    path: str = ""
    headers: dict[str, str] = {}
    timeout_s: float = 300.0
    api_key: str = ""

    @property
    def where(self) -> str:
        """The path that requests go to."""
        return self.path or PATHS[self.shape.api]


@dataclass(frozen=True, slots=True)
class SessionInputs:
    """What every run is given.

    Attributes:
        bodies: writes a call's body.
        stop: once set, the run ends with what it has.
    """

    bodies: Bodies
    clock: Clock
    progress: RunProgress
    endpoint: Endpoint
    stop: asyncio.Event


@dataclass(frozen=True, slots=True)
class EarlyEnd:
    """When a comparison may end before its last part.

    Attributes:
        looks: after how many parts it is looked at.
        is_sure: whether the records so far, of so many parts, show what is asked.
        most_s: after so many seconds no further part begins.
    """

    looks: Sequence[int] = ()
    is_sure: Callable[[Sequence[Record], int], bool] = lambda _, __: False
    most_s: float = math.inf


async def compare_arms(
    arms: Sequence[Arm],
    warmup: Part | None,
    parts: Sequence[Part],
    given: SessionInputs,
    *,
    drain: bool,
    prepare: Callable[[Arm], Awaitable[None]] | None = None,
    rng: random.Random,
    early: EarlyEnd = EarlyEnd(),
) -> LoadResult:
    """Replay each of *parts* against all *arms*, one after another in random order, after *warmup*
    on each of them.

    *prepare* is called before each turn of an arm, when it drains.

    With *drain*, an arm's turn starts when the other's last request has ended: for arms that share
    hardware.  Without, it starts when the other's last request is due.
    """

    async def work(session: "_Session") -> None:
        if warmup is not None:
            await _warm_up(arms, warmup, session, given)
        legs = {arm.name: session.leg(arm, session.keep) for arm in arms}
        by_name = {arm.name: arm for arm in arms}
        start_s = begin_s = given.clock.now() + _LEAD_S
        for done, part in enumerate(parts, start=1):
            for name, _ in in_random_order([part], list(legs), rng):
                given.progress.phase(f"part {part.number} of {parts[-1].number}: {name}")
                if drain and prepare is not None:
                    await prepare(by_name[name])
                    start_s = given.clock.now() + _LEAD_S
                await legs[name].replay(part, start_s)
                if drain:
                    await legs[name].drain()
                    start_s = given.clock.now() + _LEAD_S
                else:
                    start_s += part.length_s
            if given.clock.now() - begin_s > early.most_s:
                break
            if done in early.looks and done < len(parts):
                given.progress.phase(f"a look after {done} parts")
                await _drained(session)
                if await asyncio.to_thread(early.is_sure, session.records, done):
                    break
                start_s = given.clock.now() + _LEAD_S
        given.progress.phase("last responses")
        await _drained(session)

    return await _measure(arms, work, given)


async def _warm_up(
    arms: Sequence[Arm], warmup: Part, session: "_Session", given: SessionInputs
) -> None:
    """Replay *warmup* against each arm alone, to the last answer: arms may share hardware, and no
    arm's first turn starts with another's backlog."""
    for arm in arms:
        given.progress.phase(f"warm-up: {arm.name}")
        leg = session.leg(arm, lambda _: None)
        await leg.replay(warmup, given.clock.now() + _LEAD_S)
        await leg.drain()


async def _drained(session: "_Session") -> None:
    await asyncio.gather(*(leg.drain() for leg in session.legs))


async def replay_once(
    arm: Arm, part: Part, given: SessionInputs, *, start_s: float | None = None
) -> LoadResult:
    """Replay *part* against one arm, in an open loop, from *start_s* on the clock or from now."""

    async def work(session: "_Session") -> None:
        given.progress.phase(arm.name)
        leg = session.leg(arm, session.keep)
        await leg.replay(part, given.clock.now() + _LEAD_S if start_s is None else start_s)
        await leg.drain()

    return await _measure([arm], work, given, start_s)


async def keep_busy(
    arm: Arm,
    calls: Sequence[Call],
    concurrency: int,
    given: SessionInputs,
    *,
    start_s: float | None = None,
) -> LoadResult:
    """Send *calls* to one arm in a closed loop of *concurrency* users."""

    async def work(session: "_Session") -> None:
        given.progress.phase(arm.name)
        await session.leg(arm, session.keep).keep_busy(calls, concurrency)

    return await _measure([arm], work, given, start_s)


# A moment between deciding to start and the first request, so that it is not sent late.
_LEAD_S = 0.05


class _Session:
    """What is open while we measure: clients, legs, and the records so far."""

    def __init__(self, arms: Sequence[Arm], given: SessionInputs, start_s: float | None) -> None:
        self.records: list[Record] = []
        self.legs: list[ArmReplay] = []
        self.start_s = given.clock.now() if start_s is None else start_s
        self._given = given
        endpoint = given.endpoint
        self.clients = {
            arm.name: Client(
                arm.url,
                given.clock,
                timeout_s=endpoint.timeout_s,
                api_key=endpoint.api_key,
                headers=endpoint.headers,
            )
            for arm in arms
        }

    def leg(self, arm: Arm, on_record: Callable[[Record], None]) -> ArmReplay:
        client, endpoint = self.clients[arm.name], self._given.endpoint

        async def send(body: bytes, keep_text: bool) -> Outcome:
            return await client.send(
                endpoint.where, body, stream=endpoint.shape.streams, keep_text=keep_text
            )

        leg = ArmReplay(
            arm.name,
            send,
            self._given.bodies,
            self._given.clock,
            run_start_s=self.start_s,
            on_record=on_record,
        )
        self.legs.append(leg)
        return leg

    def keep(self, record: Record) -> None:
        self.records.append(record)
        self._given.progress.count(record)

    async def aclose(self) -> None:
        for leg in self.legs:
            await leg.abandon()
        for client in self.clients.values():
            await client.aclose()


async def _measure(
    arms: Sequence[Arm],
    work: Callable[[_Session], Coroutine[None, None, None]],
    given: SessionInputs,
    start_s: float | None = None,
) -> LoadResult:
    """Do *work* in a session, until it is done or *stop* is set."""
    started = datetime.now(UTC)
    session = _Session(arms, given, start_s)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(session.aclose)
        stack.enter_context(few_collections())
        monitor = await stack.enter_async_context(ClientLoadMonitor())
        watcher = ServerMetricsPoller(arms, given.clock, session.start_s)
        stack.push_async_callback(watcher.aclose)
        watching = asyncio.create_task(watcher.watch())
        stack.push_async_callback(_end, watching)
        done = await until_stopped(work(session), given.stop)
        # The last requests of a run count, too.
        await watcher.scrape()
    return LoadResult(
        records=[named(record, arms) for record in session.records],
        burden=monitor.burden,
        started=started,
        partial=not done,
        snapshots=watcher.snapshots,
    )


async def _end(watching: "asyncio.Task[None]") -> None:
    watching.cancel()
    await asyncio.gather(watching, return_exceptions=True)


def named(record: Record, arms: Sequence[Arm]) -> Record:
    """Return *record* with its replica's name, where the load balancer gave only an address."""
    replicas = next((arm.replicas for arm in arms if arm.name == record.arm), {})
    for name, url in replicas.items():
        if record.served_by and url.endswith(f"//{record.served_by}"):
            return msgspec.structs.replace(record, served_by=name)
    return record


def run_stoppable(
    work: Callable[[SessionInputs], Awaitable[LoadResult]],
    book: PromptBook,
    progress: RunProgress,
    endpoint: Endpoint,
) -> LoadResult:
    """Run *work*, which Ctrl-C and SIGTERM ask to stop; a second Ctrl-C ends it hard."""

    async def run() -> LoadResult:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()

        def ask_to_stop(number: signal.Signals) -> None:
            stop.set()
            loop.remove_signal_handler(number)

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ask_to_stop, number)
        return await work(SessionInputs(book, SystemClock(), progress, endpoint, stop))

    return uvloop.run(run())


def book_for(schedule: Schedule, endpoint: Endpoint) -> PromptBook:
    """Return what writes the bodies of *schedule* for *endpoint*."""
    return PromptBook(schedule.seed, endpoint.shape)
