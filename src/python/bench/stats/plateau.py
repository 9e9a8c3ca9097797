"""Ramp, plateau and tail of a load, and the rates of its plateau.  Pure.

An upstream that is empty when the load starts completes little at first, and one that gets no more
requests completes the rest at its leisure.  A rate over all of it is wrong by the share of both:
ten requests a second with answers of eight seconds would read as two.  So rates are those of the
plateau between ramp and tail.

Where the requests of the start have ended, completions no longer show that there was a start; and
they do not show that the load has ended until requests that were not sent any more would have
ended.  So the ramp lasts as long as 95 % of the first requests took, and the tail begins 5 % of the
last ones' times after the last was sent.  What else changes, a cold cache or a machine that warms
up, is found as a change point: where completions per bin before it differ most, beyond chance,
from those after it.
"""

import math
from collections.abc import Iterable, Sequence

import msgspec
import numpy as np

from bench.loadgen.record import Record
from bench.stats.estimators import Floats

# The first and the last requests: a tenth of all, and not fewer than these.
_WAVE_SHARE = 0.1
_LEAST_WAVE = 10

# A plateau has so many completions at least, and lasts so long a share of the load.
_LEAST_COMPLETED = 12
_LEAST_SHARE = 0.25

# Bins hold about so many completions; fewer bins than the least cannot show a ramp.
_PER_BIN = 5
_MOST_BINS = 60
_LEAST_BINS = 6

# Standard errors by which a head must differ from the rest to be a ramp.
_BEYOND_CHANCE = 4.0


class Stretch(msgspec.Struct, frozen=True):
    """A stretch of time; what ends at its very start is not in it, what ends at its end is."""

    start_s: float
    end_s: float

    @property
    def length_s(self) -> float:
        return self.end_s - self.start_s

    def holds(self, at_s: float) -> bool:
        return self.start_s < at_s <= self.end_s


def plateau_of(records: Sequence[Record]) -> Stretch | None:
    """Return when the completions of *records*, which are of one stretch of load, were steady.

    None where they never were: too few, or answers as long as the load, or rates that kept
    changing.
    """
    done = sorted((one for one in records if one.ok), key=lambda one: one.sent_s)
    if len(done) < _LEAST_COMPLETED:
        return None
    begin_s, end_s = _sent_span(records)
    size = max(_LEAST_WAVE, round(len(done) * _WAVE_SHARE))
    ramp_s = float(np.quantile([r.last_token_s - r.sent_s for r in done[:size]], 0.95))
    held_s = float(np.quantile([r.last_token_s - r.sent_s for r in done[-size:]], 0.05))
    found = _settled(done, Stretch(begin_s + ramp_s, end_s + held_s))
    if found is None or found.length_s < _LEAST_SHARE * (end_s - begin_s):
        return None
    return found if sum(found.holds(r.last_token_s) for r in done) >= _LEAST_COMPLETED else None


def _sent_span(records: Iterable[Record]) -> tuple[float, float]:
    """Return when the first and the last of *records* were sent."""
    sent_s = [one.sent_s for one in records]
    return min(sent_s), max(sent_s)


def _settled(done: Sequence[Record], within: Stretch) -> Stretch | None:
    """Return *within* less what is still changing at its ends; None if that is half of it."""
    if within.length_s <= 0.0:
        return None
    ended_s = np.sort([one.last_token_s for one in done if within.holds(one.last_token_s)])
    n_bins = min(_MOST_BINS, len(ended_s) // _PER_BIN)
    if n_bins < _LEAST_BINS:
        return within
    edges = np.linspace(within.start_s, within.end_s, n_bins + 1)
    # A bin holds what ends at its end, as a stretch does.
    counts = np.diff(np.searchsorted(ended_s, edges, side="right")).astype(np.float64)
    head, tail = _ramp(counts), _ramp(counts[::-1])
    if head is None or tail is None or head + tail > n_bins // 2:
        return None
    middle = (head + n_bins - tail) // 2
    halves = counts[head:middle], counts[middle : n_bins - tail]
    if _change(*halves) > _BEYOND_CHANCE:
        return None
    return Stretch(float(edges[head]), float(edges[n_bins - tail]))


def _ramp(counts: Floats) -> int | None:
    """Return how many bins at the start belong to a ramp; None where it takes half of them."""
    half = len(counts) // 2
    changes = [_change(counts[:cut], counts[cut:]) for cut in range(1, half + 1)]
    cut = int(np.argmax(changes)) + 1
    if changes[cut - 1] < _BEYOND_CHANCE:
        return 0
    return None if cut == half else cut


def _change(head: Floats, rest: Floats) -> float:
    """By how many standard errors two stretches differ in completions per bin."""
    # However even a few counts may look, they vary as those of a Poisson process do.
    spread = max(float(np.var(rest)), float(np.mean(rest)), 1e-9)
    error = math.sqrt(spread * (1.0 / len(head) + 1.0 / len(rest)))
    return float(abs(np.mean(head) - np.mean(rest))) / error


def by_part(records: Iterable[Record]) -> list[list[Record]]:
    """Return *records* by arm and part: stretches of load without a pause."""
    stretches: dict[tuple[str, int], list[Record]] = {}
    for one in records:
        stretches.setdefault((one.arm, one.part), []).append(one)
    return list(stretches.values())


class Rates(msgspec.Struct, frozen=True, kw_only=True):
    """What an upstream completed in a second.

    Throughput and goodput are of the same requests and the same seconds, so that goodput never
    exceeds throughput: those whose last token came in the plateau of their part.

    Attributes:
        reached: whether there is a plateau.  Without one, everything from the first request sent to
            the last token counts, ramp and tail included.
        seconds: how long that is.
        completed, good, tokens: requests that were answered, those of them within the SLO, and
            the output tokens of all that were answered; None where some were not counted.
        sent_per_s: requests sent, over the time in which they were.
    """

    reached: bool
    seconds: float
    completed: int
    good: int
    tokens: int | None
    sent_per_s: float | None

    @property
    def request_throughput(self) -> float | None:
        return self._per_second(self.completed)

    @property
    def goodput(self) -> float | None:
        return self._per_second(self.good)

    @property
    def token_throughput(self) -> float | None:
        return self._per_second(self.tokens)

    def _per_second(self, count: int | None) -> float | None:
        return None if count is None or self.seconds <= 0.0 else count / self.seconds


def rates(records: Sequence[Record], good: Iterable[bool]) -> Rates:
    """Return the rates of one arm's *records*; *good* says of each whether it met the SLO.

    Plateaus of several parts count together, and a part without one does not count, unless none
    has one.
    """
    is_good = {id(one): met for one, met in zip(records, good, strict=True)}
    parts = by_part(records)
    plateaus = [(own, plateau_of(own)) for own in parts]
    steady = [(own, within) for own, within in plateaus if within is not None]
    chosen = steady or [(own, _all_of(own)) for own in parts]
    counted = [one for own, within in chosen for one in own if one.ok and _in(one, within)]
    tokens = [one.completion_tokens for one in counted]
    return Rates(
        reached=bool(steady),
        seconds=sum(within.length_s for _, within in chosen),
        completed=len(counted),
        good=sum(is_good[id(one)] for one in counted),
        tokens=None if None in tokens else sum(n for n in tokens if n is not None),
        sent_per_s=_sent_rate(parts),
    )


# Below this share of what is sent an upstream is behind its load, and more only makes a longer
# queue; by so many standard errors of a count it must be, or it may be chance.
_BEHIND_SHARE = 0.9
_BEHIND_ERRORS = 3.0


def is_behind(found: Rates) -> bool:
    """Whether an open loop is answered slower than it asks; answers that take long are no sign of
    it, so without a plateau nothing is said."""
    if not found.reached or found.sent_per_s is None:
        return False
    due = found.sent_per_s * found.seconds
    missing = due - found.completed
    return missing > (1.0 - _BEHIND_SHARE) * due and missing > _BEHIND_ERRORS * math.sqrt(due)


def _in(one: Record, within: Stretch) -> bool:
    return within.holds(one.last_token_s)


def _all_of(records: Sequence[Record]) -> Stretch:
    """From just before the first request to the last token."""
    begin_s = min(one.sent_s for one in records)
    return Stretch(begin_s, max([begin_s, *(one.last_token_s for one in records if one.ok)]))


def _sent_rate(parts: Sequence[Sequence[Record]]) -> float | None:
    """Gaps between requests over the time that they took: two requests are one gap."""
    gaps = sum(len(own) - 1 for own in parts)
    seconds = sum(end_s - begin_s for begin_s, end_s in map(_sent_span, parts))
    return gaps / seconds if seconds > 0.0 else None
