"""Whether a replica may be chosen.  Pure: time is an argument.

Two witnesses: polls, which ask it on purpose, and requests, which notice first.  What it refused
for want of room (429, 503) makes it rest for as long as it asked, and is no fault.

Connections that fail, and answers that are worse than its siblings' (siblings.py), open its circuit
breaker.  When the time of an ejection is over the breaker is half open: one request is let through
on trial, and what becomes of it closes the breaker or opens it again.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

# What a replica is ejected for whose connections fail.
CONNECTION = "connection"

# A refusal without Retry-After: long enough for a few requests of a full batch to end.
DEFAULT_REST_S = 0.25


@dataclass(frozen=True, slots=True)
class HealthRules:
    """When a replica is taken out, and when it comes back.

    Attributes:
        polls_to_fail: failed polls in a row that take it out.
        faults_to_eject: failed requests in a row that take it out.
        eject_s: how long it stays out the first time; twice as long each time after, up to
            `eject_at_most_s`.
        rest_at_most_s: the longest Retry-After that is respected.
    """

    polls_to_fail: int = 3
    faults_to_eject: int = 3
    eject_s: float = 1.0
    eject_at_most_s: float = 30.0
    rest_at_most_s: float = 30.0


class Health:
    """What polls and requests said of one replica.

    Attributes:
        troubled: whether a success would change anything; the data path asks before it reports.
        ejections: how often requests took it out (count).
        ejected_for: what it was taken out for; empty once it is well again.
    """

    __slots__ = (
        "_failed_polls",
        "_faults",
        "_out_for_s",
        "_out_until_s",
        "_rest_until_s",
        "_rules",
        "_trial",
        "ejected_for",
        "ejections",
        "troubled",
    )

    def __init__(self, rules: HealthRules) -> None:
        self._rules = rules
        self._failed_polls = 0
        self._faults = 0
        self._out_until_s = float("-inf")
        self._out_for_s = 0.0
        self._rest_until_s = float("-inf")
        self._trial = False
        self.ejections = 0
        self.ejected_for = ""
        self.troubled = False

    def available(self, now_s: float) -> bool:
        """Whether it may be chosen."""
        return self.reachable and not self.ejected(now_s) and not self.resting(now_s)

    def state(self, now_s: float) -> str:
        """Return `closed`, `open` or `half-open`: what the circuit breaker does."""
        if now_s < self._out_until_s:
            return "open"
        return "half-open" if self._out_for_s else "closed"

    @property
    def reachable(self) -> bool:
        """Whether polls find it."""
        return self._failed_polls < self._rules.polls_to_fail

    def ejected(self, now_s: float) -> bool:
        """Whether failed requests took it out, or its one request on trial has not ended."""
        return now_s < self._out_until_s or self._trial

    @property
    def on_probation(self) -> bool:
        """Whether it was taken out, and has not shown yet that it is well again."""
        return self._out_for_s > 0.0

    def resting(self, now_s: float) -> bool:
        """Whether it asked to be left alone."""
        return now_s < self._rest_until_s

    def rest_s(self, now_s: float) -> float:
        """Return for how long yet it asked to be left alone, in seconds."""
        return max(0.0, self._rest_until_s - now_s)

    def poll_succeeded(self) -> bool:
        """It answered a poll; return whether it had been away."""
        away = not self.reachable
        self._failed_polls = 0
        return away

    def poll_failed(self) -> None:
        self._failed_polls += 1

    def succeeded(self) -> None:
        """It answered a request."""
        self._faults = 0
        self._out_for_s = 0.0
        self._trial = False
        self.ejected_for = ""
        self.troubled = False

    def on_trial(self, now_s: float) -> bool:
        """A request was sent; return whether it is the one that shows if it is well again."""
        if self._out_for_s and not self.ejected(now_s):
            self._trial = True
            return True
        return False

    def trial_over(self) -> None:
        """The request on trial ended, perhaps without an answer: another may be tried."""
        self._trial = False

    def failed(self, now_s: float) -> bool:
        """A request failed through its fault; return whether that takes it out."""
        self.troubled = True
        if now_s < self._out_until_s:
            # It was sent before the replica was taken out, and says nothing that is new.
            return False
        self._faults += 1
        self._trial = False
        # While it is on probation after an ejection, one more fault is enough.
        if self._faults < self._rules.faults_to_eject and not self._out_for_s:
            return False
        self._take_out(now_s, CONNECTION)
        return True

    def take_out(self, now_s: float, why: str) -> bool:
        """Its answers are bad, as *why* says; return whether it was not out already."""
        if now_s < self._out_until_s:
            return False
        self._take_out(now_s, why)
        return True

    def _take_out(self, now_s: float, why: str) -> None:
        self.troubled = True
        self._trial = False
        self.ejected_for = why
        longer = min(self._out_for_s * 2, self._rules.eject_at_most_s)
        self._out_for_s = longer or self._rules.eject_s
        self._out_until_s = now_s + self._out_for_s
        self._faults = 0
        self.ejections += 1

    def refused(self, now_s: float, retry_after_s: float) -> None:
        """It has no room, and asks to be left alone for a while."""
        self._rest_until_s = now_s + min(retry_after_s, self._rules.rest_at_most_s)


def rest_asked_s(fields: Mapping[bytes, bytes]) -> float:
    """Return for how many seconds a refusal with these headers asks to be left alone.

    Where Retry-After is a time, the refusal's own Date says what time it was there.
    """
    routable = fields.get(b"retry-after", b"")
    if routable.isdigit():
        return float(routable)
    try:
        until, now = (
            parsedate_to_datetime(value.decode("latin-1"))
            for value in (routable, fields.get(b"date", b""))
        )
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return DEFAULT_REST_S
