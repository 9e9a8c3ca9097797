"""Which KVCached and vLLM the engine's command would start.  Runs its Python."""

import asyncio
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

from kvcached_engine.versions import InstalledVersions

# Reading metadata takes 0.1 s; a machine whose disk is cold takes longer.
_TIMEOUT_S = 30.0

_PROGRAM = """
import json
from importlib.metadata import PackageNotFoundError, version
found = {}
for name in ("kvcached", "vllm"):
    try:
        found[name] = version(name)
    except PackageNotFoundError:
        found[name] = None
print(json.dumps(found))
"""


async def installed_versions(
    command: Sequence[str], environ: Mapping[str, str]
) -> InstalledVersions:
    """Return what the Python of *command* has; unknown where it cannot be asked."""
    command, environ = without_env(command, environ)
    python = interpreter_of(command, environ) if command else None
    if python is None:
        return InstalledVersions()
    try:
        process = await asyncio.create_subprocess_exec(
            *(python, "-c", _PROGRAM),
            # Of what KVCached does at import nothing is wanted here.
            env={**environ, "ENABLE_KVCACHED": "false", "KVCACHED_AUTOPATCH": "false"},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
    except OSError:
        return InstalledVersions()
    try:
        out, _ = await asyncio.wait_for(process.communicate(), _TIMEOUT_S)
        found = json.loads(out.splitlines()[-1])
        return InstalledVersions(found["kvcached"], found["vllm"])
    except TimeoutError:
        process.kill()
        await process.wait()
    except (ValueError, KeyError, IndexError, TypeError):
        pass
    return InstalledVersions()


def without_env(
    command: Sequence[str], environ: Mapping[str, str]
) -> tuple[Sequence[str], Mapping[str, str]]:
    """Return *command* and its environment without the `env NAME=VALUE ...` that it starts with."""
    if not command or Path(command[0]).name != "env":
        return command, environ
    own = dict(environ)
    rest = list(command[1:])
    while rest and "=" in rest[0] and not rest[0].startswith("-"):
        name, _, value = rest.pop(0).partition("=")
        own[name] = value
    return rest, own


def interpreter_of(command: Sequence[str], environ: Mapping[str, str]) -> str | None:
    """Return the Python that runs *command*: itself, or the one that its script names."""
    program = shutil.which(command[0], path=environ.get("PATH"))
    if program is None:
        return None
    if Path(program).name.startswith("python"):
        return program
    try:
        with Path(program).open("rb") as file:
            first = file.readline(4096)
    except OSError:
        return None
    words = first.removeprefix(b"#!").decode("utf-8", "replace").split()
    if not first.startswith(b"#!") or not words:
        return None
    # `#!/usr/bin/env python3`
    name = words[1] if Path(words[0]).name == "env" and len(words) > 1 else words[0]
    return name if Path(name).name.startswith("python") else None
