"""When requests are better sent a few at a time.  Pure.

A step that reads a prompt is dearer for everybody who decodes in it, however little it reads: it is
launched kernel by kernel, and its attention takes longer over every sequence (on an H200, 9.8 to
16.5 ms of launching and 1.8 times the time per token of KV cache; docs/benchmarks/twin.md).  While
engines have steps without prompts, a prompt that is sent to a replica which reads none is read at
once, and that is best for all.  Where nearly every step of every replica reads one, two prompts in
one step leave another step free, and everybody decodes faster.
"""

from servekit.routing.ledger import Account

# Prompts that arrive per step of a replica from which on they are gathered: 45 % of the steps of a
# replica that takes them as they come have one then.  At 0.5 the 99th percentile of the first token
# grew by 4 % at 90 % of saturation, at 0.8 half of the gain at 110 % was lost.
PROMPTS_PER_STEP = 0.6

# A request follows the one before it where that takes at most so many times the shortest.
WITHIN = 1.2
# And no more than so many go to one replica, one after the other.
MOST = 8

# How much of each gap between two requests goes into their mean; and the longest that is one:
# after a pause the mean would need thousands of requests.
_GAP_GAIN = 0.02
_MOST_GAP_S = 1.0


class Gathering:
    """Who got the last requests, and how fast they come."""

    __slots__ = ("_account", "_gap_s", "_in_a_row", "_sent_at_s")

    def __init__(self) -> None:
        self._account: Account | None = None
        self._in_a_row = 0
        self._gap_s = _MOST_GAP_S
        self._sent_at_s = float("-inf")

    def sent(self, account: Account, now_s: float) -> None:
        """A request was sent to *account*."""
        gap_s = min(now_s - self._sent_at_s, _MOST_GAP_S)
        self._gap_s += _GAP_GAIN * (gap_s - self._gap_s)
        self._sent_at_s = now_s
        if account is self._account:
            self._in_a_row += 1
        else:
            self._account = account
            self._in_a_row = 1

    def open(self, replicas: int) -> str | None:
        """Return who of *replicas* should get the next request too; None where nobody should."""
        account = self._account
        if account is None or account.tokens_per_s is None or self._in_a_row >= MOST:
            return None
        # A step gives every running request a token, so that tokens per second are steps.
        gap_s = self._gap_s * replicas
        return account.name if PROMPTS_PER_STEP * gap_s * account.tokens_per_s < 1.0 else None
