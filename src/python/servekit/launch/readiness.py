"""Wait until something serves."""

from collections.abc import Awaitable, Callable

from servekit.errors.tree import EngineNotReady
from servekit.timing.clock import Clock

# vLLM listens only once it serves, so that a look costs a refused connection and no more.
INTERVAL_S = 0.1

Probe = Callable[[], Awaitable[bool]]


async def wait_until_ready(
    probe: Probe, *, clock: Clock, timeout_s: float, interval_s: float = INTERVAL_S
) -> float:
    """Return the seconds until *probe* first said yes.  It is asked at least once.

    Raises:
        EngineNotReady: it did not within *timeout_s*.
    """
    start_s = clock.now()
    while not await probe():
        waited_s = clock.now() - start_s
        if waited_s >= timeout_s:
            raise EngineNotReady(
                f"the engine was not ready after {waited_s:.0f} s; look at its last log lines, or "
                "give it more time"
            )
        await clock.sleep(min(interval_s, timeout_s - waited_s))
    return clock.now() - start_s
