"""Which bytes of a file have arrived, for threads that read behind its download."""

import threading
from collections.abc import Callable

# How long a reader sleeps before it looks whether it is to stop.
_POLL_S = 0.05


class Stopped(Exception):
    """The work was asked to stop."""


class Restarted(Exception):
    """The file is fetched anew from its first byte; what was read of it is void."""


class Arrivals:
    """Written by the download's event loop, read by any number of threads.

    *on_size* is told how many bytes the file has, None where that is unknown, and how many of them
    are there already, before the first of the others is asked for; it may raise.
    """

    def __init__(self, on_size: Callable[[int | None, int], None] | None = None) -> None:
        self._on_size = on_size
        self._changed = threading.Condition()
        self._ends: list[int] = []
        self._part_bytes = 1
        self._size: int | None = None
        self._round = 0
        self.is_resumed = False

    def begin(self, size: int | None, part_bytes: int, ends: list[int]) -> None:
        """Start over with a file of *size* bytes, of whose parts *ends* says how far each is."""
        resumed = sum(end - index * part_bytes for index, end in enumerate(ends))
        if self._on_size is not None:
            self._on_size(size, resumed)
        with self._changed:
            self._round += 1
            self._size, self._part_bytes, self._ends = size, part_bytes, list(ends)
            self.is_resumed = resumed > 0
            self._changed.notify_all()

    def advance(self, index: int, end: int) -> None:
        """Note that part *index* is there up to the byte before *end*."""
        with self._changed:
            self._ends[index] = end
            self._changed.notify_all()

    def finish(self, size: int) -> None:
        """Note that all *size* bytes are there."""
        with self._changed:
            if self._round == 0:
                self._round = 1
            self._size, self._part_bytes, self._ends = size, max(size, 1), [size]
            self._changed.notify_all()

    def wait(self, offset: int, stop: threading.Event, *, since: int) -> int:
        """Return how far the file is there from *offset* on; *offset* itself at its end.  Blocks.

        Raises:
            Stopped: *stop* was set.
            Restarted: the file was begun again after round *since*.
        """
        with self._changed:
            while True:
                if stop.is_set():
                    raise Stopped
                if self._round != since:
                    raise Restarted
                end = self._end_from(offset)
                if end > offset or self._size == offset:
                    return end
                self._changed.wait(_POLL_S)

    def begun(self, stop: threading.Event) -> int:
        """Return the number of the round that is under way, once there is one.  Blocks.

        Raises:
            Stopped: *stop* was set.
        """
        with self._changed:
            while self._round == 0:
                if stop.is_set():
                    raise Stopped
                self._changed.wait(_POLL_S)
            return self._round

    @property
    def size(self) -> int | None:
        return self._size

    def _end_from(self, offset: int) -> int:
        index = offset // self._part_bytes
        end = offset
        while index < len(self._ends):
            reached = self._ends[index]
            if reached <= end and end > index * self._part_bytes:
                break
            end = max(end, reached)
            if reached < (index + 1) * self._part_bytes:
                break
            index += 1
        return end
