"""Time as an argument, so that a test or a simulation can bring its own."""

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Seconds that never go backwards, and a way to let them pass."""

    def now(self) -> float:
        """Return seconds since an arbitrary start."""

    async def sleep(self, seconds: float) -> None:
        """Return once *seconds* have passed.  Zero or less only yields."""


class SystemClock:
    """The machine's monotonic clock."""

    # Not a method around it: a load balancer asks ten times for each request.
    now = staticmethod(time.monotonic)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(0.0, seconds))
