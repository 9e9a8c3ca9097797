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
import sys
from collections.abc import Iterator

# A restart with a model of 70B takes minutes; a client that tries again for an hour is rare.
REFUSED_S = 300.0
# Until a poll has told what became of the engine, the worst is assumed, for as long as polls take.
SUSPECTED_S = 5.0
# Engines that may die of one request.
MOST_KILLED = 2

_ROWS = 1024
# hash of the request, hash of the replica, when it was seen, and what is known of the engine
_ROW = struct.Struct("=QQdB7x")
# until when any row counts, and the row that is written next
_HEAD = struct.Struct("=dQ")
# It answered with an error and may be dying; its connection broke; a poll found it gone.  For how
# long each counts: an error alone does not, a break does until polls know better.
_ERROR, _BROKE, _GONE = range(3)
_COUNTS_FOR_S = (0.0, SUSPECTED_S, REFUSED_S)
# Where in a row its request and its replica are.
_REQUEST, _REPLICA = 0, 8

SIZE_BYTES = _HEAD.size + _ROWS * _ROW.size


class DeadlyRequests:
    """Which requests engines died of.

    Attributes:
        until_s: in its one place, until when any is suspected.
    """

    def __init__(self, memory: bytearray | mmap.mmap | None = None) -> None:
        """*memory* has SIZE_BYTES, all zero at first; processes may share it."""
        self._memory = bytearray(SIZE_BYTES) if memory is None else memory
        self.until_s = memoryview(self._memory)[:8].cast("d")

    def watchful(self, now_s: float) -> bool:
        """Whether any request is suspected: requests need not be hashed otherwise."""
        return now_s < self.until_s[0]

    def suspect(self, request: int, replica: int, now_s: float, *, broke: bool = True) -> None:
        """The connection to *replica* *broke* while it had *request*, or an error came of it."""
        state = _BROKE if broke else _ERROR
        for place, row in self._rows(request, _REQUEST):
            if row[1] == replica:
                self._write(place, request, replica, now_s, max(row[3], state))
                break
        else:
            _, next_row = _HEAD.unpack_from(self._memory)
            self._write(next_row % _ROWS, request, replica, now_s, state)
            _HEAD.pack_into(self._memory, 0, 0.0, next_row + 1)
        self.until_s[0] = now_s + REFUSED_S

    def gone(self, replica: int, now_s: float) -> bool:
        """A poll found *replica* gone; return whether that confirms a suspicion."""
        found = False
        for place, (request, _, at_s, state) in self._rows(replica, _REPLICA):
            if state != _GONE and now_s - at_s < SUSPECTED_S:
                self._write(place, request, replica, at_s, _GONE)
                found = True
        return found

    def alive(self, replica: int, begun_s: float) -> None:
        """A poll begun at *begun_s* found *replica* well: it had not died of anything by then."""
        for place, (_, _, at_s, state) in self._rows(replica, _REPLICA):
            if state != _GONE and at_s < begun_s:
                self._clear(place)

    def answered(self, request: int) -> None:
        """*request* was answered: engines do not die of it."""
        for place, _ in self._rows(request, _REQUEST):
            self._clear(place)

    def is_suspected(self, request: int) -> bool:
        """Whether an answer to *request* would be news."""
        return next(self._rows(request, _REQUEST), None) is not None

    def replicas_with(self, request: int) -> set[int]:
        """Return the hashes of the replicas that failed while they had *request*."""
        return {replica for _, (_, replica, _, _) in self._rows(request, _REQUEST)}

    def refused_for_s(self, request: int, now_s: float) -> float:
        """Return for how many seconds *request* is refused yet; 0.0 where it is not."""
        since_s = [
            at_s
            for _, (_, _, at_s, state) in self._rows(request, _REQUEST)
            if now_s - at_s < _COUNTS_FOR_S[state]
        ]
        if len(since_s) < MOST_KILLED:
            return 0.0
        return max(0.0, max(since_s) + REFUSED_S - now_s)

    def _rows(self, value: int, field: int) -> Iterator[tuple[int, tuple[int, int, float, int]]]:
        """Give the rows that have *value* in the field at that offset, and their places."""
        wanted, at = value.to_bytes(8, sys.byteorder), _HEAD.size
        # Memory is searched, not rows: while any request is suspected, every request is looked up.
        while (at := self._memory.find(wanted, at)) >= 0:
            place, offset = divmod(at - _HEAD.size, _ROW.size)
            if offset == field:
                yield place, _ROW.unpack_from(self._memory, at - offset)
            at += 1

    def _write(self, place: int, request: int, replica: int, at_s: float, state: int) -> None:
        start = _HEAD.size + place * _ROW.size
        _ROW.pack_into(self._memory, start, request, replica, at_s, state)

    def _clear(self, place: int) -> None:
        self._write(place, 0, 0, 0.0, _ERROR)
        if not self._memory[_HEAD.size :].strip(b"\0"):
            # Nothing is suspected any more, and nothing needs to be looked up.
            self.until_s[0] = 0.0
