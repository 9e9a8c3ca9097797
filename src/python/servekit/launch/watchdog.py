"""Watch an engine that serves: ask it, look at its processes, and say when it is dead.

/health is the answer of vLLM's API server, which goes on saying 200 for as long as its core has not
ended.  This sees what the API server does not: a core that is stopped, hangs, or has lost the
thread that takes requests in.
"""

import os
from typing import Protocol

from servekit.launch.engine_work import EngineWork
from servekit.launch.hang import LOOK_AFTER_S, EngineLook, EngineProcess, HangDetector
from servekit.launch.keeper import descendants, process_name, read_stat
from servekit.timing.clock import Clock

INTERVAL_S = 2.0

# For how long an engine may compute without a sign of progress, unless a setting says otherwise: a
# single step of a large model on a CPU takes minutes.
SILENCE_TIMEOUT_S = 300.0

# These count what reaches the API server, and so move although nothing is computed.
_NOT_THE_CORE = (b"http_", b"process_", b"python_")

# Fields of proc(5)'s stat, counted from the state on.
_STATE, _USER, _SYSTEM = 0, 11, 12
_TICKS = os.sysconf("SC_CLK_TCK")


class EngineProbe(Protocol):
    """How an engine is asked.  Neither method waits for longer than a few seconds."""

    async def counters(self) -> object | None:
        """Return what changes with each step of the core; None if the engine does not answer."""

    async def computes(self) -> bool:
        """Ask for the least work there is; return whether the engine has answered."""


class Watchdog:
    """Looks at one engine every two seconds."""

    def __init__(
        self,
        pid: int,
        work: EngineWork,
        probe: EngineProbe,
        *,
        clock: Clock,
        silence_timeout_s: float = SILENCE_TIMEOUT_S,
    ) -> None:
        """*pid* is the process below which the engine's are."""
        self._pid = pid
        self._work = work
        self._probe = probe
        self._clock = clock
        self._detector = HangDetector(silence_timeout_s)

    async def verdict(self) -> str:
        """Return why the engine is dead, once it is."""
        while True:
            why = self._detector.judge(await self._look())
            if why is not None:
                return why
            # A client gave up and nobody else waits: the engine may just be slow.
            if self._is_in_doubt() and await self._probe.computes():
                self._work.hear(self._clock.now())
            await self._clock.sleep(INTERVAL_S)

    def _is_in_doubt(self) -> bool:
        silent_s = self._work.silent_s(self._clock.now())
        return self._work.doubted and not self._work.open and silent_s >= LOOK_AFTER_S

    async def _look(self) -> EngineLook:
        counters = await self._probe.counters()
        now_s = self._clock.now()
        return EngineLook(
            at_s=now_s,
            silent_s=self._work.silent_s(now_s),
            open=self._work.open,
            counters=counters,
            processes=engine_processes(self._pid),
        )


def engine_processes(pid: int) -> list[EngineProcess]:
    """Return the processes below *pid*.  Reads /proc."""
    found = []
    for below in descendants(pid):
        stat = read_stat(below)
        if stat is not None:
            name = process_name(below).rpartition("::")[2]
            cpu_s = (int(stat[_USER]) + int(stat[_SYSTEM])) / _TICKS
            found.append(EngineProcess(below, name, stat[_STATE], cpu_s))
    return found


def core_counters(exposition: bytes) -> tuple[bytes, ...]:
    """Return those lines of vLLM's /metrics that change with the steps of its core.  Pure."""
    lines = exposition.splitlines()
    return tuple(line for line in lines if not line.startswith((b"#", *_NOT_THE_CORE)))
