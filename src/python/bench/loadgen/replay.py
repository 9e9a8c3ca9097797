"""Put load on an upstream: an open loop that keeps to its schedule, a closed one that waits.

Input and output: it sends requests, through the `Send` that it is given.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence

from bench.loadgen.record import Record, record
from bench.workload.schedule import Call, Part
from servekit.client.outcome import Outcome
from servekit.timing.clock import Clock

# Sends a call's body, which was made before the call was due.
Send = Callable[[bytes], Awaitable[Outcome]]
Body = Callable[[Call], bytes]
OnRecord = Callable[[Record], None]


# Bodies that are written ahead, and how long before a request is due that stops: a body of 8,000
# tokens takes about 0.5 ms.
_AHEAD = 64
_WRITE_TIME_S = 0.005


class ArmReplay:
    """One arm replaying one part: records of its calls, as they end."""

    def __init__(
        self,
        arm: str,
        send: Send,
        body: Body,
        clock: Clock,
        *,
        run_start_s: float,
        on_record: OnRecord,
    ) -> None:
        self.arm = arm
        self._send = send
        self._body = body
        self._clock = clock
        self._run_start_s = run_start_s
        self._on_record = on_record
        self._under_way: set[asyncio.Task[None]] = set()

    async def replay(self, part: Part, start_s: float) -> None:
        """Send the calls of *part* when they are due, the first moment being *start_s*; return
        when the last has been sent.

        An open loop: nothing that the upstream does delays a request.
        """
        ready: deque[bytes] = deque()
        to_write = iter(part.calls)
        for call in part.calls:
            due_s = start_s + call.at_s - part.start_s
            self._write_ahead(ready, to_write, due_s)
            while (ahead_s := due_s - self._clock.now()) > 0:
                await self._clock.sleep(ahead_s)
            body = ready.popleft()
            task = asyncio.create_task(self._one(call, body, part.number, due_s, part.start_s))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    def _write_ahead(self, ready: deque[bytes], to_write: Iterator[Call], due_s: float) -> None:
        """Write at least one body, and more while there is time: requests come in bursts, and the
        last of a burst must not wait for the bodies of the others."""
        while not ready or (len(ready) < _AHEAD and due_s - self._clock.now() > _WRITE_TIME_S):
            call = next(to_write, None)
            if call is None:
                return
            ready.append(self._body(call))

    async def drain(self) -> None:
        """Return once every request has ended."""
        while self._under_way:
            await asyncio.wait(self._under_way)

    async def abandon(self) -> None:
        """Cancel what is under way: it is not recorded."""
        for task in list(self._under_way):
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def keep_busy(self, calls: Iterable[Call], concurrency: int, part: int = 0) -> None:
        """Keep *concurrency* requests under way until *calls* are through.

        A closed loop: a request is due when the one before it has ended.
        """
        queue = iter(calls)
        users = [asyncio.create_task(self._user(queue, part)) for _ in range(concurrency)]
        self._under_way.update(users)
        try:
            await asyncio.gather(*users)
        finally:
            self._under_way.difference_update(users)

    async def _user(self, queue: Iterator[Call], part: int) -> None:
        for call in queue:
            body = self._body(call)
            await self._one(call, body, part, self._clock.now(), 0.0)

    async def _one(
        self, call: Call, body: bytes, part: int, due_s: float, part_start_s: float
    ) -> None:
        outcome = await self._send(body)
        self._on_record(
            record(
                call,
                outcome,
                arm=self.arm,
                part=part,
                due_s=due_s,
                part_s=call.at_s - part_start_s,
                start_s=self._run_start_s,
            )
        )


def abba(parts: Sequence[Part], arms: Sequence[str]) -> Iterator[tuple[str, Part]]:
    """Yield who replays what, in turn: A B, then B A, then A B, …

    A drift of the machine, if it is about linear, then falls on both arms alike.
    """
    for number, part in enumerate(parts):
        for arm in arms if number % 2 == 0 else reversed(arms):
            yield arm, part
