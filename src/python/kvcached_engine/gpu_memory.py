"""How much memory of the engine's GPUs is used.  Runs nvidia-smi."""

import asyncio
import shlex
from collections.abc import Mapping

from servekit.errors.tree import EngineNotReady

NVIDIA_SMI = "nvidia-smi --query-gpu=index,uuid,memory.used --format=csv,noheader,nounits"

_MIB = 1024 * 1024
_TIMEOUT_S = 20.0


async def used_memory(command: str, environ: Mapping[str, str]) -> int:
    """Return the used bytes of the GPUs that the engine sees, all together.

    Raises:
        EngineNotReady: they cannot be read.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *shlex.split(command),
            env=dict(environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
    except OSError as error:
        raise EngineNotReady(
            f"GPU memory cannot be read: {command.split()[0]}: {error.strerror}; KVCached cannot "
            "be proven without it"
        ) from error
    try:
        out, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_S)
    except TimeoutError as error:
        process.kill()
        await process.wait()
        raise EngineNotReady(
            f"GPU memory cannot be read: {command.split()[0]} took over {_TIMEOUT_S:g} s"
        ) from error
    text = out.decode("utf-8", "replace")
    used = read_used(text, environ.get("CUDA_VISIBLE_DEVICES"))
    if process.returncode != 0 or used is None:
        raise EngineNotReady(
            f"GPU memory cannot be read: {command.split()[0]} printed {text.strip()[:200]!r}"
        )
    return used


def read_used(text: str, visible: str | None) -> int | None:
    """Return the bytes in lines `index, uuid, MiB` of the *visible* GPUs; None without any.

    *visible* is CUDA_VISIBLE_DEVICES: indices or UUIDs, which may be cut short.
    """
    wanted = None if visible is None else [name.strip() for name in visible.split(",")]
    found = []
    for line in text.splitlines():
        index, _, rest = line.partition(",")
        uuid, _, used = rest.partition(",")
        named = wanted is None or any(
            name == index.strip() or (name and uuid.strip().startswith(name)) for name in wanted
        )
        if named and used.strip().isdigit():
            found.append(int(used) * _MIB)
    return sum(found) if found else None
