"""Put load on an upstream: an open loop that keeps to its schedule, a closed one that waits.

Input and output: it sends requests, through the `Send` that it is given.
"""

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol

from bench.loadgen.record import Record, record
from bench.workload.schedule import Call, Part
from servekit.client.outcome import Outcome
from servekit.timing.clock import Clock

# Sends a call's body, which was made before the call was due, and keeps the answer's text or not.
Send = Callable[[bytes, bool], Awaitable[Outcome]]
OnRecord = Callable[[Record], None]


class Bodies(Protocol):
    """Writes what is sent."""

    def body(self, call: Call, said: Sequence[dict[str, Any]] = ()) -> bytes:
        """Return the body of *call*, with the messages before it in its conversation."""

    def messages(self, call: Call) -> list[dict[str, Any]]:
        """Return the messages that *call* adds to its conversation."""


# A call that is sent when it is due, and those that each follow an answer.
Turns = tuple[Call, ...]

# What a turn that could not be sent is called.
SESSION_ENDED = "session ended"


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
        bodies: Bodies,
        clock: Clock,
        *,
        run_start_s: float,
        on_record: OnRecord,
    ) -> None:
        self.arm = arm
        self._send = send
        self._bodies = bodies
        self._clock = clock
        self._run_start_s = run_start_s
        self._on_record = on_record
        self._under_way: set[asyncio.Task[None]] = set()

    async def replay(self, part: Part, start_s: float) -> None:
        """Send the calls of *part* when they are due, the first moment being *start_s*; return
        when the last has been sent.

        An open loop: nothing that the upstream does delays a request, but for the turns of a
        conversation, which follow its answers.
        """
        ready: deque[bytes] = deque()
        conversations = by_conversation(part.calls)
        to_write = iter(turns[0] for turns in conversations)
        for turns in conversations:
            due_s = start_s + turns[0].at_s - part.start_s
            self._write_ahead(ready, to_write, due_s)
            while (ahead_s := due_s - self._clock.now()) > 0:
                await self._clock.sleep(ahead_s)
            body = ready.popleft()
            work = self._converse(turns, body, part, due_s, start_s - part.start_s)
            task = asyncio.create_task(work)
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    def _write_ahead(self, ready: deque[bytes], to_write: Iterator[Call], due_s: float) -> None:
        """Write at least one body, and more while there is time: requests come in bursts, and the
        last of a burst must not wait for the bodies of the others."""
        while not ready or (len(ready) < _AHEAD and due_s - self._clock.now() > _WRITE_TIME_S):
            call = next(to_write, None)
            if call is None:
                return
            ready.append(self._bodies.body(call))

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

        A closed loop: a request is due when the one before it has ended.  A user has one
        conversation at a time.
        """
        queue = iter(by_conversation(calls))
        users = [asyncio.create_task(self._user(queue, part)) for _ in range(concurrency)]
        self._under_way.update(users)
        try:
            await asyncio.gather(*users)
        finally:
            self._under_way.difference_update(users)

    async def _user(self, queue: Iterator[Turns], number: int) -> None:
        part = Part(number, 0.0, 0.0, ())
        for turns in queue:
            body = self._bodies.body(turns[0])
            await self._converse(turns, body, part, self._clock.now(), None)

    async def _converse(
        self, turns: Turns, body: bytes, part: Part, due_s: float, zero_s: float | None
    ) -> None:
        """Send *turns*, each after the answer of the one before, and what was said with it.

        *zero_s* is when the schedule began, for turns with a time of their own; None in a closed
        loop, where they have none.  An answer that fails ends the conversation: what follows is
        recorded as not sent.
        """
        said: list[dict[str, Any]] = []
        for number, call in enumerate(turns):
            if number:
                due_s += call.delay_s or 0.0
                due_s = due_s if zero_s is None else max(due_s, zero_s + call.at_s)
                await self._clock.sleep(max(0.0, due_s - self._clock.now()))
                body = self._bodies.body(call, said if call.new_tokens else ())
            is_last = number == len(turns) - 1
            keep_text = not is_last and bool(call.new_tokens) and not call.answer
            outcome = await self._send(body, keep_text)
            self._keep(call, outcome, part, due_s)
            due_s = outcome.end_s
            if not outcome.ok:
                self._give_up(turns[number + 1 :], part, due_s)
                return
            if call.new_tokens and not is_last:
                answer = {"role": "assistant", "content": call.answer or outcome.text}
                said += [*self._bodies.messages(call), answer]

    def _give_up(self, turns: Turns, part: Part, at_s: float) -> None:
        detail = "an earlier turn of its conversation failed"
        unsent = Outcome(sent_s=at_s, end_s=at_s, error=SESSION_ENDED, detail=detail)
        for call in turns:
            self._keep(call, unsent, part, at_s)

    def _keep(self, call: Call, outcome: Outcome, part: Part, due_s: float) -> None:
        self._on_record(
            record(
                call,
                outcome,
                arm=self.arm,
                part=part.number,
                due_s=due_s,
                part_s=call.at_s - part.start_s,
                start_s=self._run_start_s,
            )
        )


def by_conversation(calls: Iterable[Call]) -> list[Turns]:
    """Return each call that is due by itself, with the turns that follow it."""
    found: list[list[Call]] = []
    last: dict[int, list[Call]] = {}
    for call in calls:
        if call.delay_s is not None and call.conversation in last:
            last[call.conversation].append(call)
        else:
            last[call.conversation] = [call]
            found.append(last[call.conversation])
    return [tuple(turns) for turns in found]


def in_random_order(
    parts: Sequence[Part], arms: Sequence[str], rng: random.Random
) -> Iterator[tuple[str, Part]]:
    """Yield who replays what, in turn: in each part all arms, in an order that chance decides.

    Whatever a machine does over time then falls on one arm or another by that chance alone, which
    is what the tests of a comparison rest on.
    """
    for part in parts:
        for arm in rng.sample(arms, len(arms)):
            yield arm, part
