"""Memory that engines of one GPU share."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.enginesim.engine import SimulatedEngine
from servekit.enginesim.sequence import EngineRequest
from servekit.enginesim.shared_memory import SharedMemory
from tests.servekit.enginesim.driving import small_engine


def _pair() -> tuple[SharedMemory, SimulatedEngine, SimulatedEngine]:
    """Two engines of 64 blocks each over memory for 80."""
    memory = SharedMemory(80 * 16.0, kept_tokens=0)
    one, two = small_engine(), small_engine()
    for engine in (one, two):
        memory.join(engine, 1.0)
    return memory, one, two


def test_idle_engine_leaves_its_memory_to_the_other() -> None:
    """What one gave back the other can have; together they never have more than there is."""
    memory, one, two = _pair()
    memory.lend(one)
    assert one.pool.total == 64

    one.submit(EngineRequest(1, 640, 1), 0.0)
    one.begin(0.0)
    memory.lend(two)

    assert memory.used_bytes <= memory.total_bytes
    assert two.pool.total >= 80 - 64


def test_waiting_engine_goes_on_when_memory_is_back() -> None:
    """A prompt that does not fit beside the other engine waits, and is not lost."""
    memory, one, two = _pair()
    memory.lend(one)
    one.submit(EngineRequest(1, 900, 30), 0.0)
    until = one.begin(0.0)
    while until is not None and one.pool.free > 10:
        until = one.begin(one.end().end_s)
    two.submit(EngineRequest(2, 800, 1), 0.0)
    memory.lend(two)
    assert two.begin(0.0) is None
    while until is not None:
        until = one.begin(one.end().end_s)

    memory.lend(two)

    assert two.begin(9.0) is not None


@given(asks=st.lists(st.tuples(st.booleans(), st.integers(1, 900)), max_size=30))
def test_engines_never_hold_more_than_there_is(asks: list[tuple[bool, int]]) -> None:
    """Whoever asks for how much, what both have mapped is within the memory of the GPU."""
    memory, one, two = _pair()
    for number, (first, tokens) in enumerate(asks):
        engine = one if first else two
        if engine.busy_until is not None:
            engine.end()
        engine.submit(EngineRequest(number, tokens, 1), 0.0)
        memory.lend(engine)
        engine.begin(0.0)

        assert memory.used_bytes <= memory.total_bytes
        assert one.pool.free >= 0
        assert two.pool.free >= 0


def test_some_free_blocks_stay_with_an_engine_that_runs() -> None:
    """As KVCached keeps some warm: 10 of the 24 that it does not hold; none once it is idle."""
    memory = SharedMemory(128 * 16.0, kept_tokens=160)
    one, two = small_engine(max_num_batched_tokens=1024), small_engine()
    for engine in (one, two):
        memory.join(engine, 1.0)
    memory.lend(one)
    one.submit(EngineRequest(1, 640, 1), 0.0)
    one.begin(0.0)

    memory.lend(two)
    # What is kept beside one that runs, is kept only while the other runs too.
    assert one.pool.total == 40
    two.submit(EngineRequest(2, 16, 5), 0.0)
    two.begin(0.0)
    one.pool.resize(64)
    memory.lend(two)
    assert one.pool.total == 50

    assert memory.used_bytes == (one.pool.total + two.pool.total) * 16.0


def test_an_engine_that_did_not_join_is_a_mistake() -> None:
    memory, _, _ = _pair()

    with pytest.raises(AssertionError, match="has not joined"):
        memory.lend(small_engine())
