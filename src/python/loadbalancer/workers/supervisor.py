"""Processes that are started, started again when they die, and ended together."""

import os
import signal
import time
from collections.abc import Callable

import structlog

# A worker that dies at once will probably do so again: half a second, then twice as long each time.
FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
# A worker that lived as long as this died of something else than its predecessor.
LONG_LIFE_S = 60.0

_SIGNALS = (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP)

log = structlog.get_logger()


def pause_s(deaths: int) -> float:
    """Return how long to wait after so many *deaths* in a row."""
    return min(FIRST_PAUSE_S * 2.0 ** min(deaths - 1, 16), LONGEST_PAUSE_S)


class Supervisor:
    """Forks workers and looks after them.  It runs no event loop, so that forking is safe."""

    def __init__(
        self, workers: int, work: Callable[[int, bool], None], died: Callable[[int], None]
    ) -> None:
        """In a new process *work* is called with the worker's number and whether it is the first of
        that number; *died* is called here, before the next one of that number is started."""
        self._workers = workers
        self._work = work
        self._died = died
        self._stopping = False
        self._running: dict[int, tuple[int, float]] = {}
        self._due_s: dict[int, float] = dict.fromkeys(range(workers), 0.0)
        self._deaths = dict.fromkeys(range(workers), 0)
        self._started: set[int] = set()

    def run(self) -> None:
        """Return once SIGTERM or SIGINT has come and every worker has ended.  SIGHUP is theirs."""
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        while self._running or not self._stopping:
            if not self._stopping:
                self._start_due()
            self._heed(signal.sigtimedwait(_SIGNALS, self._wait_s()))

    def _heed(self, came: "signal.struct_siginfo | None") -> None:
        if came is None:
            return
        if came.si_signo == signal.SIGHUP:
            self._tell(signal.SIGHUP)
        elif came.si_signo != signal.SIGCHLD:
            self._stopping = True
            self._tell(signal.SIGTERM)
        # Several deaths may be one signal.
        while self._reap():
            pass

    def _tell(self, number: int) -> None:
        for process in self._running:
            os.kill(process, number)

    def _wait_s(self) -> float:
        now_s = time.monotonic()
        due_s = [] if self._stopping else self._due_s.values()
        return max(0.0, min(due_s, default=now_s + LONGEST_PAUSE_S) - now_s)

    def _start_due(self) -> None:
        now_s = time.monotonic()
        for worker in [w for w, due_s in self._due_s.items() if due_s <= now_s]:
            del self._due_s[worker]
            first = worker not in self._started
            self._started.add(worker)
            self._running[self._fork(worker, first=first)] = (worker, now_s)

    def _fork(self, worker: int, *, first: bool) -> int:
        process = os.fork()
        if process:
            return process
        code = 1
        try:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._work(worker, first)
            code = 0
        except Exception as error:
            log.exception("worker failed", worker=worker, why=str(error))
        finally:
            # Not the clean-up of the process that it was forked from.
            os._exit(code)

    def _reap(self) -> bool:
        try:
            process, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return False
        if process not in self._running:
            return process != 0
        worker, since_s = self._running.pop(process)
        if not self._stopping:
            self._discard(worker, os.waitstatus_to_exitcode(status), time.monotonic() - since_s)
        return True

    def _discard(self, worker: int, code: int, lived_s: float) -> None:
        self._deaths[worker] = 1 if lived_s > LONG_LIFE_S else self._deaths[worker] + 1
        again_s = pause_s(self._deaths[worker])
        log.warning("worker died", worker=worker, code=code, again_in_s=again_s)
        self._died(worker)
        self._due_s[worker] = time.monotonic() + again_s
