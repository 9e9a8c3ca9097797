"""When a run that may end early is looked at, and how sure it must be then.  Pure.

Who looks at a run until it shows something errs more often than in one run of twenty.  So the looks
are planned before it starts, and share the 5 % (Bonferroni): at each of k looks a difference is
shown where p <= 0.05 / k, which is to say that k p <= 0.05.  Whenever the run ends, the chance that
any look called alike arms different is at most 5 %.
"""

from collections.abc import Sequence

# With fewer turns no p is small enough for eight metrics and six looks.
FIRST_LOOK = 12

# Each look comes when there is half as much more to see; denser ones see little that is new.
_GROWTH = 1.5


def looks_of(most_turns: int) -> tuple[int, ...]:
    """Return after how many turns of each arm a run of at most *most_turns* is looked at."""
    looks = []
    turns = float(FIRST_LOOK)
    while round(turns) < most_turns:
        looks.append(round(turns))
        turns *= _GROWTH
    return (*looks, most_turns)


def share_of(looks: Sequence[int]) -> float:
    """Return which share of the 5 % each of the planned *looks* may use, and so may a look at a run
    that was stopped between two of them; all of it where none were planned."""
    return 1.0 / len(looks) if looks else 1.0
