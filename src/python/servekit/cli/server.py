"""Run a server, or any work, until it is asked to stop."""

import asyncio
import resource
import signal
from collections.abc import Awaitable, Callable

import uvloop

# What a container runtime allows; beyond it, programs that walk through all of them become slow.
MOST_OPEN_FILES = 1048576


def allow_open_files() -> None:
    """Let this process and its children open as many files as the host permits.

    A login shell and systemd permit 1,024 until one asks: that is some 500 clients of a relay.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < most:
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))


def run_until_stopped(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    """Run *serve* on uvloop.  SIGTERM and SIGINT set the event that it is given; it then drains
    and returns.  As many files may be open as the host permits."""
    allow_open_files()
    uvloop.run(_serve(serve))


async def _serve(serve: Callable[[asyncio.Event], Awaitable[None]]) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(stop)


async def until_stopped(work: Awaitable[object], stop: asyncio.Event) -> bool:
    """Do *work* until it is done or *stop* is set; return whether it was done.

    It has ended when this returns: by itself, or because it was cancelled.  What it raises by
    itself is raised.
    """
    working = asyncio.ensure_future(work)
    stopping = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait([working, stopping], return_when=asyncio.FIRST_COMPLETED)
        done = working.done()
        if done:
            working.result()
        return done
    finally:
        for task in (working, stopping):
            task.cancel()
        await asyncio.gather(working, stopping, return_exceptions=True)
