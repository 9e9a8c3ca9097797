"""Processes of an environment: started, watched, stopped.  Input and output."""

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from bench_environments.processes import ProcessStart
from servekit.client.client import Client
from servekit.errors.tree import EngineExited, EngineNotReady, ServeError
from servekit.launch.child import Child, start_child
from servekit.launch.readiness import wait_until_ready
from servekit.timing.clock import Clock

# vLLM 0.26 on an H200 ends 0.5 s after SIGTERM; kvcached_engine waits for it.
STOP_S = 15.0

_LOOK_S = 0.5
_ASK_TIMEOUT_S = 5.0


@dataclass(frozen=True, slots=True)
class Launcher:
    """How processes are started on this machine.

    Attributes:
        environ: of every process, before what each adds to it.
    """

    environ: Mapping[str, str]
    clock: Clock

    async def start(
        self,
        stack: AsyncExitStack,
        argv: Sequence[str],
        environ: Mapping[str, str],
        log: Path,
    ) -> Child:
        """Start *argv*, whose output goes to *log*; it is stopped with *stack*."""
        log.parent.mkdir(parents=True, exist_ok=True)
        file = stack.enter_context(log.open("a", encoding="utf-8"))
        child = await start_child(argv, {**self.environ, **environ}, LineWriter(file))
        stack.push_async_callback(child.stop, STOP_S)
        return child

    async def serve(
        self,
        stack: AsyncExitStack,
        what: ProcessStart,
        argv: Sequence[str],
        log: Path,
        timeout_s: float,
    ) -> Child:
        """Start *what* by *argv* and return once it serves.

        Raises:
            EngineExited: it ended; the message has the line that most likely says why.
            EngineNotReady: it did not serve in time.
        """
        child = await self.start(stack, argv, what.environ, log)
        try:
            await child.while_running(self._until_healthy(what.health, timeout_s))
        except EngineExited as error:
            raise EngineExited(f"{what.name}: {error}; see {log}") from error
        except EngineNotReady as error:
            raise EngineNotReady(f"{what.name}: {error}; see {log}") from error
        return child

    async def _until_healthy(self, url: str, timeout_s: float) -> None:
        async def healthy() -> bool:
            return (await get(url, self.clock))[0] == 200

        await wait_until_ready(healthy, clock=self.clock, timeout_s=timeout_s, interval_s=_LOOK_S)


async def get(url: str, clock: Clock) -> tuple[int, bytes]:
    """Return status and body of a GET; status 0 without an answer."""
    base, _, path = url.removeprefix("http://").partition("/")
    client = Client(f"http://{base}", clock, timeout_s=_ASK_TIMEOUT_S)
    try:
        return await client.get(f"/{path}")
    finally:
        await client.aclose()


async def all_of(*work: "asyncio.Future[Child]") -> None:
    """Return once all of *work* is done; the first error cancels the rest.

    Raises:
        ServeError: of the one that failed first.
    """
    try:
        await asyncio.gather(*work)
    except ServeError:
        for one in work:
            one.cancel()
        await asyncio.gather(*work, return_exceptions=True)
        raise


class LineWriter:
    """Writes lines to a file at once: what is cut must have its last words."""

    def __init__(self, file: IO[str]) -> None:
        self._file = file

    def __call__(self, line: str) -> None:
        if not self._file.closed:
            self._file.write(f"{line}\n")
            self._file.flush()
