"""Drive an engine through a list of arrivals in virtual time."""

from dataclasses import dataclass, field

from servekit.enginesim.config import EngineConfig
from servekit.enginesim.engine import SimulatedEngine
from servekit.enginesim.sequence import EngineRequest
from servekit.enginesim.step import EngineStep
from servekit.enginesim.step_profile import StepProfile

# A small engine whose steps take round times: 5 ms, and 20 us per prompt token.
PROFILE = StepProfile(
    name="test",
    forward_s=((0.0, 0.005), (250.0, 0.005), (8192.0, 0.164)),
    decode_s=((0.0, 0.0), (256.0, 0.004)),
    kv_token_s=3e-8,
    mixed_kv_token_s=8e-8,
    attended_pair_s=9e-10,
)


def small_engine(**changes: object) -> SimulatedEngine:
    """Return an engine of 64 blocks of 16 tokens, unless *changes* say otherwise."""
    settings = {
        "num_blocks": 64,
        "max_model_len": 1000,
        "max_num_seqs": 8,
        "max_num_batched_tokens": 128,
    } | changes
    return SimulatedEngine(EngineConfig(**settings), PROFILE)  # type: ignore[arg-type]


@dataclass
class Outcome:
    """What came out of a drive: each request's token times, by id, and when each step's did."""

    first_s: dict[int, float] = field(default_factory=dict)
    last_s: dict[int, float] = field(default_factory=dict)
    preemptions: dict[int, int] = field(default_factory=dict)
    cached: dict[int, int] = field(default_factory=dict)
    steps: list[EngineStep] = field(default_factory=list)
    came_s: list[float] = field(default_factory=list)


def drive(
    engine: SimulatedEngine, arrivals: list[tuple[float, EngineRequest]], most: int = 1
) -> Outcome:
    """Run *arrivals*, in order of time, until the engine is empty."""
    outcome = Outcome()
    waiting = list(reversed(arrivals))
    while waiting or not engine.idle:
        until = engine.busy_until
        if waiting and (until is None or waiting[-1][0] <= until):
            when, request = waiting.pop()
            engine.submit(request, when)
            if until is None:
                engine.begin(when, most)
            continue
        assert until is not None, "requests are in the engine and no step is in progress"
        step = engine.end()
        engine.begin(step.end_s, most)
        _record(outcome, step, step.end_s + engine.late_s)
    return outcome


def _record(outcome: Outcome, step: EngineStep, came_s: float) -> None:
    outcome.steps.append(step)
    outcome.came_s.append(came_s)
    for sequence in step.sampled:
        outcome.first_s.setdefault(sequence.request.id, came_s)
    for sequence in step.finished:
        number = sequence.request.id
        assert number not in outcome.last_s, "a sequence finished twice"
        assert sequence.emitted == sequence.request.output_tokens
        outcome.last_s[number] = came_s
        outcome.preemptions[number] = sequence.preemptions
        outcome.cached[number] = sequence.cached_tokens
