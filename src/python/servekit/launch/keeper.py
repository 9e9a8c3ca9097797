"""Run a program, and leave none of its processes behind.  Runs processes.

    python -I -S keeper.py PARENT PROGRAM ARGUMENTS...

It stands between a parent and an engine, because two things can only be had by a process of its
own: the kernel tells it that PARENT is gone, however that ended (PR_SET_PDEATHSIG), and hands it
each process of the engine whose own parent is gone (PR_SET_CHILD_SUBREAPER).  So it can end all
of them, also those that left its process group, and it ends as the program did.

It also says which of the engine's processes a signal has killed: their own parent, vLLM's API
server, reports such a death without its reason.

Standard library only, and no import of ours: it starts in 15 ms, and runs in any interpreter.
"""

import contextlib
import ctypes
import os
import resource
import select
import signal
import sys
import time
from collections.abc import Iterator

# What the kernel sends when the parent is gone, and what asks to end everything at once.
PARENT_GONE = signal.SIGUSR1
KILL_ALL = signal.SIGUSR2

# After its parent's death, an engine has this long to end in its own way; vLLM takes up to 2.5 s.
GRACE_S = 3.0

# A program that is gone leaves its children this long for their last words.
LAST_WORDS_S = 0.3

# How often new processes of the engine are looked for: a core lives for hours.
LOOK_S = 2.0

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36

# Fields of proc(5)'s stat after the name, counted from 0.
_STATE, _PARENT, _EXIT_CODE = 0, 1, 49


def die_with_parent(number: int = signal.SIGTERM) -> None:
    """Ask the kernel to send us *number* when the thread that started us is gone."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, number)


def adopt_orphans() -> None:
    """Become the parent of every process below us whose own parent ends."""
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)


def read_stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on; None if there is no such process."""
    try:
        return _read(f"/proc/{pid}/stat").decode("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return None


def descendants(pid: int) -> list[int]:
    """Return the processes that *pid* has started, and theirs."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208  (see _read)
        stat = read_stat(int(entry)) if entry.isdigit() else None
        if stat is not None:
            children.setdefault(int(stat[_PARENT]), []).append(int(entry))
    found: list[int] = []
    ahead = [pid]
    while ahead:
        below = children.get(ahead.pop(), [])
        found += below
        ahead += below
    return found


def process_name(pid: int) -> str:
    """Return what *pid* calls itself: `VLLM::EngineCore`, or the name of its program."""
    try:
        title = _read(f"/proc/{pid}/cmdline").partition(b"\0")[0].decode("utf-8", "replace")
    except OSError:
        title = ""
    word = title.partition(" ")[0].rpartition("/")[2]
    return word or f"process {pid}"


def _read(path: str) -> bytes:
    # Not by pathlib, whose import alone would take 8 ms.
    with open(path, "rb") as file:  # noqa: PTH123
        return file.read()


class Keeper:
    """One program, and every process below it."""

    def __init__(self, program: int) -> None:
        self._program = program
        self._status: int | None = None
        self._watched: dict[int, tuple[int, str]] = {}
        self._poll = select.poll()
        self._stopping = False
        self._kill_at_s = float("inf")
        self._wake, wake = os.pipe()
        os.set_blocking(wake, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self._poll.register(self._wake, select.POLLIN)

    def run(self) -> int:
        """Return the program's wait status, once nothing of it is left."""
        look_at_s = 0.0
        while True:
            now_s = time.monotonic()
            if now_s >= self._kill_at_s:
                self._kill_all()
            if not self._reap():
                assert self._status is not None
                return self._status
            if now_s >= look_at_s:
                look_at_s = now_s + LOOK_S
                self._watch_new()
            due_s = min(look_at_s, self._kill_at_s) - time.monotonic()
            for descriptor, _ in self._poll.poll(max(1.0, due_s * 1000)):
                if descriptor == self._wake:
                    self._take_signals(os.read(self._wake, 512))
                else:
                    self._report(descriptor)

    def _take_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number in (signal.SIGTERM, signal.SIGINT, PARENT_GONE):
                self._stopping = True
                self._send(self._program, signal.SIGTERM)
            if number == PARENT_GONE:
                self._kill_at_s = min(self._kill_at_s, time.monotonic() + GRACE_S)
            if number == KILL_ALL:
                self._stopping = True
                self._kill_at_s = 0.0

    def _reap(self) -> bool:
        """Take the exit of every child that has ended; return whether any process is left."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                if pid == self._program:
                    self._status = status
                    self._kill_at_s = min(self._kill_at_s, time.monotonic() + LAST_WORDS_S)
        return False

    def _kill_all(self) -> None:
        # Again until nothing is left: one may fork while we look.
        for pid in descendants(os.getpid()):
            self._send(pid, signal.SIGKILL)
        self._kill_at_s = time.monotonic() + 0.01

    def _watch_new(self) -> None:
        # A process takes its name some time after it was started.
        for descriptor, (pid, _) in self._watched.items():
            self._watched[descriptor] = (pid, process_name(pid))
        known = {pid for pid, _ in self._watched.values()}
        for pid in descendants(os.getpid()):
            if pid in known or pid == self._program:
                continue
            with contextlib.suppress(OSError):
                descriptor = os.pidfd_open(pid)
                self._watched[descriptor] = (pid, process_name(pid))
                self._poll.register(descriptor, select.POLLIN)

    def _report(self, descriptor: int) -> None:
        """Say which signal has killed the process of *descriptor*, or only that it has ended.

        It is a zombie until its own parent asks for its status; who asks first is a race, which
        vLLM's API server, that is told by a pipe, seldom wins.
        """
        pid, name = self._watched.pop(descriptor)
        stat = read_stat(pid)
        self._poll.unregister(descriptor)
        os.close(descriptor)
        if self._stopping or self._status is not None:
            return
        told = stat is not None and stat[_STATE] == "Z"
        number = int(stat[_EXIT_CODE]) & 0x7F if stat is not None and told else 0
        short = name.rpartition("::")[2]
        if number:
            self._say(f"{short} was killed by signal {number}")
        elif not told and name.startswith("VLLM::"):
            self._say(f"{short} has ended")

    @staticmethod
    def _say(line: str) -> None:
        with contextlib.suppress(OSError):
            os.write(2, f"{line}\n".encode())

    @staticmethod
    def _send(pid: int, number: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def _start(argv: list[str]) -> int:
    """Start *argv* with the environment that we were given, and return its process."""
    # As it was given: the interpreter may have added LC_CTYPE to ours.
    environ = dict(_pairs(_read("/proc/self/environ")))
    pid = os.fork()
    if pid == 0:
        # Should even we be killed, the program is not left.
        die_with_parent(signal.SIGKILL)
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        # Python ignores them, and an ignored signal stays ignored across exec.
        for number in (signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        try:
            os.execvpe(argv[0].encode(), [word.encode() for word in argv], environ)  # noqa: S606
        except OSError as error:
            os.write(2, f"{argv[0]}: {error.strerror}\n".encode())
        os._exit(127)
    return pid


def _pairs(block: bytes) -> Iterator[tuple[bytes, bytes]]:
    for entry in block.split(b"\0"):
        name, equals, value = entry.partition(b"=")
        if equals:
            yield name, value


def _end_as(status: int) -> None:
    """End with the exit code, or by the signal, of the program's *status*."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        if number != signal.SIGKILL:
            signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    os._exit(os.waitstatus_to_exitcode(status))


def main(argv: list[str]) -> None:
    parent, *program = argv
    handled = (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD, PARENT_GONE, KILL_ALL)
    signal.pthread_sigmask(signal.SIG_BLOCK, handled)
    die_with_parent(PARENT_GONE)
    adopt_orphans()
    keeper = Keeper(_start(program))
    for number in handled:
        # Python's handler only writes the number to the pipe that `run` polls.
        signal.signal(number, lambda *_: None)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, handled)
    if os.getppid() != int(parent):
        # It died before the kernel knew that we wanted to hear of it.
        os.kill(os.getpid(), PARENT_GONE)
    _end_as(keeper.run())


if __name__ == "__main__":
    main(sys.argv[1:])
