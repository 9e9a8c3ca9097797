"""The false-alarm rate of the verdict: an arm is compared with itself in virtual time.  Pure.

Both arms are the same simulated fleet with the same policy, a replica at random; only the random
seeds differ.  A comparison that calls one of them better errs, which at 95 % it may in one run of
twenty.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import replace

import msgspec

from bench.fleetsim.scenario import ReplicaSetup, Scenario
from bench.fleetsim.world import World
from bench.loadgen.record import Record
from bench.loadgen.replay import in_random_order
from bench.stats.comparison import Comparison, compare
from bench.stats.intervals import Verdict
from bench.stats.looks import share_of
from bench.stats.windowed_metrics import SloLimits, turns_of
from bench.twin.fleet_run import arrivals_of, longest, records_of, setups_of
from bench.workload.schedule import Part, PartLayout, Schedule
from servekit.fleet.fleet import Fleet
from servekit.routing.simple import RandomPolicy

# Between two turns where arms are drained: nearly all answers have ended.
_DRAINED_S = 20.0


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
    schedules: Iterable[Schedule],
    fleet: Fleet,
    layout: PartLayout,
    slow: float = 1.0,
    *,
    min_effect: float = 0.0,
) -> SelfTest:
    """Return what the comparison says of one run per schedule, laid out as *layout* says, both arms
    being alike.

    With *slow* above 1, one arm's engines are slower by that factor: how often that is seen is the
    power of the comparison, and not a false alarm.
    """
    runs = alarms = 0
    wrong: dict[str, int] = {}
    for number, schedule in enumerate(schedules):
        _, *parts = layout.split(schedule)
        turns = _turns(parts, random.Random(number), layout.drain)
        baseline, candidate = (
            virtual_run(name, own, fleet, 2 * number + place, slow if place else 1.0)
            for place, (name, own) in enumerate(turns.items())
        )
        found = _compared(baseline, candidate, parts, layout.looks, number, min_effect)
        runs += 1
        alarms += found.verdict is not Verdict.NOT_SHOWN
        for row in found.rows:
            wrong[row.key] = wrong.get(row.key, 0) + (row.verdict is not Verdict.NOT_SHOWN)
    by_metric = {key: n / runs for key, n in wrong.items()} if runs else {}
    return SelfTest(runs=runs, false_alarms=alarms, by_metric=by_metric)


def _compared(
    baseline: Sequence[Record],
    candidate: Sequence[Record],
    parts: Sequence[Part],
    looks: Sequence[int],
    seed: int,
    min_effect: float,
) -> Comparison:
    """Return the comparison at the first look that shows a difference, or at the end."""
    for look in looks or (len(parts),):
        found = compare(
            baseline,
            candidate,
            turns_of(parts[:look]),
            goal=SloLimits(),
            seed=seed,
            min_effect=min_effect,
            share=share_of(looks),
        )
        if found.verdict is not Verdict.NOT_SHOWN:
            break
    return found


def _turns(parts: Sequence[Part], rng: random.Random, drain: bool) -> dict[str, list[ArmTurn]]:
    """Return when each arm replays what, one turn after the other."""
    turns: dict[str, list[ArmTurn]] = {"a": [], "b": []}
    now_s = 0.0
    for name, part in in_random_order(parts, list(turns), rng):
        turns[name].append(ArmTurn(part, now_s))
        now_s += part.length_s + (_DRAINED_S if drain else 0.0)
    return turns


def virtual_run(
    arm: str, turns: Iterable[ArmTurn], fleet: Fleet, seed: int, slow: float = 1.0
) -> list[Record]:
    """Return what a fleet with random routing makes of *turns*, in virtual time."""
    placed = [(turn, call) for turn in turns for call in turn.part.calls]
    calls, parts = [], []
    for turn, call in placed:
        part_s = call.at_s - turn.part.start_s
        calls.append(msgspec.structs.replace(call, at_s=turn.start_s + part_s))
        parts.append((turn.part.number, part_s))
    setups = tuple(_slowed(setup, slow) for setup in setups_of(fleet, context=longest(calls)))
    world = World(Scenario(setups, seed=seed), RandomPolicy, keep_tokens=True)
    return records_of(calls, world.run(arrivals_of(calls)), arm, parts)


def _slowed(setup: ReplicaSetup, slow: float) -> ReplicaSetup:
    calibration = setup.calibration
    profile = calibration.profile.faster(1.0 / slow)
    return replace(setup, calibration=replace(calibration, profile=profile))
