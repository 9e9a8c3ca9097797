"""A run in the twin, with one factor exchanged at a time.  Pure.

The twin is given what an arm was really sent and to which replica the load balancer sent it, and is
brought to that arm's speed.  Then the other arm's routing, its caches, or its engines' speed take
the place of the arm's own, one of them at a time: the change of TTFT and E2E is that factor's.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from random import Random
from statistics import fmean
from typing import ClassVar

import msgspec

from bench.fleetsim.outcome import OK
from bench.fleetsim.scenario import Arrival, ReplicaSetup, Scenario
from bench.fleetsim.world import World
from bench.loadgen.record import Record
from bench.loadgen.run_result import RunResult
from bench.workload.schedule import Call
from servekit.enginesim.setup import engine_setup
from servekit.fleet.fleet import Fleet
from servekit.routing.decision import Decision
from servekit.routing.load_tracker import Pool
from servekit.routing.policy import StatelessPolicy
from servekit.routing.request import RouteRequest

# The twin's speed is brought to the engines' in rounds, each of which takes most of what is left;
# a longer queue is not in proportion to the speed.
_ROUNDS = 12
_CLOSE_ENOUGH = 0.002


class RecordedDecisions(StatelessPolicy):
    """Sends each request where it was really sent.  A request is known by its session."""

    name: ClassVar[str] = "recorded"
    reads_session: ClassVar[bool] = True

    def __init__(self, replicas: Mapping[str, str]) -> None:
        self._replicas = replicas

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        del now_s
        wanted = self._replicas.get(request.session or "", "")
        name = wanted if pool.named(wanted) is not None else pool[0].name
        return Decision(name, self.name, "recorded", ((name, None),))


class Means(msgspec.Struct, frozen=True):
    """Means per request, in ms, and what share of prompt tokens was in a cache."""

    ttft: float
    e2e: float
    hit_share: float

    @property
    def decode(self) -> float:
        return self.e2e - self.ttft


class Factors(msgspec.Struct, frozen=True, kw_only=True):
    """What the twin is run with.

    Attributes:
        decisions: the replica of each request, by its number.
        speed: of the engines, over the calibrated ones.
        caching: whether prefix caches are in use.
    """

    decisions: dict[str, str]
    speed: float = 1.0
    caching: bool = True


class ReplayedArm(msgspec.Struct, frozen=True, kw_only=True):
    """An arm in the twin: *means* are what *factors* give."""

    factors: Factors
    means: Means


class Twin:
    """The requests of one arm of a run, on engines of *fleet*'s kind."""

    def __init__(self, run: RunResult, arm: str, fleet: Fleet) -> None:
        calls = _calls_by_place(run)
        placed = [
            (record, calls[_place(record.part, record.part_s, record.conversation)])
            for record in sorted(run.of(arm), key=lambda record: record.due_s)
            if _place(record.part, record.part_s, record.conversation) in calls and record.ok
        ]
        self._keys = {
            _place(record.part, record.part_s, record.conversation): str(number)
            for number, (record, _) in enumerate(placed)
        }
        self._arrivals = [
            Arrival(
                at_s=record.due_s,
                model=record.model,
                prompt_tokens=record.prompt_tokens or call.prompt_tokens,
                output_tokens=record.completion_tokens or call.output_tokens,
                segments=call.segments,
                session=str(number),
            )
            for number, (record, call) in enumerate(placed)
        ]
        self._names = replica_names(run.of(arm))
        self._setups = _setups(self._names, fleet, self._longest)

    @property
    def is_empty(self) -> bool:
        return not self._arrivals

    @property
    def _longest(self) -> int:
        return max((a.prompt_tokens + a.output_tokens for a in self._arrivals), default=1)

    def decisions(self, records: Sequence[Record]) -> dict[str, str]:
        """Return where *records*, of this arm or of the other, were sent: the n-th replica of a
        model there is the n-th here."""
        other = replica_names(records)
        found = {}
        for record in records:
            key = self._keys.get(_place(record.part, record.part_s, record.conversation))
            own = self._names.get(record.model, [])
            if key is not None and own and record.served_by in other.get(record.model, []):
                place = other[record.model].index(record.served_by)
                found[key] = own[place % len(own)]
        return found

    def means(self, factors: Factors) -> Means:
        """Return what *factors* give."""
        setups = tuple(_changed(setup, factors) for setup in self._setups)
        policy = RecordedDecisions(factors.decisions)

        def recorded(_: Random) -> RecordedDecisions:
            return policy

        outcome = World(Scenario(setups), recorded).run(self._arrivals)
        whole = [n for n, status in enumerate(outcome.status) if status == OK]
        if not whole:
            return Means(0.0, 0.0, 0.0)
        return Means(
            fmean(outcome.ttft_s[n] for n in whole) * 1e3,
            fmean(outcome.e2e_s[n] for n in whole) * 1e3,
            outcome.hit_rate,
        )

    def at_speed_of(self, factors: Factors, decode_ms: float) -> ReplayedArm:
        """Return *factors* with the speed at which decoding takes *decode_ms* on average."""
        means = self.means(factors)
        for _ in range(_ROUNDS):
            if means.decode <= 0.0 or decode_ms <= 0.0:
                break
            if abs(means.decode / decode_ms - 1.0) < _CLOSE_ENOUGH:
                break
            speed = factors.speed * means.decode / decode_ms
            factors = msgspec.structs.replace(factors, speed=min(1e3, max(1e-3, speed)))
            means = self.means(factors)
        return ReplayedArm(factors=factors, means=means)


def replica_names(records: Sequence[Record]) -> dict[str, list[str]]:
    """Return the replicas that served each model, in order of their names."""
    found: dict[str, set[str]] = {}
    for record in records:
        found.setdefault(record.model, set()).add(record.served_by or "engine")
    return {model: sorted(names) for model, names in sorted(found.items())}


def _place(part: int, part_s: float, conversation: int) -> tuple[int, int, int]:
    """What both arms' records of one call have in common; times are sums, equal to the ns."""
    return part, round(part_s * 1e6), conversation


def _calls_by_place(run: RunResult) -> dict[tuple[int, int, int], Call]:
    return {
        _place(part.number, call.at_s - part.start_s, call.conversation): call
        for part in run.parts
        for call in part.calls
    }


def _setups(
    names: Mapping[str, Sequence[str]], fleet: Fleet, longest: int
) -> tuple[ReplicaSetup, ...]:
    """Return an engine for each replica; a model that *fleet* does not have is taken for its first:
    the speed is brought to what was measured anyway."""
    by_name = {model.name: model for model in fleet.models}
    setups = []
    for model, replicas in names.items():
        like = by_name.get(model, fleet.models[0])
        engine = engine_setup(like, fleet.replicas_of(like.name)[0].gpu)
        length = max(engine.max_model_len, longest)
        setups += [
            ReplicaSetup(name, model, engine.calibration, length, options=engine.options)
            for name in replicas
        ]
    return tuple(setups)


def _changed(setup: ReplicaSetup, factors: Factors) -> ReplicaSetup:
    calibration = setup.calibration
    profile = calibration.profile.faster(factors.speed)
    return replace(
        setup,
        calibration=replace(calibration, profile=profile),
        options=replace(setup.options, prefix_caching=factors.caching),
    )
