"""Where workers leave what they have seen for the others: a piece of shared memory for each.

Whoever dies leaves its last word there, and its successor goes on from that.
"""

import mmap
import struct
from typing import Protocol

import msgspec

from loadbalancer.observe.snapshot import Snapshot, decode, encode, merged, resume
from loadbalancer.observe.telemetry import Telemetry

# 200 decisions among 32 replicas take 150 kB; memory that is never written is never used.
ROOM_BYTES = 1 << 20

_HEADER = struct.Struct("<QII")  # how many were posted, and the length of each of the two slots
_SLOT = (ROOM_BYTES - _HEADER.size) // 2


class Board:
    """The last post of each worker.

    Each has two slots and writes into the one that is not being read; the count of posts says
    which is current, and is written last.
    """

    def __init__(self, workers: int) -> None:
        """Make the memory; processes that are forked from here on share it."""
        self.workers = workers
        self._memory = mmap.mmap(-1, workers * ROOM_BYTES)

    def post(self, worker: int, message: bytes) -> bool:
        """Leave *message*; return whether there was room."""
        if len(message) > _SLOT:
            return False
        base = worker * ROOM_BYTES
        count, *lengths = _HEADER.unpack_from(self._memory, base)
        slot = (count + 1) % 2
        lengths[slot] = len(message)
        start = base + _HEADER.size + slot * _SLOT
        self._memory[start : start + len(message)] = message
        _HEADER.pack_into(self._memory, base, count + 1, *lengths)
        return True

    def read(self, worker: int) -> bytes | None:
        """Return the last post of *worker*; None where there is none."""
        base = worker * ROOM_BYTES
        while True:
            count, *lengths = _HEADER.unpack_from(self._memory, base)
            if not count:
                return None
            start = base + _HEADER.size + count % 2 * _SLOT
            message = self._memory[start : start + lengths[count % 2]]
            if _HEADER.unpack_from(self._memory, base)[0] == count:
                return message


def bury(board: Board, worker: int) -> None:
    """*worker* has died: what it counted stays, what it had under way is over."""
    left = board.read(worker)
    if left is not None:
        board.post(worker, encode(msgspec.structs.replace(decode(left), replicas={}, waiting={})))


class Observable(Protocol):
    """What a worker counts, and what is the case there now."""

    @property
    def telemetry(self) -> Telemetry:
        """Return its counts."""

    def snapshot(self) -> Snapshot:
        """Return both as a value."""


class Together:
    """What all workers have seen, for whichever of them is asked."""

    def __init__(self, balancer: Observable, board: Board | None = None, worker: int = 0) -> None:
        """Without a *board* there is one worker."""
        self._balancer = balancer
        self._board = board
        self._worker = worker

    def resume(self) -> None:
        """Go on from where a worker that died had got."""
        left = self._board.read(self._worker) if self._board is not None else None
        if left is not None:
            resume(self._balancer.telemetry, decode(left))

    def post(self) -> None:
        """Tell the others."""
        if self._board is None:
            return
        seen = self._balancer.snapshot()
        while not self._board.post(self._worker, encode(seen)) and seen.lately:
            # Half of the decisions, the younger half, for want of room for all.
            half = seen.lately[(len(seen.lately) + 1) // 2 :]
            seen = msgspec.structs.replace(seen, lately=half)

    def snapshot(self) -> Snapshot:
        """Return what this worker has seen by now, and the others when they last said."""
        own = self._balancer.snapshot()
        if self._board is None:
            return own
        posts = (self._board.read(n) for n in range(self._board.workers) if n != self._worker)
        return merged([own, *(decode(post) for post in posts if post is not None)])
