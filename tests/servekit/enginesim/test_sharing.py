"""Memory that engines share, and what a start takes."""

import pytest

from servekit.enginesim.engine import Engine
from servekit.enginesim.sequence import Request
from servekit.enginesim.sharing import SharedMemory
from servekit.enginesim.startup import start_s, start_stages
from servekit.errors.tree import SettingInvalid
from tests.servekit.enginesim.driving import small_engine


def _pair() -> tuple[SharedMemory, Engine, Engine]:
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

    one.submit(Request(1, 640, 1), 0.0)
    one.begin(0.0)
    memory.lend(two)

    assert memory.used_bytes <= memory.total_bytes
    assert two.pool.total >= 80 - 64


def test_waiting_engine_goes_on_when_memory_is_back() -> None:
    """A prompt that does not fit beside the other engine waits, and is not lost."""
    memory, one, two = _pair()
    memory.lend(one)
    one.submit(Request(1, 900, 30), 0.0)
    until = one.begin(0.0)
    while until is not None and one.pool.free > 10:
        until = one.begin(one.end().end_s)
    two.submit(Request(2, 800, 1), 0.0)
    memory.lend(two)
    assert two.begin(0.0) is None
    while until is not None:
        until = one.begin(one.end().end_s)

    memory.lend(two)

    assert two.begin(9.0) is not None


def test_warm_start_is_as_long_as_it_was_measured() -> None:
    """Stages add up to the starts that were timed, within their repeats of 2 s."""
    assert start_s("empty") == pytest.approx(69.8, abs=2.0)
    assert start_s("warm") == pytest.approx(37.3, abs=2.0)
    assert start_s("plan") == pytest.approx(33.7, abs=2.0)


def test_weights_from_disk_take_their_time() -> None:
    """16 GB took 8 s where dummy weights take 1."""
    stages = {stage.name: stage.seconds for stage in start_stages("warm", 16.06e9)}

    assert stages["weights"] == pytest.approx(8.0, abs=0.1)


def test_unknown_start_is_refused() -> None:
    """The message lists what was measured."""
    with pytest.raises(SettingInvalid, match="warm"):
        start_stages("lukewarm")  # type: ignore[arg-type]
