"""The KV cache: blocks are conserved and forgotten in vLLM's order."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from servekit.enginesim.blocks import BlockPool


def _run(pool: BlockPool, segments: list[int]) -> int:
    """Take a prompt of *segments* as an engine does; return how many of them were cached."""
    hits, _ = pool.match(segments, len(segments))
    pool.hold(segments, hits)
    pool.take((len(segments) - hits) * pool.per_segment)
    for segment in segments[hits:]:
        assert pool.publish(segment)
    return hits


def test_released_prefix_is_found_again() -> None:
    """What a finished sequence computed stays cached until its blocks are needed."""
    pool = BlockPool(10)
    _run(pool, [1, 2, 3])
    pool.release([1, 2, 3], 0)

    assert pool.free == 10
    assert pool.match([1, 2, 9], 3) == (2, 2)


def test_end_of_a_prompt_is_forgotten_before_its_beginning() -> None:
    """Blocks are freed last first, so the shared beginning outlives the tail."""
    pool = BlockPool(4)
    _run(pool, [1, 2, 3, 4])
    pool.release([1, 2, 3, 4], 0)

    pool.take(2)

    assert pool.match([1, 2, 3, 4], 4) == (2, 2)


def test_held_prefix_is_never_evicted() -> None:
    """Only blocks that nobody holds are taken, whatever is asked for."""
    pool = BlockPool(4)
    _run(pool, [1, 2])

    pool.take(2)

    assert pool.free == 0
    assert pool.match([1, 2], 2) == (2, 0)


def test_reset_is_refused_while_blocks_are_held() -> None:
    """As in vLLM, a prefix cache in use is not thrown away."""
    pool = BlockPool(4)
    _run(pool, [1])
    assert not pool.forget()

    pool.release([1], 0)

    assert pool.forget()
    assert pool.match([1], 1) == (0, 0)


def test_shrinking_takes_free_blocks_only() -> None:
    """An elastic cache gives back what nobody holds, and no more."""
    pool = BlockPool(8)
    _run(pool, [1, 2, 3])

    assert pool.resize(1) == 3
    assert pool.resize(6) == 6
    assert pool.free == 3


class PoolMachine(RuleBasedStateMachine):
    """Any order of taking, publishing and releasing conserves blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = BlockPool(40, per_segment=2)
        self.held: list[tuple[list[int], int]] = []

    @rule(first=st.integers(1, 5), length=st.integers(0, 6), own=st.integers(0, 5))
    def admit(self, first: int, length: int, own: int) -> None:
        segments = [first * 100 + position for position in range(length)]
        hits, idle = self.pool.match(segments, length)
        if (length - hits) * 2 + own + idle > self.pool.free:
            return
        self.pool.hold(segments, hits)
        self.pool.take((length - hits) * 2 + own)
        published = hits
        while published < length and self.pool.publish(segments[published]):
            published += 1
        self.held.append((segments[:published], own + (length - published) * 2))

    @precondition(lambda self: self.held)
    @rule(which=st.integers(0, 1000))
    def finish(self, which: int) -> None:
        segments, own = self.held.pop(which % len(self.held))
        self.pool.release(segments, own)

    @invariant()
    def blocks_are_conserved(self) -> None:
        """Free blocks and distinct held ones make the whole, at every moment."""
        shared = {segment for segments, _ in self.held for segment in segments}
        own = sum(own for _, own in self.held)
        assert self.pool.free + own + 2 * len(shared) == self.pool.total

    @invariant()
    def held_prefixes_are_found(self) -> None:
        """What a sequence holds, the next one can share."""
        for segments, _ in self.held:
            assert self.pool.match(segments, len(segments))[0] == len(segments)


TestPoolMachine = PoolMachine.TestCase


@given(asks=st.lists(st.integers(0, 7), max_size=30))
def test_taking_and_giving_back_in_any_sizes_loses_nothing(asks: list[int]) -> None:
    """Runs are split and joined, and their sum stays."""
    pool = BlockPool(20)
    held: list[int] = []
    for ask in asks:
        if ask <= pool.free:
            pool.take(ask)
            held.append(ask)
        elif held:
            pool.release([], held.pop(0))

    assert pool.free + sum(held) == 20
