"""Waiting for something to serve."""

import pytest

from servekit.errors.tree import EngineNotReady
from servekit.launch.readiness import Probe, wait_until_ready
from tests.support.clock import FakeClock


def _ready_at(second: float, clock: FakeClock) -> Probe:
    async def probe() -> bool:
        return clock.now() >= second

    return probe


async def test_seconds_until_ready_are_returned() -> None:
    """A look every half second finds an engine that serves after 3 s."""
    clock = FakeClock()

    waited_s = await wait_until_ready(
        _ready_at(3.0, clock), clock=clock, timeout_s=10.0, interval_s=0.5
    )

    assert waited_s == 3.0


async def test_ready_engine_is_not_waited_for() -> None:
    """The first look comes before the first sleep."""
    clock = FakeClock()

    assert await wait_until_ready(_ready_at(0.0, clock), clock=clock, timeout_s=0.0) == 0.0


async def test_engine_that_never_serves_ends_the_wait() -> None:
    """The message says how long it was waited for."""
    clock = FakeClock()

    with pytest.raises(EngineNotReady, match="not ready after 60 s"):
        await wait_until_ready(_ready_at(1e9, clock), clock=clock, timeout_s=60.0)

    assert clock.now() == pytest.approx(60.0)


async def test_last_look_is_at_the_deadline() -> None:
    """An engine that is ready exactly then counts, though the interval would pass it."""
    clock = FakeClock()

    waited_s = await wait_until_ready(
        _ready_at(5.0, clock), clock=clock, timeout_s=5.0, interval_s=3.0
    )

    assert waited_s == 5.0
