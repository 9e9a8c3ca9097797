"""Our programs as processes of their own, with an environment that is theirs alone."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Ended:
    """How a program ended, and what it wrote."""

    code: int
    stdout: str
    stderr: str


def environ_of(**more: str) -> dict[str, str]:
    """No setting of whoever runs the tests reaches a program."""
    path = os.pathsep.join(filter(None, sys.path))
    return {"PATH": os.environ["PATH"], "HOME": "/nonexistent", "PYTHONPATH": path, **more}


async def run(
    module: str, *arguments: str, stdin: bytes = b"", environ: Mapping[str, str] | None = None
) -> Ended:
    """Run `python -m MODULE ARGUMENTS` to its end."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        env=environ_of(**environ or {}),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    stdout, stderr = await process.communicate(stdin)
    return Ended(process.returncode or 0, stdout.decode(), stderr.decode())


@asynccontextmanager
async def ready(
    module: str, arguments: Sequence[str], **environ: str
) -> AsyncIterator[tuple[dict[str, str], asyncio.subprocess.Process]]:
    """Yield what a server announces, and its process; end it afterwards."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", module, *arguments),
        env=environ_of(**environ),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        line = await asyncio.wait_for(process.stdout.readline(), 30)
        yield json.loads(line), process
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
