"""Programs that we start, and never leave behind.  Input and output."""

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from servekit.errors.tree import EngineExited, EngineNotReady
from servekit.launch.keeper import die_with_parent
from servekit.launch.modules import environ_of_modules

# An interpreter and its imports take about 1 s; a machine under heavy load took 15 s.
READY_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 5.0


class Program:
    """A child process that announces on stdout when it is ready.

    It has a session of its own, so that Ctrl-C reaches us alone, and the kernel ends it when we
    die, however we do.  One that *yields* lets us go first: a stamp that the client takes late is
    an error of the measurement, a simulated token that comes late only a slower engine.
    """

    def __init__(self, name: str, argv: Sequence[str], *, log: Path, yields: bool = False) -> None:
        self.name = name
        self._log = log
        with log.open("wb") as stderr:
            self._process = subprocess.Popen(  # noqa: S603
                [sys.executable, "-m", *argv],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=stderr,
                env=environ_of_modules(os.environ),
                start_new_session=True,
                preexec_fn=_step_back if yields else die_with_parent,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    def ready(self, timeout_s: float = READY_TIMEOUT_S) -> dict[str, Any]:
        """Return what it announced, once it is ready.

        Raises:
            EngineExited: it ended instead; the message has the last line it logged.
            EngineNotReady: it did neither in time.
        """
        deadline_s = time.monotonic() + timeout_s
        for line in self._lines(deadline_s):
            with contextlib.suppress(ValueError):
                said = json.loads(line)
                if isinstance(said, dict) and said.get("event") == "ready":
                    return said
        if self._process.poll() is None and time.monotonic() >= deadline_s:
            raise EngineNotReady(
                f"{self.name} was not ready within {timeout_s:g} s; {self._hint()}"
            )
        code = self._process.wait()
        raise EngineExited(
            f"{self.name} exited with status {code} before it was ready; {self._hint()}"
        )

    def wait(self) -> int:
        """Return its exit code, once it has ended by itself."""
        return self._process.wait()

    def ask_to_stop(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)

    def stop(self, timeout_s: float = STOP_TIMEOUT_S) -> None:
        """End it, kindly first."""
        self.ask_to_stop()
        try:
            self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _lines(self, deadline_s: float) -> Iterator[bytes]:
        """Yield what it prints until it stops printing or the deadline passes."""
        assert self._process.stdout is not None
        output = self._process.stdout.fileno()
        held = b""
        with selectors.DefaultSelector() as selector:
            selector.register(output, selectors.EVENT_READ)
            while selector.select(max(0.0, deadline_s - time.monotonic())):
                piece = os.read(output, 65536)
                if not piece:
                    return
                *lines, held = (held + piece).split(b"\n")
                yield from lines

    def _hint(self) -> str:
        logged = self._log.read_text(errors="replace").strip().splitlines()
        return f"last log line: {logged[-1][:300]}" if logged else f"log is empty: {self._log}"


@contextlib.contextmanager
def stopped_at_the_end() -> Iterator[list[Program]]:
    """Give a list; every program in it is stopped at the end of the block, whatever happened."""
    programs: list[Program] = []
    try:
        yield programs
    finally:
        # Load balancers were started last and go first: they would report their engines as lost.
        for program in reversed(programs):
            program.ask_to_stop()
        for program in reversed(programs):
            program.stop()


def _step_back() -> None:
    die_with_parent()
    os.nice(5)
