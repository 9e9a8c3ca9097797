"""Does the verdict cry wolf?  An arm is compared with itself, many times, in virtual time.  Pure.

Both arms are the same fleet and the same policy, a replica by chance; only their luck differs. A
comparison that calls one of them better errs.  At 95 % it may err in one run of twenty.
"""

import heapq
import random
from collections.abc import Iterable, Iterator, Sequence

import msgspec

from bench.loadgen.record import Record
from bench.loadgen.replay import abba
from bench.stats.comparison import compare
from bench.stats.intervals import Verdict
from bench.stats.windowed_metrics import SloLimits, windows_of
from bench.workload.schedule import BLOCK_TOKENS, Call, Part, Schedule, split
from servekit.enginesim.calibration import calibration_for
from servekit.enginesim.config import EngineConfig
from servekit.enginesim.engine import SimulatedEngine
from servekit.enginesim.sequence import EngineRequest
from servekit.enginesim.sequence import Sequence as Running
from servekit.fleet.fleet import Fleet

_BLOCK = 16
# Enough for intervals of 95 %; the main job draws more because its p values are compared closer to
# zero.
_RESAMPLES = 800
# Like decode steps that are taken at a time; an arrival cuts them short.
_STEPS_AT_ONCE = 4096


class ArmTurn(msgspec.Struct, frozen=True):
    """A part that an arm replays from *start_s* on."""

    part: Part
    start_s: float


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """Comparisons of an arm with itself.

    Attributes:
        false_alarms: runs whose overall verdict was not "not shown".
        by_metric: share of runs in which each metric's own verdict was wrong.
    """

    runs: int
    false_alarms: int
    by_metric: dict[str, float]

    @property
    def share(self) -> float:
        return self.false_alarms / self.runs if self.runs else 0.0


def self_test(
    schedules: Iterable[Schedule], fleet: Fleet, lengths_s: Sequence[float], slow: float = 1.0
) -> SelfTest:
    """Return what the comparison says of one run per schedule, both arms being alike.

    With *slow* above 1, one arm's engines are slower by that factor: how often that is seen is the
    power of the comparison, and not a false alarm.
    """
    runs = alarms = 0
    wrong: dict[str, int] = {}
    for number, schedule in enumerate(schedules):
        parts = split(schedule, lengths_s)
        baseline, candidate = (
            virtual_run(name, turns, fleet, 2 * number + place, slow if place else 1.0)
            for place, (name, turns) in enumerate(_turns(parts).items())
        )
        found = compare(
            baseline,
            candidate,
            windows_of(parts),
            goal=SloLimits(),
            seed=number,
            resamples=_RESAMPLES,
        )
        runs += 1
        alarms += found.verdict is not Verdict.NOT_SHOWN
        # Only the first and the last token are kept: what lies between them is no chunk.
        for row in (row for row in found.rows if not row.key.startswith("chunk")):
            wrong[row.key] = wrong.get(row.key, 0) + (row.verdict is not Verdict.NOT_SHOWN)
    by_metric = {key: n / runs for key, n in wrong.items()} if runs else {}
    return SelfTest(runs=runs, false_alarms=alarms, by_metric=by_metric)


def _turns(parts: Sequence[Part]) -> dict[str, list[ArmTurn]]:
    """Return when each arm replays what, one turn after the other."""
    turns: dict[str, list[ArmTurn]] = {"a": [], "b": []}
    now_s = 0.0
    for name, part in abba(parts, list(turns)):
        turns[name].append(ArmTurn(part, now_s))
        now_s += part.length_s
    return turns


def virtual_run(
    arm: str, turns: Iterable[ArmTurn], fleet: Fleet, seed: int, slow: float = 1.0
) -> list[Record]:
    """Return what a fleet with random routing makes of *turns*, in virtual time."""
    rng = random.Random(seed)
    engines = {replica.name: _engine(fleet, replica.model, slow) for replica in fleet.replicas}
    names = {m.name: [r.name for r in fleet.replicas_of(m.name)] for m in fleet.models}
    arrivals = [
        (turn.start_s + call.at_s - turn.part.start_s, turn, call)
        for turn in turns
        for call in turn.part.calls
    ]
    records: list[Record] = []
    under_way: dict[int, tuple[float, ArmTurn, Call, Running]] = {}
    ends: list[tuple[float, str]] = []

    def start(name: str, now_s: float) -> None:
        until_s = engines[name].begin(now_s, _STEPS_AT_ONCE)
        if until_s is not None:
            heapq.heappush(ends, (until_s, name))

    def run_until(limit_s: float) -> None:
        while ends and ends[0][0] <= limit_s:
            at_s, name = heapq.heappop(ends)
            busy_until_s = engines[name].busy_until
            if busy_until_s is None or busy_until_s > at_s + 1e-12:
                continue
            if busy_until_s < at_s - 1e-12:
                continue
            step = engines[name].end()
            start(name, at_s)
            for ended in step.finished:
                due_s, turn, call, running = under_way.pop(ended.request.id)
                came_s = at_s + engines[name].late_s
                records.append(_record(arm, turn, call, due_s, running, came_s))

    for number, (due_s, turn, call) in enumerate(arrivals):
        run_until(due_s)
        name = rng.choice(names[call.model])
        engine = engines[name]
        request = EngineRequest(number, call.prompt_tokens, call.output_tokens, _segments(call))
        under_way[number] = due_s, turn, call, engine.submit(request, due_s)
        if engine.busy_until is None:
            start(name, due_s)
        else:
            # The arrival may have cut the run of steps short.
            heapq.heappush(ends, (engine.busy_until, name))
    run_until(float("inf"))
    return records


def _engine(fleet: Fleet, model_name: str, slow: float) -> SimulatedEngine:
    model = fleet.model(model_name)
    calibration = calibration_for(
        model_name,
        tensor_parallel_size=model.tensor_parallel_size,
        utilization=model.gpu_memory_utilization,
    )
    config = EngineConfig(
        num_blocks=calibration.kv_cache_tokens // _BLOCK,
        max_model_len=model.max_model_len,
        segment_tokens=BLOCK_TOKENS,
    )
    return SimulatedEngine(config, calibration.profile.faster(1.0 / slow))


def _segments(call: Call) -> tuple[int, ...]:
    """A block's hash stands for everything up to its end."""
    return tuple(_chained(call.blocks[: call.prompt_tokens // BLOCK_TOKENS]))


def _chained(blocks: Iterable[int]) -> Iterator[int]:
    before = 0
    for block in blocks:
        before = hash((before, block))
        yield before


def _record(
    arm: str, turn: ArmTurn, call: Call, due_s: float, running: Running, end_s: float
) -> Record:
    """First and last token only: the times between them are not kept, and no ITL is claimed."""
    several = call.output_tokens > 2
    return Record(
        arm=arm,
        part=turn.part.number,
        part_s=call.at_s - turn.part.start_s,
        model=call.model,
        conversation=call.conversation,
        asked_prompt_tokens=call.prompt_tokens,
        asked_output_tokens=call.output_tokens,
        due_s=due_s,
        sent_s=due_s,
        wrote_s=due_s,
        content_s=(running.first_token_s, end_s) if several else (running.first_token_s,),
        end_s=end_s,
        prompt_tokens=call.prompt_tokens,
        completion_tokens=call.output_tokens,
    )
