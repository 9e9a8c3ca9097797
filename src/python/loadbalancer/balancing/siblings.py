"""Whether a replica answers worse than the other replicas of its model.  Pure.

A fast answer is not always a good one, and a bad answer is not always the replica's fault: a
request may be wrong, or a model be such that every engine fails.  So answers are compared: a
replica is worse when, by what was seen of it and of its siblings, the chance that its share of bad
answers is above theirs is overwhelming.  Both shares have a Beta posterior; few answers prove
little, and without answers of siblings nothing is proven.
"""

from math import exp, lgamma

# The prior of a share of bad answers: one in five, with the weight of five answers.
PRIOR_BAD, PRIOR_GOOD = 1, 4
# It is looked at after every bad answer, of every replica of a fleet.
SURE = 0.999
# Differences that are smaller are real, perhaps, and no reason to do without a replica.
LEAST_DIFFERENCE = 0.05
# Once may be chance, and twice.
LEAST_BAD = 3
# What is older than so many answers counts half: a replica may change.
WINDOW = 256


class AnswerCounts:
    """The answers of one replica for one model.

    Attributes:
        good, bad: answers (count), older ones counting less.
    """

    __slots__ = ("bad", "good")

    def __init__(self, good: int = 0, bad: int = 0) -> None:
        self.good = good
        self.bad = bad

    @property
    def total(self) -> int:
        return self.good + self.bad

    def halve(self) -> None:
        self.good //= 2
        self.bad //= 2


class SiblingComparison:
    """The answers of all replicas of one model."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts: dict[str, AnswerCounts] = {}

    def good(self, replica: str) -> None:
        """*replica* gave an answer as it should be."""
        counts = self._counts.get(replica)
        if counts is None:
            counts = self._counts[replica] = AnswerCounts()
        counts.good += 1
        if counts.good > WINDOW:
            counts.halve()

    def bad(self, replica: str) -> bool:
        """*replica* gave a bad answer; return whether it is worse than its siblings."""
        counts = self._counts.setdefault(replica, AnswerCounts())
        counts.bad += 1
        if counts.bad > WINDOW:
            counts.halve()
        return is_worse(counts, self.siblings_of(replica))

    def counts_of(self, replica: str) -> AnswerCounts:
        """Return the answers of *replica*."""
        return self._counts.get(replica) or AnswerCounts()

    def siblings_of(self, replica: str) -> AnswerCounts:
        """Return the answers of all others."""
        others = [counts for name, counts in self._counts.items() if name != replica]
        return AnswerCounts(sum(c.good for c in others), sum(c.bad for c in others))

    def forget(self, replica: str) -> None:
        """What *replica* did is no evidence any more: it was taken out, restarted or removed."""
        self._counts.pop(replica, None)


def is_worse(own: AnswerCounts, siblings: AnswerCounts) -> bool:
    """Whether a replica with *own* answers is worse than its *siblings*, beyond doubt."""
    if own.bad < LEAST_BAD or not siblings.total:
        return False
    if own.bad / own.total - siblings.bad / siblings.total < LEAST_DIFFERENCE:
        return False
    return chance_of_worse(own, siblings) > SURE


def chance_of_worse(own: AnswerCounts, siblings: AnswerCounts) -> float:
    """Return the probability that the share of bad answers is higher than the siblings'.

    The closed form for two Beta variables whose first parameter is a whole number: E. Miller,
    "Formulas for Bayesian A/B testing", 2014.
    """
    a, b = PRIOR_BAD + own.bad, PRIOR_GOOD + own.good
    c, d = PRIOR_BAD + siblings.bad, PRIOR_GOOD + siblings.good
    base = _log_beta(c, d)
    return min(
        1.0,
        sum(exp(_log_beta(c + i, b + d) - _log_beta(1 + i, b) - base) / (b + i) for i in range(a)),
    )


def _log_beta(a: float, b: float) -> float:
    return lgamma(a) + lgamma(b) - lgamma(a + b)
