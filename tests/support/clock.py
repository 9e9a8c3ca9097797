"""A clock that a test moves."""

import asyncio


class FakeClock:
    """`sleep()` advances the time at once and lets other tasks run."""

    def __init__(self, now: float = 0.0) -> None:
        self._now = now

    def now(self) -> float:
        return self._now

    async def sleep(self, seconds: float) -> None:
        self.advance(max(0.0, seconds))
        await asyncio.sleep(0)

    def advance(self, seconds: float) -> None:
        self._now += seconds
