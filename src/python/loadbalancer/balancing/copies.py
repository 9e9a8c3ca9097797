"""Copies of a request that none has been answered of yet: few engines get them.  Pure.

A request that engines die of is often sent several times at once, by clients that try again or ask
for several answers.  Until one copy has been answered, or its engine has lived with it for a while,
the next ones go to the engine that has the first; beyond a few they wait here.
"""

from typing import Protocol

# An engine that dies of a request does so when it reads it.
SURVIVED_S = 1.0
# Copies for one engine before it has shown that it lives.
MOST_COPIES = 8

_REMEMBERED = 8192


class WaitingCopy(Protocol):
    """A copy that waits."""

    def go_on(self) -> None:
        """What became of the first copy is known, or has taken long enough."""


class FirstCopy:
    """The first copy of a request, under way.

    Attributes:
        replica: the name of the one that has it.
        copies: how many have been sent there (count).
    """

    __slots__ = ("copies", "replica", "since_s", "waiting")

    def __init__(self, replica: str, since_s: float) -> None:
        self.replica = replica
        self.since_s = since_s
        self.copies = 1
        self.waiting: tuple[WaitingCopy, ...] = ()

    def survived(self, now_s: float) -> bool:
        """Whether its engine has lived with it for long enough."""
        return now_s - self.since_s >= SURVIVED_S


class RequestCopies:
    """The requests under way that nothing is known of yet, by their hash.

    Attributes:
        first: the first copy of each, while nothing came of it.
        answered: hashes of requests that were answered lately: engines do not die of them.
    """

    __slots__ = ("answered", "first")

    def __init__(self) -> None:
        self.first: dict[int, FirstCopy] = {}
        self.answered: set[int] = set()

    def prove(self, request: int) -> None:
        """*request* was answered."""
        if len(self.answered) >= _REMEMBERED:
            self.answered.clear()
        self.answered.add(request)
        first = self.first.pop(request, None)
        if first is not None and first.waiting:
            _go_on(first)

    def over(self, request: int, first: FirstCopy) -> None:
        """The first copy is over, answered or not."""
        if self.first.get(request) is first:
            del self.first[request]
        if first.waiting:
            _go_on(first)

    def sweep(self, now_s: float) -> None:
        """Let those go on whose first copy's engine has lived for long enough."""
        for first in [f for f in self.first.values() if f.waiting]:
            if first.survived(now_s):
                _go_on(first)


def _go_on(first: FirstCopy) -> None:
    waiting, first.waiting = first.waiting, ()
    for copy in waiting:
        copy.go_on()
