"""Blocking work beside an event loop, that ends when its task is cancelled."""

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


async def in_thread(work: Callable[[threading.Event], T]) -> T:
    """Run *work* in a thread; when cancelled, ask it to stop, and wait until it has.

    To leave before it ends would give up the lock while it still writes.
    """
    stop = threading.Event()
    task = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([task])
        if not task.cancelled():
            # What it raised as it stopped is of no interest; unread, it would be logged.
            task.exception()
        raise
