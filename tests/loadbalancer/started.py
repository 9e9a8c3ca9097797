"""`managed` as a process of its own, with the tests' own interpreter and packages."""

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from loadbalancer import managed

_RUN = f"""
import runpy, sys
sys.path[:0] = sys.argv.pop(1).split(":")
runpy.run_module({managed.__name__!r}, run_name="__main__")
"""


@dataclass
class Started:
    """A load balancer that has said that it listens.

    Attributes:
        ready: what it announced.
    """

    process: asyncio.subprocess.Process
    ready: dict[str, Any]

    @property
    def port(self) -> int:
        return urlsplit(self.ready["url"]).port or 0

    @property
    def admin_port(self) -> int:
        return urlsplit(self.ready["admin_url"]).port or 0

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def workers(self) -> set[int]:
        """Return the process ids of its workers."""
        process = self.process.pid
        return set(map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split()))


def here() -> str:
    """Return the folders where this process finds its modules, with colons between."""
    return ":".join(str(Path(entry).resolve()) for entry in sys.path if entry)


def command(*options: str) -> list[str]:
    """Return the command line of `managed` on a free port, with *options*."""
    return [sys.executable, "-c", _RUN, here(), "--port", "0", *options]


@asynccontextmanager
async def started(
    *options: str,
    poll_s: float = 0.05,
    environ: Mapping[str, str] | None = None,
    open_files: int | None = None,
) -> AsyncIterator[Started]:
    """Give `managed` with *options*, on a free port; it is asked to stop, and has, afterwards.

    *environ* is what is set besides; *open_files* is the limit that it gets.
    """
    limited = [] if open_files is None else ["prlimit", f"--nofile={open_files}:{open_files}"]
    process = await asyncio.create_subprocess_exec(
        *limited,
        *command(*options),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "METRICS_POLL_INTERVAL": str(poll_s), **(environ or {})},
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(60.0):
            line = await process.stdout.readline()
        yield Started(process, json.loads(line))
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(60.0):
                await process.wait()
        except TimeoutError:
            process.kill()
