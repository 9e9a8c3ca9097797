"""Copies of a request that nothing is known of: who waits, and for how long."""

from dataclasses import dataclass

from loadbalancer.balancing.copies import SURVIVED_S, FirstCopy, RequestCopies


@dataclass
class Copy:
    """A copy that waits."""

    went: int = 0

    def go_on(self) -> None:
        self.went += 1


def test_copies_go_on_once_one_was_answered() -> None:
    """And the next ones do not wait at all."""
    copies, waiting = RequestCopies(), Copy()
    first = copies.first[1] = FirstCopy("a", 0.0)
    first.waiting = (waiting,)

    copies.prove(1)

    assert waiting.went == 1
    assert copies.first == {}
    assert 1 in copies.answered


def test_copies_go_on_once_the_first_is_over_or_has_lived() -> None:
    """Each once, whatever comes first."""
    copies, one, two = RequestCopies(), Copy(), Copy()
    first = copies.first[1] = FirstCopy("a", 0.0)
    first.waiting = (one,)
    copies.sweep(SURVIVED_S - 0.01)
    before = one.went
    copies.sweep(SURVIVED_S)
    first.waiting = (two,)
    copies.over(1, first)
    copies.over(1, first)

    assert (before, one.went, two.went) == (0, 1, 1)


def test_what_is_remembered_is_bounded() -> None:
    """However many requests are answered."""
    copies = RequestCopies()
    for number in range(100_000):
        copies.prove(number)

    assert len(copies.answered) <= 8192
