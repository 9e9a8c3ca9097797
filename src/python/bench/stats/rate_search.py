"""Which rate to try next, and which one held.  Pure.

The rate doubles while the limits hold, then the gap between what held and what did not is halved,
on a logarithmic scale: the answer is known to a factor, whatever its size.
"""

from collections.abc import Sequence

import msgspec

# Where what held and what did not are this close, another trial would measure noise.
_CLOSE = 1.03


class RateTrial(msgspec.Struct, frozen=True):
    """A rate that was tried.

    Attributes:
        good_share: requests that kept their limits.
        goodput: such requests per second.
        share_interval: the 95 % interval of good_share; None of few requests.
    """

    rate: float
    good_share: float
    goodput: float
    share_interval: tuple[float, float] | None = None


def next_rate(trials: Sequence[RateTrial], start: float, share: float) -> float | None:
    """Return the next rate to try; None where the answer is known well enough."""
    if not trials:
        return start
    held = highest(trials, share)
    broke = min((t.rate for t in trials if t.good_share < share), default=None)
    if broke is None:
        return max(t.rate for t in trials) * 2.0
    if held is None:
        return broke / 2.0
    if broke / held.rate <= _CLOSE:
        return None
    return float((held.rate * broke) ** 0.5)


def highest(trials: Sequence[RateTrial], share: float) -> RateTrial | None:
    """Return the trial of the highest rate that held, and below which none broke."""
    broke = min((t.rate for t in trials if t.good_share < share), default=float("inf"))
    holding = [t for t in trials if t.good_share >= share and t.rate < broke]
    return max(holding, key=lambda t: t.rate, default=None)


def search_text(trials: Sequence[RateTrial], share: float) -> str:
    """Return what *trials* say of the highest rate at which *share* of the requests are good."""
    best = highest(trials, share)
    if not trials:
        return "no rate was measured"
    if best is None:
        return "no rate met the SLO; lower --start-rate"
    broke = min((t.rate for t in trials if t.good_share < share), default=None)
    found = (
        f"{best.rate:.2f} requests/s, of which {best.good_share:.1%} met the SLO (goodput "
        f"{best.goodput:.2f}/s)"
    )
    if broke is None:
        return f"max rate: at least {found}; no rate that was tried broke the SLO"
    return f"max rate: {found}; {broke:.2f}/s broke the SLO"
