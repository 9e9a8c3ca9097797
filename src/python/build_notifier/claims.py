"""One piece of work per key, however many ask for it at once.

Pub/Sub delivers a message again while it is worked on, and any acknowledgement counts for all of
its deliveries.  So a second delivery waits for the first and shares its outcome, failure included;
what was done before a failure is kept for the next attempt.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, TypeVar

StateT = TypeVar("StateT")


@dataclass(slots=True)
class _Claim(Generic[StateT]):
    """What is known of one key.

    Attributes:
        attempts: how many ended, well or badly.
        error: what the last of them raised.
        waiting: how many wait for the one that is under way.
    """

    state: StateT
    held: threading.Lock = field(default_factory=threading.Lock)
    attempts: int = 0
    error: Exception | None = None
    done: bool = False
    waiting: int = 0


class Claims(Generic[StateT]):
    """Remembers the last *limit* keys.  For any number of threads."""

    def __init__(self, start: Callable[[], StateT], limit: int) -> None:
        self._start = start
        self._limit = limit
        self._claims: OrderedDict[str, _Claim[StateT]] = OrderedDict()
        self._lock = threading.Lock()

    def once(self, key: str, work: Callable[[StateT], bool]) -> bool:
        """Do *work* unless it was done; return what it returns, or False where it was done before.

        *work* is given the state of *key*, which outlives an attempt that raises.

        Raises:
            Exception: as *work* raised it, here or in the attempt that this call waited for.
        """
        claim = self._claim(key)
        with self._lock:
            seen = claim.attempts
            claim.waiting += 1
        with claim.held:
            with self._lock:
                claim.waiting -= 1
            if claim.done:
                return False
            if claim.attempts != seen and claim.error is not None:
                raise claim.error
            return self._attempt(claim, work)

    def _attempt(self, claim: _Claim[StateT], work: Callable[[StateT], bool]) -> bool:
        claim.error = None
        try:
            outcome = work(claim.state)
            claim.done = True
        except Exception as error:
            claim.error = error
            raise
        finally:
            claim.attempts += 1
        return outcome

    def _claim(self, key: str) -> _Claim[StateT]:
        with self._lock:
            claim = self._claims.setdefault(key, _Claim(self._start()))
            self._claims.move_to_end(key)
            for old in [*self._claims][: max(0, len(self._claims) - self._limit)]:
                if not self._claims[old].waiting and not self._claims[old].held.locked():
                    del self._claims[old]
            return claim
