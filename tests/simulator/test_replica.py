"""A replica in wall time, against the same engine in virtual time."""

import asyncio
import heapq
from collections.abc import Callable
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

from servekit.enginesim.calibration import calibration_for
from servekit.enginesim.config import EngineConfig
from servekit.enginesim.engine import SimulatedEngine
from servekit.enginesim.sequence import EngineRequest
from simulator.replica import ReplicaSpec, SimulatedReplica
from tests.servekit.enginesim.driving import drive

MODEL = "meta-llama/Llama-3.1-8B-Instruct"


class MillisecondLoop:
    """As much of an event loop as a replica uses, with timers that fire on whole milliseconds."""

    def __init__(self) -> None:
        self._now = 0.0
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = 0

    def time(self) -> float:
        return self._now

    def call_at(self, when: float, callback: Callable[[], None]) -> "Timer":
        timer = Timer(callback)
        self._order += 1
        # As libuv rounds; what is due now fires on the next millisecond.
        fires = self._now + max(1, round((when - self._now) * 1e3)) / 1e3
        heapq.heappush(self._timers, (fires, self._order, timer))
        return timer

    def run_until(self, when: float) -> None:
        while self._timers and self._timers[0][0] <= when:
            self._now, _, timer = heapq.heappop(self._timers)
            if not timer.cancelled:
                timer.callback()
        self._now = when


class Timer:
    """A timer that can be cancelled."""

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback = callback
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Listener:
    """Notes when tokens came."""

    def __init__(self, loop: MillisecondLoop) -> None:
        self._loop = loop
        self.times: list[float] = []
        self.ended = False

    def token(self) -> None:
        self.times.append(self._loop.time())

    def last(self) -> None:
        self.token()
        self.ended = True

    def cut(self) -> None:
        raise AssertionError("nobody cut this")


@given(
    asks=st.lists(
        st.tuples(st.integers(0, 400), st.integers(1, 3000), st.integers(1, 60)),
        min_size=1,
        max_size=12,
    )
)
def test_wall_time_and_virtual_time_agree(asks: list[tuple[int, int, int]]) -> None:
    """The same schedule gives the same tokens at the same times, within a timer's millisecond."""
    calibration = calibration_for(MODEL)
    loop = MillisecondLoop()
    spec = ReplicaSpec("one", MODEL, 8192, calibration)
    replica = SimulatedReplica(spec, cast(asyncio.AbstractEventLoop, cast(Any, loop)))
    due = sorted((at / 1e3, prompt, output) for at, prompt, output in asks)
    listeners = []
    for at, prompt, output in due:
        loop.run_until(at)
        listeners.append(Listener(loop))
        replica.submit(prompt, (), output, "length", listeners[-1])
    loop.run_until(due[-1][0] + 60.0)

    config = EngineConfig(num_blocks=calibration.kv_cache_tokens // 16, max_model_len=8192)
    requests = [
        (at, EngineRequest(n, prompt, output)) for n, (at, prompt, output) in enumerate(due)
    ]
    twin = drive(SimulatedEngine(config, calibration.profile), requests, most=1_000_000)

    # Who comes within a timer's millisecond of a step's end is in the next step in one of the two
    # and in the one after that in the other; from then on they are two histories.
    ends = [step.end_s for step in twin.steps]
    ties = [at for at, _, _ in due if any(abs(at - end) < 0.0021 for end in ends)]
    until_s = min(ties, default=float("inf"))
    assert all(listener.ended for listener in listeners)
    for number, (listener, (_, _, output)) in enumerate(zip(listeners, due, strict=True)):
        assert len(listener.times) == output
        for ours, theirs in (
            (listener.times[0], twin.first_s[number]),
            (listener.times[-1], twin.last_s[number]),
        ):
            assert theirs > until_s - 0.0021 or abs(ours - theirs) < 0.0021
