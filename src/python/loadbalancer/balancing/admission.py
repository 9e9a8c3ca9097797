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
        in_flight: requests that were let in and have not left.
    """

    __slots__ = (
        "_letting_in",
        "_most_waiting",
        "_other_workers",
        "_per_replica",
        "_wait_s",
        "_waiting",
        "in_flight",
    )

    def __init__(
        self,
        per_replica: int,
        most_waiting: int,
        wait_s: float,
        other_workers: Callable[[], int] = lambda: 0,
    ) -> None:
        """*per_replica* requests are let in for each replica there is; 0 is no limit.

        *other_workers* says how many other workers have let in.
        """
        self._other_workers = other_workers
        self._per_replica = per_replica
        self._most_waiting = most_waiting
        self._wait_s = wait_s
        self._waiting: deque[tuple[float, Waiter]] = deque()
        self._letting_in = False
        self.in_flight = 0

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def enter(self, waiter: Waiter, replicas: int, now_s: float) -> None:
        """Let *waiter* in, now or later, or turn it away."""
        if not self._waiting and self._has_room(replicas):
            self.in_flight += 1
            waiter.admitted(0.0)
        elif len(self._waiting) >= self._most_waiting:
            waiter.turned_away(f"{self._most_waiting} requests are queued already; retry later")
        else:
            self._waiting.append((now_s, waiter))

    def leave(self, replicas: int, now_s: float) -> None:
        """One that was in has left."""
        self.in_flight -= 1
        self.let_in(replicas, now_s)

    def give_up(self, waiter: Waiter) -> None:
        """*waiter* waits no longer."""
        self._waiting = deque(pair for pair in self._waiting if pair[1] is not waiter)

    def let_in(self, replicas: int, now_s: float) -> None:
        """Let in whom there is room for."""
        # Who is let in may leave at once, where no replica is left to ask.  Letting in the next one
        # from there would nest them, a thousand deep.
        if not self._waiting or self._letting_in:
            return
        self._letting_in = True
        try:
            while self._waiting and self._has_room(replicas):
                since_s, waiter = self._waiting.popleft()
                self.in_flight += 1
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

    def _has_room(self, replicas: int) -> bool:
        if self._per_replica == 0:
            return True
        return self.in_flight + self._other_workers() < self._per_replica * replicas
