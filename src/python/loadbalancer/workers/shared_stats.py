"""Where workers leave what they have seen for the others: a piece of shared memory for each.

A dead worker's last snapshot is inherited by its replacement.
"""

import mmap
import struct
from typing import Protocol

import msgspec

from loadbalancer.observe.snapshot import StatsSnapshot, decode, encode, merged, resume
from loadbalancer.observe.telemetry import TrafficStats

# 200 decisions among 32 replicas take 150 kB; memory that is never written is never used.
ROOM_BYTES = 1 << 20

_HEADER = struct.Struct("<QII")  # how many were posted, and the length of each of the two slots
_SLOT = (ROOM_BYTES - _HEADER.size) // 2


class SharedStats:
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


def discard_worker(shared_stats: SharedStats, worker: int) -> None:
    """*worker* has died: what it counted stays, what it had under way is over."""
    left = shared_stats.read(worker)
    if left is not None:
        shared_stats.post(
            worker, encode(msgspec.structs.replace(decode(left), replicas={}, waiting={}))
        )


class Observable(Protocol):
    """What a worker counts, and what is the case there now."""

    @property
    def telemetry(self) -> TrafficStats:
        """Return its counts."""

    def snapshot(self) -> StatsSnapshot:
        """Return both as a value."""


class WorkerStats:
    """What all workers have seen, for whichever of them is asked."""

    def __init__(
        self, balancer: Observable, shared_stats: SharedStats | None = None, worker: int = 0
    ) -> None:
        """Without a *shared_stats* there is one worker."""
        self._balancer = balancer
        self._shared_stats = shared_stats
        self._worker = worker

    def resume(self) -> None:
        """Go on from where a worker that died had got."""
        left = self._shared_stats.read(self._worker) if self._shared_stats is not None else None
        if left is not None:
            resume(self._balancer.telemetry, decode(left))

    def post(self) -> None:
        """Tell the others."""
        if self._shared_stats is None:
            return
        seen = self._balancer.snapshot()
        while not self._shared_stats.post(self._worker, encode(seen)) and seen.lately:
            # Half of the decisions, the younger half, for want of room for all.
            half = seen.lately[(len(seen.lately) + 1) // 2 :]
            seen = msgspec.structs.replace(seen, lately=half)

    def snapshot(self) -> StatsSnapshot:
        """Return what this worker has seen by now, and the others when they last said."""
        own = self._balancer.snapshot()
        if self._shared_stats is None:
            return own
        posts = (
            self._shared_stats.read(n)
            for n in range(self._shared_stats.workers)
            if n != self._worker
        )
        return merged([own, *(decode(post) for post in posts if post is not None)])
