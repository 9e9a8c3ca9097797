"""Start an engine as a child process, watch it and stop it."""

import asyncio
import os
import re
import shutil
import signal
import sys
from collections import deque
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from servekit.errors.tree import EngineExited, SettingInvalid
from servekit.launch import keeper
from servekit.launch.lines import LineSplitter

T = TypeVar("T")

# Enough for the tracebacks of the engine's core and then of its API server.
TAIL_LINES = 200

# With these words vLLM's API server reports what its core has reported better before.
_SECOND_HAND = re.compile(r"root cause above|EngineDeadError")

_PIECE_BYTES = 64 * 1024

# What the keeper says of a process that was killed, in `servekit.launch.keeper`.
_KILLED = re.compile(r"\S+ was killed by signal \d+")
_ENDED = re.compile(r"(\S+) has ended")

# After the child is gone its children may hold the pipe; their last words are worth this long.
_LAST_WORDS_S = 0.5

# How often a process is looked at where the kernel cannot report its end.
_LOOK_S = 0.05

# The keeper ends everything at once when it is told to; a machine under heavy load took 1 s.
_KEEPER_S = 5.0


class Child:
    """One running engine below its keeper, in a process group.  Made by `start_child`."""

    def __init__(self, process: asyncio.subprocess.Process, on_line: Callable[[str], None]) -> None:
        self._process = process
        self._on_line = on_line
        self._tail: deque[str] = deque(maxlen=TAIL_LINES)
        self._reading = asyncio.create_task(self._read())

    @property
    def pid(self) -> int:
        """The keeper's process; the engine's are its descendants."""
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
        await self._exit()
        # The keeper leaves nothing behind, unless it was killed itself.
        self._kill_group()
        await asyncio.wait([self._reading], timeout=_LAST_WORDS_S)
        code = self._process.returncode
        return await self._process.wait() if code is None else code

    async def _exit(self) -> None:
        """Return once the process is gone; asyncio would wait for all who hold its pipe as well."""
        try:
            descriptor = os.pidfd_open(self._process.pid)
        except ProcessLookupError:
            return
        except OSError:
            # gVisor, below Cloud Run and others, has no pidfd_open.
            await self._exit_by_looking()
            return
        loop = asyncio.get_running_loop()
        gone = asyncio.Event()
        loop.add_reader(descriptor, gone.set)
        try:
            await gone.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

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

        No process that it has started is left behind.
        """
        for number, patience_s in ((signal.SIGTERM, grace_s), (keeper.KILL_ALL, _KEEPER_S)):
            if self.running:
                self._process.send_signal(number)
            try:
                await asyncio.wait_for(self._exit(), patience_s)
                break
            except TimeoutError:
                continue
            except asyncio.CancelledError:
                self._kill_group()
                raise
        self._kill_group()
        return await self.wait()

    async def _exit_by_looking(self) -> None:
        while self.running:  # noqa: ASYNC110  nothing sets an event: the loop's own watcher reaps it
            await asyncio.sleep(_LOOK_S)

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

    It ends with us, however we end, and so does every process that it starts.  To be called in the
    thread that lives longest: for the kernel that one is the parent.

    Raises:
        SettingInvalid: there is no such program.
    """
    _require_program(argv[0], environ)
    command = (sys.executable, "-I", "-S", keeper.__file__, str(os.getpid()), *argv)
    try:
        process = await asyncio.create_subprocess_exec(
            *command,
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


def _require_program(name: str, environ: Mapping[str, str]) -> None:
    path = environ.get("PATH", os.defpath)
    if shutil.which(name, path=path) is None:
        here = shutil.which(name, mode=os.F_OK, path=path)
        why = "it is not executable" if here else "there is no such program"
        raise SettingInvalid(f"the engine {name!r} cannot be started: {why}; correct its command")


def describe_exit(code: int, tail: Sequence[str]) -> str:
    """Return one line on how an engine ended, with the line that most likely says why."""
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"
    hint = " (out of memory?)" if code == -signal.SIGKILL else ""
    return f"the engine {how}{hint}: {_telling(tail)}"


def _telling(tail: Sequence[str]) -> str:
    """The line that names a killed process; else the last that names an error; else the last."""
    killed = [line for line in tail if _KILLED.fullmatch(line)]
    if killed:
        return killed[0]
    named = [
        line
        for line in tail
        if ("Error" in line or "error:" in line) and not _SECOND_HAND.search(line)
    ]
    ended = next((match[1] for line in tail if (match := _ENDED.fullmatch(line))), None)
    # A process of vLLM that ends by an error of its own logs it: EngineCore's name is in each line.
    if ended is not None and not any(ended in line for line in named):
        return f"{ended} was killed by signal 9, as it ended without a message"
    lines = named or list(tail)
    return lines[-1].strip() if lines else "it wrote nothing"


async def _cancel(task: "asyncio.Future[T]") -> None:
    if not task.done():
        task.cancel()
        await asyncio.wait([task])
