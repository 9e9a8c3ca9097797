"""The shared memory in which KVCached keeps its usage.  Reads and removes files.

The layout is KVCached's (kvcached/cli/utils.py): three signed 64-bit numbers of bytes, in a file of
exactly that size in /dev/shm, under flock.
"""

import fcntl
import os
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from servekit.errors.tree import EngineNotReady, SettingInvalid
from servekit.timing.clock import Clock

# Where Linux keeps POSIX shared memory.
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108

_NUMBERS = struct.Struct("=3q")

# How often an engine that waits for its turn looks.
_TURN_S = 0.1


@dataclass(frozen=True, slots=True)
class SegmentUsage:
    """What one engine holds of the GPU's memory for its KV cache (bytes).

    Attributes:
        limit: most that it may take; `kvctl limit` changes it.
        used: taken by requests and cached prefixes.
        preallocated: taken in advance, for the next requests.
    """

    limit: int
    used: int
    preallocated: int


def read_usage(segment: Path) -> SegmentUsage | None:
    """Return what *segment* says; None where there is none, or it is not KVCached's."""
    try:
        with segment.open("rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            content = file.read(_NUMBERS.size + 1)
    except OSError:
        return None
    if len(content) != _NUMBERS.size:
        return None
    usage = SegmentUsage(*_NUMBERS.unpack(content))
    # The file is made before its numbers are written.
    return usage if usage.limit > 0 else None


@contextmanager
def claimed(segment: Path) -> Iterator[None]:
    """Keep the name of *segment* for one engine, and remove what an engine that was killed left.

    What is left would prove the next engine's KVCached without there being any.

    Raises:
        SettingInvalid: another engine on this host uses the name.
    """
    lock = os.open(segment.with_name(f"{segment.name}.claim"), os.O_CREAT | os.O_RDWR, 0o666)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(lock)
        raise SettingInvalid(
            f"KVCACHED_IPC_NAME is {segment.name!r}, which another engine on this host uses; give "
            "each engine a unique name"
        ) from error
    try:
        segment.unlink(missing_ok=True)
        yield
    finally:
        os.close(lock)


@asynccontextmanager
async def turn(folder: Path, clock: Clock, timeout_s: float) -> AsyncIterator[None]:
    """Wait until no other engine that shares *folder* is being proven: one GPU's memory cannot tell
    two loads apart.

    Raises:
        EngineNotReady: it took longer than *timeout_s*.
    """
    lock = os.open(folder / "kvcached.proof.claim", os.O_CREAT | os.O_RDWR, 0o666)
    give_up_s = clock.now() + timeout_s
    try:
        while not _is_locked(lock):
            if clock.now() >= give_up_s:
                raise EngineNotReady(
                    f"KVCached was not proven within {timeout_s:g} s: other engines were being "
                    "proven; raise KVCACHED_PROOF_TIMEOUT_S"
                )
            await clock.sleep(_TURN_S)
        yield
    finally:
        os.close(lock)


def _is_locked(lock: int) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
