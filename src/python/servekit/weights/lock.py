"""One process at a time."""

import fcntl
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

from servekit.timing.clock import Clock
from servekit.weights.progress import ProgressReporter

_POLL_S = 0.25
_REMIND_S = 30.0


@asynccontextmanager
async def locked(path: Path, *, clock: Clock, report: ProgressReporter) -> AsyncIterator[None]:
    """Hold the lock file *path*, waiting for whoever holds it.

    The kernel lets go of it when its holder dies, however it dies.  The file stays: to remove it
    would let two holders in, each with a file of its own.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        await _take(descriptor, path, clock, report)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def try_lock(path: Path) -> Iterator[bool]:
    """Hold the lock file *path* if it is free; yield whether it was.

    A lock file that is not there was never held.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    except OSError:
        yield False
        return
    try:
        yield _try(descriptor)
    finally:
        os.close(descriptor)


async def _take(descriptor: int, path: Path, clock: Clock, report: ProgressReporter) -> None:
    since = clock.now()
    reminded = since - _REMIND_S
    while not _try(descriptor):
        if clock.now() - reminded >= _REMIND_S:
            reminded = clock.now()
            report("waiting for another process", lock=str(path), since_s=round(reminded - since))
        await clock.sleep(_POLL_S)


def _try(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
