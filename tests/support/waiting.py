"""Wait for what another task or process does."""

import asyncio
from collections.abc import Callable


async def until(condition: Callable[[], object], timeout_s: float = 30.0) -> None:
    """Return once *condition* holds.

    Raises:
        TimeoutError: it did not within *timeout_s*.
    """
    async with asyncio.timeout(timeout_s):
        while not condition():  # noqa: ASYNC110  # a process sets no event of ours
            await asyncio.sleep(0.002)
