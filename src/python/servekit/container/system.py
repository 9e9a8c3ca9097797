"""What the container asks of its host, and what the host has done to it."""

import asyncio
import ctypes
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from servekit.engine.dtype import GpuArch, read_arch_list
from servekit.errors.tree import SettingInvalid

Warn = Callable[[str], None]

# Without it no process of the same user may read our memory; an exec gives it back to children.
_PR_SET_DUMPABLE = 4

HOSTS = Path("/etc/hosts")

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")

# cgroup v1 writes "no limit" as the largest number of pages.
_NO_LIMIT = 1 << 60


def name_host(warn: Warn, hosts: Path = HOSTS, hostname: str | None = None) -> None:
    """Make our own host name resolvable: torch looks it up, and waits where nobody answers."""
    name = hostname or socket.gethostname()
    try:
        if name not in hosts.read_text().split():
            with hosts.open("a") as file:
                file.write(f"127.0.0.1 {name}\n")
    except OSError as error:
        warn(f"{hosts} could not be given the host name: {error.strerror}; it is read-only here")


async def find_arch(
    arch_list: str, warn: Warn, command: tuple[str, ...] = ("nvidia-smi",)
) -> GpuArch | None:
    """Return the GPU's compute capability, as the driver says it; else the first of *arch_list*.

    None where neither knows, as on a machine without a GPU.
    """
    seen = await _ask_driver(command)
    named = read_arch_list(arch_list)
    if seen is not None and named and seen not in named:
        warn(
            f"the GPU is {seen}, and TORCH_CUDA_ARCH_LIST says {arch_list!r}; kernels for it are "
            "compiled at start"
        )
    return seen or (named[0] if named else None)


async def _ask_driver(command: tuple[str, ...]) -> GpuArch | None:
    query = (*command, "--query-gpu=compute_cap", "--format=csv,noheader")
    try:
        process = await asyncio.create_subprocess_exec(
            *query, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
        )
    except OSError:
        return None
    said, _ = await process.communicate()
    try:
        archs = read_arch_list(said.decode("ascii", "replace"))
    except SettingInvalid:
        return None
    return archs[0] if archs and process.returncode == 0 else None


def hide_variables(names: Iterable[str]) -> None:
    """Take variables out of what /proc/PID/environ shows of this process, and out of our memory's
    reach: the engine runs as the same user, and may read what we may read.

    To be called once they were read, and before anything is started.
    """
    libc = ctypes.CDLL(None)
    libc.getenv.restype = ctypes.c_void_p
    libc.strlen.argtypes = (ctypes.c_void_p,)
    for name in names:
        # Where the kernel has put it; unsetenv would only forget the place.
        place = libc.getenv(name.encode())
        if place:
            ctypes.memset(place, ord("*"), libc.strlen(place))
        os.environ.pop(name, None)
    libc.prctl(_PR_SET_DUMPABLE, 0)


def process_age_s() -> float:
    """Return the seconds since this process was started: the interpreter's own start counts."""
    # Field 22 of proc(5)'s stat, in clock ticks since boot; the name before it may hold blanks.
    fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    started_s = int(fields[19]) / os.sysconf("SC_CLK_TCK")
    return max(0.0, time.clock_gettime(time.CLOCK_BOOTTIME) - started_s)


@dataclass(frozen=True, slots=True)
class MemoryLimit:
    """The container's cgroup.

    Attributes:
        kills: processes that the kernel has ended for lack of memory (count).
        limit: bytes; None without one.
    """

    kills: int
    limit: int | None


def read_memory_limit(own: Path = _OWN, cgroups: Path = _CGROUPS) -> MemoryLimit | None:
    """Return what the cgroup of this process says; None where there is none to read."""
    for folder, events, limit in _places(own, cgroups):
        kills = _kills(folder / events)
        if kills is not None:
            return MemoryLimit(kills, _limit(folder / limit))
    return None


def describe_memory_kill(before: MemoryLimit | None, after: MemoryLimit | None) -> str | None:
    """Return why a process is gone, if the kernel has killed one for its memory since *before*."""
    if before is None or after is None or after.kills <= before.kills:
        return None
    limit = f"{after.limit / 2**30:.3g} GiB" if after.limit is not None else "none"
    return f"out of memory: cgroup limit {limit}"


def _places(own: Path, cgroups: Path) -> Iterator[tuple[Path, str, str]]:
    """Version 2 and then 1; where a container sees its own cgroup as the root, that."""
    try:
        lines = [line.split(":", 2) for line in own.read_text().splitlines()]
    except OSError:
        return
    for number, controllers, path in lines:
        below = path.strip("/")
        if "memory" in controllers.split(","):
            v1 = ("memory.oom_control", "memory.limit_in_bytes")
            yield (cgroups / "memory" / below, *v1)
            yield (cgroups / "memory", *v1)
        elif number == "0":
            yield (cgroups / below, "memory.events", "memory.max")
            yield (cgroups, "memory.events", "memory.max")


def _kills(events: Path) -> int | None:
    try:
        said = dict(line.split() for line in events.read_text().splitlines())
        return int(said["oom_kill"])
    except (OSError, ValueError, KeyError):
        return None


def _limit(file: Path) -> int | None:
    try:
        limit = int(file.read_text())
    except (OSError, ValueError):
        return None
    return limit if limit < _NO_LIMIT else None
