"""The GPUs that the engine may use on this node.  Asks the driver."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from servekit.engine.dtype import GpuArch, read_arch_list
from servekit.errors.tree import SettingInvalid

NVIDIA_SMI = ("nvidia-smi",)

_FIELDS = "index,uuid,name,memory.total,compute_cap"
_QUERY = (f"--query-gpu={_FIELDS}", "--format=csv,noheader,nounits")

# The container runtime leaves it, even where the driver's programs are not mounted.
_DEVICE = Path("/dev/nvidiactl")

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class NvidiaGpu:
    """One GPU, as its driver describes it.

    Attributes:
        memory_mib: all of it, whoever uses it.
        arch: None where the driver is too old to say.
    """

    index: str
    uuid: str
    name: str
    memory_mib: int
    arch: GpuArch | None


@dataclass(frozen=True, slots=True)
class VisibleGpus:
    """What was found.

    Attributes:
        gpus: those that the engine may use; empty without any.
        why_none: why there are none, for people.
    """

    gpus: tuple[NvidiaGpu, ...]
    why_none: str = ""


async def look_for_gpus(
    environ: Mapping[str, str], command: tuple[str, ...] = NVIDIA_SMI, device: Path = _DEVICE
) -> VisibleGpus:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves of those that the driver knows."""
    visible = environ.get(VISIBLE)
    if visible is not None and not _entries(visible):
        return VisibleGpus((), f"{VISIBLE} is {visible!r}, which hides every GPU")
    code, said = await _ask(command, environ)
    if code is None:
        return VisibleGpus((), f"{command[0]} is not here{_though_mounted(device)}")
    gpus = read_gpus(said) if code == 0 else ()
    if not gpus:
        return VisibleGpus((), f"{command[0]} says {_first_line(said)!r}")
    chosen = _visible(gpus, visible)
    return VisibleGpus(chosen, "" if chosen else f"{VISIBLE} is {visible!r}, which names no GPU")


def read_gpus(said: str) -> tuple[NvidiaGpu, ...]:
    """Return the GPUs in nvidia-smi's lines; a line that is none is left out.  Pure."""
    rows = [[word.strip() for word in line.split(",")] for line in said.splitlines()]
    return tuple(_gpu(row) for row in rows if len(row) == 5 and row[0].isdigit())


def _gpu(row: list[str]) -> NvidiaGpu:
    index, uuid, name, memory, capability = row
    try:
        archs = read_arch_list(capability)
    except SettingInvalid:
        archs = ()
    # A GPU that shares the host's memory (GB10) has none of its own to tell: "[N/A]".
    size = int(memory) if memory.isdigit() else 0
    return NvidiaGpu(index, uuid, name, size, archs[0] if archs else None)


def _visible(gpus: tuple[NvidiaGpu, ...], visible: str | None) -> tuple[NvidiaGpu, ...]:
    if visible is None:
        return gpus
    chosen = []
    for entry in _entries(visible):
        gpu = _named(gpus, entry)
        # CUDA takes what stands before the first entry that names nothing.
        if gpu is None:
            break
        chosen.append(gpu)
    return tuple(chosen)


def _entries(visible: str) -> list[str]:
    return [entry.strip() for entry in visible.split(",") if entry.strip()]


def _named(gpus: tuple[NvidiaGpu, ...], entry: str) -> NvidiaGpu | None:
    # A slice of a GPU: what it is cut from decides the architecture.
    if entry.startswith("MIG-"):
        return gpus[0]
    return next((g for g in gpus if entry == g.index or g.uuid.startswith(entry)), None)


async def _ask(command: tuple[str, ...], environ: Mapping[str, str]) -> tuple[int | None, str]:
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
            *_QUERY,
            env=dict(environ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError:
        return None, ""
    said, _ = await process.communicate()
    return process.returncode, said.decode("utf-8", "replace")


def _though_mounted(device: Path) -> str:
    return ", though a GPU is mounted" if device.exists() else ""


def _first_line(said: str) -> str:
    return (said.strip().splitlines() or ["nothing"])[0]
