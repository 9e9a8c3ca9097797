"""Why a process is gone, as the container's cgroup knows it.  Reads the cgroup's files."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = Path("/proc/self/cgroup")

# cgroup v1 writes "no limit" as the largest number of pages.
_NO_LIMIT = 1 << 60


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
