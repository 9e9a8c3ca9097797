"""Work that is done until somebody asks to stop."""

import asyncio
import resource

import pytest

from servekit.cli.server import MOST_OPEN_FILES, allow_open_files, until_stopped


def test_as_many_files_may_be_open_as_the_host_permits() -> None:
    """What it allows without being asked is too few for a thousand clients."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = MOST_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, MOST_OPEN_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(soft, most) - 1, hard))
    try:
        allow_open_files()
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_work_that_is_done_is_not_waited_for() -> None:
    """Nobody has asked to stop."""
    assert await until_stopped(asyncio.sleep(0), asyncio.Event())


async def test_stop_ends_the_work_before_it_returns() -> None:
    """What the work holds is let go of: its `finally` has run to its end."""
    stop = asyncio.Event()
    left = []

    async def work() -> None:
        stop.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            left.append("let go")

    assert not await until_stopped(work(), stop)
    assert left == ["let go"]


async def test_what_the_work_raises_is_raised() -> None:
    """Also when a stop was asked for at the same moment."""
    stop = asyncio.Event()

    async def work() -> None:
        stop.set()
        raise ValueError("it broke")

    with pytest.raises(ValueError, match="it broke"):
        await until_stopped(work(), stop)


async def test_a_failure_to_stop_is_not_raised() -> None:
    """Whoever stops has what they asked for."""
    stop = asyncio.Event()

    async def work() -> None:
        stop.set()
        try:
            await asyncio.Event().wait()
        finally:
            raise ValueError("it would not be stopped")

    assert not await until_stopped(work(), stop)


async def test_work_ends_with_its_waiter() -> None:
    """Nothing goes on behind the back of a cancelled program."""
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            ended.set()

    waiting = asyncio.create_task(until_stopped(work(), asyncio.Event()))
    await begun.wait()
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert ended.is_set()
