"""Start an engine as a child process, watch it and stop it."""

import asyncio
import os
import signal
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from servekit.errors.tree import EngineExited, SettingInvalid
from servekit.launch.lines import LineSplitter

T = TypeVar("T")

# Enough for the tracebacks of the engine's core and then of its API server.
TAIL_LINES = 200

# With these words vLLM's API server reports what its core has reported better before.
_SECOND_HAND = "root cause above"

_PIECE_BYTES = 64 * 1024

# After the child is gone its children may hold the pipe; their last words are worth this long.
_LAST_WORDS_S = 0.5


class Child:
    """One running engine, in a process group of its own.  Made by `start_child`."""

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self._process = process
        self._on_line = on_line
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.returncode is None

    @property
    def tail(self) -> tuple[str, ...]:
        """The last lines that the child wrote."""
        return tuple(self._tail)

    async def wait(self) -> int:
        """Return the exit code once the child is gone; minus the signal that ended it."""
        code = await self._process.wait()
        await asyncio.wait([self._reading], timeout=_LAST_WORDS_S)
        return code

    async def while_running(self, work: Awaitable[T]) -> T:
        """Return what *work* returns, if the child lives that long.

        Raises:
            EngineExited: the child ended first; *work* is cancelled.
        """
        task = asyncio.ensure_future(work)
        gone = asyncio.ensure_future(self.wait())
        try:
            await asyncio.wait([task, gone], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            raise EngineExited(describe_exit(gone.result(), self.tail))
        finally:
            await _cancel(task)
            await _cancel(gone)

    async def stop(self, grace_s: float) -> int:
        """Ask the child to end, make it end after *grace_s*, and return its exit code.

        Nothing of its process group is left behind.
        """
        if self.running:
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), grace_s)
        except TimeoutError:
            pass
        finally:
            self._kill_group()
        return await self.wait()

    def _kill_group(self) -> None:
        # The group outlives its leader for as long as a worker of the engine does.
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    async def _read(self) -> None:
        stream = self._process.stdout
        assert stream is not None
        splitter = LineSplitter()
        while piece := await stream.read(_PIECE_BYTES):
            self._take(splitter.feed(piece))
        self._take(splitter.finish())

    def _take(self, lines: list[str]) -> None:
        for line in lines:
            self._tail.append(line)
            self._on_line(line)


async def start_child(
    argv: Sequence[str], environ: Mapping[str, str], on_line: Callable[[str], None]
) -> Child:
    """Start *argv* with exactly *environ*.  Each line that it writes goes to *on_line*.

    Raises:
        SettingInvalid: there is no such program.
    """
    try:
        process = await asyncio.create_subprocess_exec(
            *argv,
            env=dict(environ),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
            start_new_session=True,
        )
    except OSError as error:
        raise SettingInvalid(
            f"the engine {argv[0]!r} cannot be started: {error.strerror}; correct its command"
        ) from error
    return Child(process, on_line)


def describe_exit(code: int, tail: Sequence[str]) -> str:
    """Return one line on how an engine ended, with the line that most likely says why."""
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"the engine {how}{hint}: {_telling(tail)}"


def _telling(tail: Sequence[str]) -> str:
    """The last line that names an error; else the last line."""
    named = [
        line for line in tail if ("Error" in line or "error:" in line) and _SECOND_HAND not in line
    ]
    lines = named or list(tail)
    return lines[-1].strip() if lines else "it wrote nothing"


async def _cancel(task: "asyncio.Future[T]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
