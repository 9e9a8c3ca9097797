"""What a policy decided, and why.  Pure."""

import msgspec


class Decision(msgspec.Struct, frozen=True):
    """One choice.

    Attributes:
        replica: the name of the chosen replica.
        policy: who chose.
        reason: a word for how: `least`, `tie`, `prefix`, `turn`, `unknown`, ...
        scores: every replica that was looked at, with its score; the lowest is best, None is
            unknown.  A policy that does not compare looks at one.
    """

    replica: str
    policy: str
    reason: str
    scores: tuple[tuple[str, float | None], ...]
