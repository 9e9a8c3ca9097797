"""Decisions and what came of them, a line each, in a file that a simulation can replay.

Lines are handed over in memory and written by a thread: a disk that is slow or full costs lines,
which are counted, and never a request.
"""

import asyncio
import errno
import os
from collections import deque
from pathlib import Path

import msgspec
import structlog

from servekit.routing.decision import Decision
from servekit.routing.request import RouteRequest
from servekit.timing.clock import Clock

# With two files of this size a day of 5 requests a second is kept.
MOST_BYTES = 128 * 1024 * 1024
# Lines that wait to be written: some seconds of a busy load balancer.
MOST_WAITING = 20_000
# A crash loses this much.
WRITE_S = 1.0

log = structlog.get_logger()


class RouteReceipt(msgspec.Struct, frozen=True):
    """What was known of a prompt's blocks at the replica that it was sent to.

    Attributes:
        exact: blocks that are cached there, as its events say.
        approximate: blocks that it has read, as far as this load balancer knows, where its events
            are missing or not complete.
        unknown: the others, in that case.
        blocks: full blocks of the prompt.
        block_tokens: tokens of each.
    """

    exact: int
    approximate: int
    unknown: int
    blocks: int
    block_tokens: int

    def header(self) -> bytes:
        """Return it as a line of an answer's head."""
        return b"x-servekit-prefix: exact=%d, approximate=%d, unknown=%d, of=%d, tokens=%d\r\n" % (
            self.exact,
            self.approximate,
            self.unknown,
            self.blocks,
            self.block_tokens,
        )


class LoggedDecision(msgspec.Struct, frozen=True):
    """One request at one replica.  A request that was sent again stands there again.

    Attributes:
        decided_at_s: seconds since 1970.
        request: what routing saw of it; the prompt only as hashes.
        decision: the replica, the reason, and every candidate's score.
        shadow: what the shadow policy would have chosen; None where there is none.
        outcome: `done`, `failed`, `refused`, `timeout` or `client gone`.
        status: of the answer; None where its head did not come.
        ttft_s: from sending it to the first byte of the answer; None where none came.
        duration_s: from sending it to the end.
        pieces: how often something of the answer came, which of a stream is about once a token.
        answer_bytes: the length of an answer that announced one; None of a stream.
        receipt: what was known of the replica's cache; None where caches are not followed.
    """

    decided_at_s: float
    request: RouteRequest
    decision: Decision
    shadow: str | None
    outcome: str
    status: int | None
    ttft_s: float | None
    duration_s: float
    pieces: int
    answer_bytes: int | None
    receipt: RouteReceipt | None = None


_encode = msgspec.json.Encoder().encode


class DecisionLog:
    """A file of bounded size; what was in it before is kept once more as FILE.1.

    Attributes:
        epoch_s: what the clock of the load balancer lacks to seconds since 1970.
        lost: lines that could not be written (count).
    """

    def __init__(
        self,
        path: Path,
        epoch_s: float,
        most_bytes: int = MOST_BYTES,
        most_waiting: int = MOST_WAITING,
    ) -> None:
        self.epoch_s = epoch_s
        self._path = path
        self._most_bytes = most_bytes
        self._most_waiting = most_waiting
        self._waiting: deque[LoggedDecision] = deque()
        self._failing = False
        self.lost = 0

    def add(self, logged: LoggedDecision) -> None:
        """Take a line; it is written later."""
        if len(self._waiting) >= self._most_waiting:
            self.lost += 1
        else:
            self._waiting.append(logged)

    def write(self) -> None:
        """Write what waits.  What cannot be written is lost, and that is said once."""
        lines: list[bytes] = []
        while self._waiting:
            lines.append(_encode(self._waiting.popleft()) + b"\n")
        if not lines:
            return
        try:
            self._append(lines)
        except OSError as error:
            self.lost += len(lines)
            if not self._failing:
                log.warning("decision log fails", file=str(self._path), why=str(error))
            self._failing = True
            return
        if self._failing:
            log.info("decision log works again", file=str(self._path), lost=self.lost)
        self._failing = False

    async def run(self, clock: Clock) -> None:
        """Write now and then, on a thread, until cancelled; then once more."""
        try:
            while True:
                await clock.sleep(WRITE_S)
                await asyncio.to_thread(self.write)
        finally:
            self.write()

    def _append(self, lines: list[bytes]) -> None:
        """Write whole lines, or as many as there is room for on the disk."""
        size = self._path.stat().st_size if self._path.exists() else 0
        if size and size + sum(map(len, lines)) > self._most_bytes:
            self._path.replace(self._path.with_name(self._path.name + ".1"))
        with self._path.open("ab", buffering=0) as file:
            begun = file.tell()
            whole = b"".join(lines)
            if file.write(whole) != len(whole):
                # The disk is full: half a line would make the file unreadable.
                file.truncate(begun)
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
