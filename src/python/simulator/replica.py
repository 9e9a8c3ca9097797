"""One simulated engine in wall time: steps end when the clock says so, and tokens go out then."""

import asyncio
from dataclasses import dataclass
from typing import Protocol

from servekit.enginesim.calibration import EngineCalibration
from servekit.enginesim.engine import SimulatedEngine
from servekit.enginesim.engine_args import DEFAULT_OPTIONS, EngineOptions
from servekit.enginesim.sequence import EngineRequest, Sequence
from servekit.enginesim.setup import engine_config
from servekit.enginesim.step import EngineStep
from simulator.exposition import EngineMetrics, sleep_lines
from simulator.faults import ActiveFaults, InjectedFault
from simulator.vllm_version import VLLM_VERSION, VllmVersion

# Beyond this, steps that are late are not caught up with: the engine simply was slower.
MAX_LAG_S = 0.25

# Timers fire on whole milliseconds; a step that ends within half of one is due.
_TIMER_S = 0.0005


@dataclass(frozen=True, slots=True)
class ReplicaSpec:
    """How one replica is simulated.

    Attributes:
        speed: how many times faster than its calibration it runs.
        max_in_flight: requests in the engine before others are refused; None for no limit.
        options: the arguments of `vllm serve` that it was started with.
        vllm_version: the release that it stands for.
    """

    name: str
    model: str
    max_model_len: int
    calibration: EngineCalibration
    speed: float = 1.0
    seed: int = 0
    max_in_flight: int | None = None
    options: EngineOptions = DEFAULT_OPTIONS
    vllm_version: VllmVersion = VLLM_VERSION


class TokenSink(Protocol):
    """Who waits for the tokens of one sequence."""

    def token(self) -> None:
        """A token came out, and more will follow."""

    def last(self) -> None:
        """The last token came out."""

    def cut(self) -> None:
        """No more will come: the engine died."""


class SimulatedReplica:
    """An engine, the answers that wait for its tokens, and its faults."""

    def __init__(self, spec: ReplicaSpec, loop: asyncio.AbstractEventLoop) -> None:
        self.spec = spec
        self.faults = ActiveFaults()
        self.sleep_level = 0
        self.profile = spec.calibration.profile.faster(spec.speed)
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        self._ids = 0
        self._config = engine_config(
            spec.calibration,
            spec.options,
            spec.max_model_len,
            max_in_flight=spec.max_in_flight,
            counts_failed_lookups=spec.vllm_version.counts_failed_lookups,
        )
        self._start()

    def _start(self) -> None:
        self.engine = SimulatedEngine(self._config, self.profile)
        self.metrics = EngineMetrics(self.spec.max_model_len)
        self.worst_lag_s = 0.0
        # A step whose tokens are held back, until when, and how late those before it were.
        self._held: tuple[EngineStep, float] | None = None
        self._late_s = 0.0
        self._choices: dict[int, TokenSink] = {}
        self._decoding: dict[int, TokenSink] = {}
        self._reasons: dict[int, str] = {}

    def frontend_s(self, prompt_tokens: int) -> float:
        """Return how long a request is on its way to the queue."""
        return self.profile.frontend_s + self.profile.frontend_token_s * prompt_tokens

    def submit(
        self,
        prompt_tokens: int,
        segments: tuple[int, ...],
        output_tokens: int,
        reason: str,
        choice: TokenSink,
    ) -> int:
        """Queue a request whose tokens go to *choice* and that ends for *reason*; return its id.

        Raises:
            ServeError: as `SimulatedEngine.submit`.
        """
        self._ids += 1
        request = EngineRequest(self._ids, prompt_tokens, output_tokens, segments)
        now = self._loop.time()
        self.engine.submit(request, now)
        self._choices[request.id] = choice
        self._reasons[request.id] = reason
        if self._timer is None:
            self._begin(now)
        return request.id

    def abort(self, request_id: int) -> None:
        """Drop a request whose client has gone.  vLLM does not count it as finished either."""
        self._choices.pop(request_id, None)
        self._decoding.pop(request_id, None)
        self._reasons.pop(request_id, None)
        self.engine.abort(request_id, self._loop.time())

    def restart(self) -> None:
        """Lose everything, as a process that died and was started again."""
        if self._timer:
            self._timer.cancel()
            self._timer = None
        choices = list(self._choices.values())
        self._start()
        for choice in choices:
            choice.cut()

    def set_fault(self, fault: InjectedFault) -> None:
        self.faults.set(fault, self._loop.time())
        slow = self.faults.get("slow", self._loop.time())
        self.engine.profile = self.profile.faster(1 / slow.factor) if slow else self.profile

    def fall_asleep(self, level: int) -> None:
        """Stop stepping; the KV cache is gone at any level above 0."""
        self.sleep_level = level
        for request_id in list(self._choices):
            self._choices[request_id].cut()
            self.abort(request_id)
        if level:
            self.engine.forget_prefixes()

    def wake_up(self) -> None:
        self.sleep_level = 0
        if self._timer is None:
            self._begin(self._loop.time())

    def exposition(self) -> str:
        """Return /metrics, true or not."""
        now = self._loop.time()
        lie = self.faults.get("lie-in-metrics", now)
        said: dict[str, float] = {}
        if lie:
            claims = {"running": lie.running, "waiting": lie.waiting, "kv_usage": lie.kv_usage}
            said = {name: float(value) for name, value in claims.items() if value is not None}
        text = self.metrics.render(self.engine, self.spec.model, now, said)
        return text + sleep_lines(self.spec.model, self.sleep_level)

    def _begin(self, now: float) -> None:
        if self.sleep_level:
            return
        stalled = self.faults.stalled_until(now)
        if stalled is not None:
            self._arm(stalled)
            return
        if self.engine.busy_until is None:
            self.engine.begin(now)
        until = self.engine.busy_until
        if until is not None:
            self._arm(min(until, self._held[1]) if self._held else until)

    def _arm(self, when: float) -> None:
        self._timer = self._loop.call_at(when, self._wake)

    def _wake(self) -> None:
        """End every step that is due, and begin the next at the time at which it ended."""
        self._timer = None
        engine = self.engine
        now = self._loop.time()
        if self.faults.stalled_until(now) is not None:
            self._begin(now)
            return
        self._deliver_held(now + _TIMER_S)
        while (until := engine.busy_until) is not None and until <= now + _TIMER_S:
            self._deliver_held(until)
            if engine is not self.engine:
                return
            step = engine.end()
            lag = now - step.end_s
            self.worst_lag_s = max(self.worst_lag_s, lag)
            if not self.sleep_level:
                engine.begin(step.end_s if lag < MAX_LAG_S else now)
            self._held = step, step.end_s + engine.late_s
            self._deliver_held(now + _TIMER_S)
            if engine is not self.engine or self.sleep_level:
                return
        self._begin(now)

    def _deliver_held(self, until: float) -> None:
        """Let the tokens of the last step out, if they are due by *until*."""
        if self._held is None or self._held[1] > until:
            return
        (step, came_s), self._held = self._held, None
        late_before_s, self._late_s = self._late_s, came_s - step.end_s
        self._deliver(step, came_s, came_s - step.start_s - late_before_s)

    def _deliver(self, step: EngineStep, came_s: float, gap_s: float) -> None:
        self.metrics.count_step(step, gap_s)
        decoding = self._decoding
        for sequence in step.preempted:
            decoding.pop(sequence.request.id, None)
        ended = {sequence.request.id for sequence in step.finished}
        for request_id, choice in list(decoding.items()):
            if request_id not in ended:
                choice.token()
        for sequence in step.sampled:
            self._sampled(sequence, ended)
        for sequence in step.finished:
            self._finished(sequence, came_s)

    def _sampled(self, sequence: Sequence, ended: set[int]) -> None:
        request_id = sequence.request.id
        choice = self._choices.get(request_id)
        if choice is None or request_id in ended:
            return
        self._decoding[request_id] = choice
        choice.token()

    def _finished(self, sequence: Sequence, now: float) -> None:
        request_id = sequence.request.id
        choice = self._choices.pop(request_id, None)
        self._decoding.pop(request_id, None)
        reason = self._reasons.pop(request_id, "length")
        if choice is not None:
            self.metrics.count_finished(sequence, now, reason)
            choice.last()
