"""Requests that engines die of, remembered so that no further engine gets them.  Pure.

A request is suspected of an engine whose connection broke, or that answered with an error, while it
had the request.  Polls tell what became of the engine: one that is gone was killed, one that
answers was not.  A request that two engines died of is refused.  A request like it that is answered
is proof of the contrary.

Rows are in memory that several processes may share; each is written whole, and a row that is lost
to a race costs one engine more.
"""

import mmap
import struct
from collections.abc import Iterator

# A restart with a model of 70B takes minutes; a client that tries again for an hour is rare.
REFUSED_S = 300.0
# Until a poll has told what became of the engine, the worst is assumed, for as long as polls take.
SUSPECTED_S = 5.0
# Engines that may die of one request.
MOST_KILLED = 2

_ROWS = 256
# hash of the request, hash of the replica, when it was seen, whether the engine is known to be gone
_ROW = struct.Struct("=QQd?7x")
# until when any row counts, and the row that is written next
_HEAD = struct.Struct("=dQ")

SIZE_BYTES = _HEAD.size + _ROWS * _ROW.size


class DeadlyRequests:
    """Which requests engines died of.

    Attributes:
        until_s: in its one place, until when any is suspected.
    """

    def __init__(self, memory: bytearray | mmap.mmap | None = None) -> None:
        """*memory* has SIZE_BYTES, all zero at first; processes may share it."""
        self._memory = bytearray(SIZE_BYTES) if memory is None else memory
        # One number: until when any row counts.
        self.until_s = memoryview(self._memory)[:8].cast("d")

    def watchful(self, now_s: float) -> bool:
        """Whether any request is suspected: requests need not be hashed otherwise."""
        return now_s < self.until_s[0]

    def suspect(self, request: int, replica: int, now_s: float) -> None:
        """The connection to *replica* broke while it had *request*."""
        for place, row in self._rows():
            if row[:2] == (request, replica):
                self._write(place, request, replica, now_s, gone=row[3])
                break
        else:
            _, next_row = _HEAD.unpack_from(self._memory)
            self._write(next_row % _ROWS, request, replica, now_s, gone=False)
            _HEAD.pack_into(self._memory, 0, 0.0, next_row + 1)
        _HEAD.pack_into(self._memory, 0, now_s + REFUSED_S, _HEAD.unpack_from(self._memory)[1])

    def gone(self, replica: int, now_s: float) -> bool:
        """A poll found *replica* gone; return whether that confirms a suspicion."""
        found = False
        for place, (request, name, at_s, gone) in self._rows():
            if name == replica and not gone and now_s - at_s < SUSPECTED_S:
                self._write(place, request, name, at_s, gone=True)
                found = True
        return found

    def alive(self, replica: int, now_s: float) -> None:
        """A poll found *replica* well: it has not died of what it was suspected to die of."""
        for place, (_, name, at_s, gone) in self._rows():
            if name == replica and not gone and at_s < now_s:
                self._write(place, 0, 0, 0.0, gone=False)

    def answered(self, request: int) -> None:
        """*request* was answered: engines do not die of it."""
        for place, row in self._rows():
            if row[0] == request:
                self._write(place, 0, 0, 0.0, gone=False)

    def is_suspected(self, request: int) -> bool:
        """Whether an answer to *request* would be news."""
        return any(row[0] == request for _, row in self._rows())

    def refused_for_s(self, request: int, now_s: float) -> float:
        """Return for how many seconds *request* is refused yet; 0.0 where it is not."""
        since_s = [
            at_s
            for _, (seen, _, at_s, gone) in self._rows()
            if seen == request and now_s - at_s < (REFUSED_S if gone else SUSPECTED_S)
        ]
        if len(since_s) < MOST_KILLED:
            return 0.0
        return max(0.0, max(since_s) + REFUSED_S - now_s)

    def _rows(self) -> Iterator[tuple[int, tuple[int, int, float, bool]]]:
        for place in range(_ROWS):
            row = _ROW.unpack_from(self._memory, _HEAD.size + place * _ROW.size)
            if row[0]:
                yield place, row

    def _write(self, place: int, request: int, replica: int, at_s: float, *, gone: bool) -> None:
        _ROW.pack_into(self._memory, _HEAD.size + place * _ROW.size, request, replica, at_s, gone)
