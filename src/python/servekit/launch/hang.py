"""Whether an engine that takes requests still answers them.  Pure.

Neither silence nor a busy process alone shows that an engine hangs: a long prompt is computed for
minutes on a CPU without a token, and a full queue keeps a request waiting.  But both show
elsewhere: vLLM's own counters move with every step that it makes, and its core is busy while it
computes.  What owes an answer, moves no counter and does not compute is not going to.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

# An engine that owes nothing for as long as a step or two take is not looked at more closely.
LOOK_AFTER_S = 5.0

# With nothing moving and nothing computing for as long, an engine is taken for dead.  A core that
# lacks its input thread computes nothing from the first moment.
IDLE_TIMEOUT_S = 30.0

# Stopped, as by SIGSTOP: a debugger lets go of a process much sooner.
STOPPED_TIMEOUT_S = 20.0

# vLLM's API server answers /metrics at once, or has a long prompt to take apart before.
UNANSWERED_TIMEOUT_S = 40.0

# Of one processor, which an engine that waits for requests does not use.  Measured with vLLM 0.32
# on two CPU cores: 0.000 idle; while it computed a prompt of 4000 tokens for 29 s, 0.014 for its
# EngineCore and more than 0.3 for its Worker, a process of its own there, and its counters stood
# still for 5.9 s at most.
IDLE_SHARE = 0.02

# vLLM's names for the processes that compute; another engine's are all looked at.
_COMPUTING = ("EngineCore", "Worker")


@dataclass(frozen=True, slots=True)
class EngineProcess:
    """One process of the engine.

    Attributes:
        name: what it calls itself, such as EngineCore.
        state: a letter of proc(5): T is stopped.
        cpu_s: processor time that it has used so far (seconds).
    """

    pid: int
    name: str
    state: str
    cpu_s: float


@dataclass(frozen=True, slots=True)
class EngineLook:
    """What was seen of an engine at one moment.

    Attributes:
        at_s: when, on the clock that `EngineWork` has.
        silent_s: for how long it has owed something and computed nothing; 0.0 if it owes nothing.
        open: requests under way (count).
        counters: what its counters say, in any form; None if it did not answer.
    """

    at_s: float
    silent_s: float
    open: int
    counters: object | None
    processes: Sequence[EngineProcess]


@dataclass(slots=True)
class HangDetector:
    """Looks in, verdicts out.

    Attributes:
        silence_timeout_s: for how long an engine may compute without moving a counter; a single
            step of a large model on a CPU takes minutes.
    """

    silence_timeout_s: float
    _moved_s: float | None = None
    _answered_s: float | None = None
    _counters: object | None = None
    _busy_s: float | None = None
    _cpu: dict[int, float] = field(default_factory=dict)
    _looked_s: float = 0.0
    _stopped: dict[int, float] = field(default_factory=dict)

    def judge(self, look: EngineLook) -> str | None:
        """Return why the engine is taken for dead; None while it is not."""
        self._note(look)
        stopped = self._stopped_process(look)
        if stopped is not None:
            return f"{stopped.name} (process {stopped.pid}) is stopped, as by SIGSTOP"
        assert self._answered_s is not None
        unanswered_s = look.at_s - self._answered_s
        if unanswered_s >= UNANSWERED_TIMEOUT_S:
            return f"the engine's API server has not answered for {unanswered_s:.0f} s"
        if look.silent_s < LOOK_AFTER_S:
            self._moved_s = self._busy_s = look.at_s
            return None
        assert self._moved_s is not None
        assert self._busy_s is not None
        still_s = min(look.silent_s, look.at_s - self._moved_s)
        owed = f"{look.open} requests open, no token for {look.silent_s:.0f} s"
        if min(still_s, look.at_s - self._busy_s) >= IDLE_TIMEOUT_S:
            return f"the engine hangs: {owed}, and its core computes nothing"
        if still_s >= self.silence_timeout_s:
            return f"the engine hangs: {owed}, although its core is busy (ENGINE_SILENCE_TIMEOUT_S)"
        return None

    def _note(self, look: EngineLook) -> None:
        if look.counters is not None or self._answered_s is None:
            self._answered_s = look.at_s
        if self._moved_s is None or (look.counters is not None and look.counters != self._counters):
            self._moved_s = look.at_s
        if look.counters is not None:
            self._counters = look.counters
        if self._busy_s is None or self._is_busy(look):
            self._busy_s = look.at_s
        self._cpu = {process.pid: process.cpu_s for process in look.processes}
        self._looked_s = look.at_s

    def _is_busy(self, look: EngineLook) -> bool:
        passed_s = look.at_s - self._looked_s
        computing = [one for one in look.processes if one.name.startswith(_COMPUTING)]
        used_s = sum(
            one.cpu_s - self._cpu.get(one.pid, one.cpu_s) for one in computing or look.processes
        )
        return used_s > IDLE_SHARE * passed_s

    def _stopped_process(self, look: EngineLook) -> EngineProcess | None:
        stopped = [process for process in look.processes if process.state == "T"]
        self._stopped = {
            process.pid: self._stopped.get(process.pid, look.at_s) for process in stopped
        }
        return next(
            (one for one in stopped if look.at_s - self._stopped[one.pid] >= STOPPED_TIMEOUT_S),
            None,
        )
