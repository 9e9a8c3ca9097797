"""Watch an engine that serves: ask it, look at its processes, and say when it is dead.

The front's /health is the engine's API server, which goes on saying 200 for as long as its core has
not ended.  This sees what the API server does not: a core that is stopped, hangs, or has lost the
thread that takes requests in.
"""

import os

import msgspec

from servekit.client.client import COMPLETIONS, Client
from servekit.client.outcome import Fault
from servekit.container.engine_work import EngineWork
from servekit.container.hang import LOOK_AFTER_S, EngineLook, EngineProcess, HangDetector
from servekit.launch.child import Child
from servekit.launch.keeper import descendants, process_name, read_stat
from servekit.timing.clock import Clock
from servekit.wire.openai import CompletionRequest
from servekit.wire.routes import METRICS

INTERVAL_S = 2.0

# A look must not hang on an engine that accepts and does not answer.
LOOK_TIMEOUT_S = 5.0

# These count what reaches the API server, and so move although nothing is computed.
_NOT_THE_CORE = (b"http_", b"process_", b"python_")

# Fields of proc(5)'s stat, counted from the state on.
_STATE, _USER, _SYSTEM = 0, 11, 12
_TICKS = os.sysconf("SC_CLK_TCK")


class Watchdog:
    """Looks at one engine every two seconds."""

    def __init__(
        self,
        child: Child,
        work: EngineWork,
        client: Client,
        *,
        model: str,
        clock: Clock,
        silence_timeout_s: float,
    ) -> None:
        """*client* asks the engine itself, and not the front; *model* is a name it serves."""
        self._child = child
        self._work = work
        self._client = client
        self._model = model
        self._clock = clock
        self._detector = HangDetector(silence_timeout_s)

    async def verdict(self) -> str:
        """Return why the engine is dead, once it is."""
        while True:
            why = self._detector.judge(await self._look())
            if why is not None:
                return why
            nobody_waits = self._work.doubted and not self._work.open
            if nobody_waits and self._work.silent_s(self._clock.now()) >= LOOK_AFTER_S:
                await self._prove()
            await self._clock.sleep(INTERVAL_S)

    async def _look(self) -> EngineLook:
        status, text = await self._client.get(METRICS)
        now_s = self._clock.now()
        return EngineLook(
            at_s=now_s,
            silent_s=self._work.silent_s(now_s),
            open=self._work.open,
            counters=_counters(text) if status == 200 else None,
            processes=engine_processes(self._child.pid),
        )

    async def _prove(self) -> None:
        """Ask for one token, where a client gave up and nobody else waits: it may just be slow."""
        request = CompletionRequest(model=self._model, prompt="a", max_tokens=1)
        body = msgspec.json.encode(request)
        outcome = await self._client.send(COMPLETIONS, body, stream=False)
        # An error status is the API server's, and shows nothing; nobody waits any more.
        if outcome.ok or outcome.error == Fault.EMPTY or str(outcome.error).startswith("http "):
            self._work.hear(self._clock.now())


def engine_processes(keeper: int) -> list[EngineProcess]:
    """Return the processes below *keeper*.  Reads /proc."""
    found = []
    for pid in descendants(keeper):
        stat = read_stat(pid)
        if stat is not None:
            name = process_name(pid).rpartition("::")[2]
            cpu_s = (int(stat[_USER]) + int(stat[_SYSTEM])) / _TICKS
            found.append(EngineProcess(pid, name, stat[_STATE], cpu_s))
    return found


def _counters(text: bytes) -> tuple[bytes, ...]:
    lines = text.splitlines()
    return tuple(line for line in lines if not line.startswith((b"#", *_NOT_THE_CORE)))
