"""What the container asks of its host."""

import asyncio
import ctypes
import os
import socket
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from servekit.engine.dtype import GpuArch, read_arch_list
from servekit.errors.tree import SettingInvalid

Warn = Callable[[str], None]

# Without it no process of the same user may read our memory; an exec gives it back to children.
_PR_SET_DUMPABLE = 4

HOSTS = Path("/etc/hosts")


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
