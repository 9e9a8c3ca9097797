"""Run a server until it is asked to stop."""

import asyncio
import signal
from collections.abc import Awaitable, Callable

import uvloop


def run_until_stopped(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run *serve* on uvloop.  SIGTERM and SIGINT set the event that it is given; it then drains
    and returns."""
    uvloop.run(_serve(serve))


async def _serve(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(stop)
