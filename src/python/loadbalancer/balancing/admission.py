"""A bounded wait for room, per model.  Pure: time is an argument.

Engines queue too, but a request in an engine's queue can no longer be sent to another replica.
"""

from collections import deque
from collections.abc import Callable
from typing import Protocol


class Waiter(Protocol):
    """A request that may have to wait."""

    def admitted(self, waited_s: float) -> None:
        """There is room now."""

    def turned_away(self, why: str) -> None:
        """There was no room in time."""


class Admission:
    """Who is in, and who waits, first come first served.

    Attributes:
        waiting: requests that wait (count).
    """

    __slots__ = ("_has_room", "_letting_in", "_most_waiting", "_wait_s", "_waiting")

    def __init__(
        self, most_waiting: int, wait_s: float, has_room: Callable[[], bool] | None
    ) -> None:
        """*has_room* says whether a replica may get another request; None: always."""
        self._has_room = has_room
        self._most_waiting = most_waiting
        self._wait_s = wait_s
        self._waiting: deque[tuple[float, Waiter]] = deque()
        self._letting_in = False

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def enter(self, waiter: Waiter, now_s: float) -> None:
        """Let *waiter* in, now or later, or turn it away."""
        if self._has_room is None or (not self._waiting and self._has_room()):
            waiter.admitted(0.0)
        elif len(self._waiting) >= self._most_waiting:
            waiter.turned_away(f"{self._most_waiting} requests are queued already; retry later")
        else:
            self._waiting.append((now_s, waiter))

    def give_up(self, waiter: Waiter) -> None:
        """*waiter* waits no longer."""
        self._waiting = deque(pair for pair in self._waiting if pair[1] is not waiter)

    def let_in(self, now_s: float) -> None:
        """Let in whom there is room for."""
        # Who is let in may leave at once, where no replica is left to ask.  Letting in the next one
        # from there would nest them, a thousand deep.
        if not self._waiting or self._letting_in or self._has_room is None:
            return
        self._letting_in = True
        try:
            while self._waiting and self._has_room():
                since_s, waiter = self._waiting.popleft()
                waiter.admitted(now_s - since_s)
        finally:
            self._letting_in = False

    def dismiss(self, why: str) -> None:
        """Refuse all queued requests: there will never be room."""
        while self._waiting:
            self._waiting.popleft()[1].turned_away(why)

    def expire(self, now_s: float) -> None:
        """Refuse requests that have waited for too long."""
        while self._waiting and now_s - self._waiting[0][0] > self._wait_s:
            _, waiter = self._waiting.popleft()
            waiter.turned_away(f"not admitted within {self._wait_s:g} s; retry later")
