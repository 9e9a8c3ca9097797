"""Why two arms differ: faults are put into the second arm of a virtual run, and must be named."""

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from random import Random
from statistics import fmean

import msgspec
import pytest

from bench.fleetsim.scenario import Scenario
from bench.fleetsim.world import World
from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import Record
from bench.loadgen.run_result import RunResult
from bench.loadgen.server_metrics import ServerSnapshot
from bench.twin.causes import BUFFERING, CACHE, CONNECT, ENGINE, LINK, ROUTING, Explanation, explain
from bench.twin.factor_replay import Factors, Twin
from bench.twin.fleet_run import arrivals_of, records_of, setups_of
from bench.twin.stages import stages_of
from bench.twin.why_accuracy import FaultRuns
from bench.twin.why_text import accuracy_markdown, why_markdown
from bench.workload.generators import TokenLengths
from bench.workload.registry import WorkloadSpec, make_schedule
from bench.workload.schedule import PartLayout, Schedule
from servekit.fleet.fleet import load_fleet
from servekit.metrics.engine_load import EngineLoad
from servekit.routing.decision import Decision
from servekit.routing.load_tracker import Pool
from servekit.routing.policy import Policy
from servekit.routing.request import RouteRequest
from servekit.routing.simple import RandomPolicy, RoundRobin
from tests.support.records import a_record

FLEET = load_fleet("h100")
MODEL = FLEET.models[0].name
LAYOUT = PartLayout(parts=1, part_s=20.0, warmup_s=0.0)
# As slow as to have a queue of few requests.
SPEED = 0.25


class OnlyTheFirst(RandomPolicy):
    """A policy that knows one replica."""

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        del request, now_s
        return Decision(pool[0].name, self.name, "first", ())


def schedule(seed: int) -> Schedule:
    return make_schedule(
        WorkloadSpec(
            workload="shared-prefix",
            shares={MODEL: 1.0},
            requests=150,
            rate=7.0,
            arrivals="poisson",
            seed=seed,
            lengths=TokenLengths(400.0, 100.0, 60.0, 15.0),
        )
    )


def an_arm(
    name: str,
    asked: Schedule,
    *,
    speed: float = SPEED,
    caching: bool = True,
    policy: Callable[[Random], Policy] = RoundRobin,
) -> tuple[list[Record], list[ServerSnapshot]]:
    """Return what a fleet makes of *asked*, and what its engines counted."""
    (part,) = LAYOUT.split(asked)[1:]
    setups = [
        replace(
            setup,
            calibration=replace(setup.calibration, profile=setup.calibration.profile.faster(speed)),
            options=replace(setup.options, prefix_caching=caching),
        )
        for setup in setups_of(FLEET)
        if setup.model == MODEL
    ]
    outcome = World(Scenario(tuple(setups)), policy, keep_tokens=True).run(arrivals_of(part.calls))
    places = [(part.number, call.at_s) for call in part.calls]
    records = records_of(part.calls, outcome, name, places)
    load = EngineLoad(
        prefix_queries=outcome.prefix_queries,
        prefix_hits=outcome.prefix_hits,
        prompt_tokens=outcome.prompt_tokens,
    )
    return records, counted(name, records, load)


def counted(arm: str, records: list[Record], load: EngineLoad) -> list[ServerSnapshot]:
    """Return two scrapes: before the run, and after all that *records* took inside an engine."""
    times = {
        "time_to_first_token": sum(r.content_s[0] - r.due_s for r in records),
        "e2e_request_latency": sum(r.last_token_s - r.due_s for r in records),
        "request_queue_time": 0.0,
        "request_prefill_time": sum(r.content_s[0] - r.due_s for r in records),
        "request_decode_time": sum(r.last_token_s - r.content_s[0] for r in records),
    }
    sums = {f"vllm:{name}_seconds_sum{{'engine': '0'}}": value for name, value in times.items()}
    counts = {f"vllm:{name}_seconds_count{{'engine': '0'}}": float(len(records)) for name in times}
    none = EngineLoad(prefix_queries=0, prefix_hits=0, prompt_tokens=0)
    empty = dict.fromkeys([*sums, *counts], 0.0)
    return [
        ServerSnapshot(at_s=-1.0, arm=arm, target="e", load=none, values=empty),
        ServerSnapshot(at_s=99.0, arm=arm, target="e", load=load, values={**sums, **counts}),
    ]


def held_back(record: Record) -> Record:
    """As a proxy that sends an answer on when it is whole."""
    return msgspec.structs.replace(
        record, content_s=(record.content_s[-1],) * len(record.content_s)
    )


def throttled(record: Record) -> Record:
    """As a link that a token takes longer on than an engine."""
    sent_s, times = record.due_s, []
    for at_s in record.content_s:
        sent_s = max(at_s, sent_s) + 0.06
        times.append(sent_s)
    return msgspec.structs.replace(record, content_s=tuple(times), end_s=sent_s)


def connected_late(record: Record) -> Record:
    """As where every request has a handshake of its own."""
    later = tuple(at_s + 0.3 for at_s in record.content_s)
    return msgspec.structs.replace(
        record, wrote_s=record.sent_s + 0.3, content_s=later, end_s=record.end_s + 0.3
    )


def explained(
    seed: int, spoil: Callable[[Record], Record] = lambda record: record, **fault: object
) -> Explanation:
    asked = schedule(seed)
    one, said_of_one = an_arm("a", asked)
    other, said_of_other = an_arm("b", asked, **fault)  # type: ignore[arg-type]
    found = explain(a_run(asked, [*one, *map(spoil, other)], [*said_of_one, *said_of_other]), FLEET)
    assert found is not None
    return found


def a_run(asked: Schedule, records: list[Record], snapshots: list[ServerSnapshot]) -> RunResult:
    return RunResult(
        records=records,
        snapshots=snapshots,
        burden=ClientLoad(wall_s=1.0, cpu_s=0.1, cores=1, lag_p50_ms=0.0, lag_p99_ms=0.0),
        started=datetime.now(UTC),
        partial=False,
        arms=("a", "b"),
        schedule=asked,
        layout=LAYOUT,
        manifest={},
    )


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize(
    ("cause", "spoil", "fault"),
    [
        (ENGINE, None, {"speed": SPEED * 0.7}),
        (CACHE, None, {"caching": False}),
        (ROUTING, None, {"policy": OnlyTheFirst}),
        (BUFFERING, held_back, {}),
        (LINK, throttled, {}),
        (CONNECT, connected_late, {}),
    ],
    ids=["slow engine", "cold cache", "bad routing", "buffering", "throttled", "connecting"],
)
def test_the_fault_that_was_put_in_is_named_first(
    seed: int,
    cause: str,
    spoil: Callable[[Record], Record] | None,
    fault: dict[str, object],
) -> None:
    """And what is left unexplained is less than what it explains."""
    found = explained(seed, spoil or (lambda record: record), **fault)

    assert found.first == cause
    assert found.causes[-1].weight < found.causes[0].weight


def test_alike_arms_have_no_cause() -> None:
    """Nothing weighs a hundredth."""
    found = explained(1)

    assert max(cause.weight for cause in found.causes) < 0.01
    assert "no cause stands out" in why_markdown(found)


def test_causes_add_up_to_the_difference() -> None:
    """With what is unexplained, for both latencies."""
    found = explained(1, speed=SPEED * 0.8)

    first, second = found.arms
    assert sum(c.ttft for c in found.causes) == pytest.approx(second.ttft - first.ttft)
    assert sum(c.e2e for c in found.causes) == pytest.approx(second.e2e - first.e2e)


def test_without_counters_the_twin_is_silent() -> None:
    """Stamps alone do not tell an engine from a proxy."""
    asked = schedule(1)
    one, other = an_arm("a", asked)[0], an_arm("b", asked, speed=0.1)[0]

    found = explain(a_run(asked, [*one, *other], []), FLEET)

    assert found is not None
    assert not found.is_replayed
    assert found.arms[0].decode is None


def test_the_twin_comes_to_the_speed_of_an_arm() -> None:
    """A fleet at a quarter of the calibrated speed is found to be one."""
    asked = schedule(1)
    records, said = an_arm("a", asked)
    twin = Twin(a_run(asked, records, said), "a", FLEET)
    decode_ms = fmean(r.last_token_s - r.content_s[0] for r in records) * 1e3

    found = twin.at_speed_of(Factors(decisions=twin.decisions(records)), decode_ms)

    assert found.factors.speed == pytest.approx(SPEED, rel=0.02)
    assert found.means.decode == pytest.approx(decode_ms, rel=0.02)


def test_stages_are_means_of_what_each_side_counted() -> None:
    """By hand: TTFT 50, E2E 70, 5 connecting, 2 in the balancer, 30 and 45 in the engine."""
    record = a_record(arm="a", wrote_s=0.005)
    balancer = {
        "servekit_lb_queue_seconds_sum": 0.002 * 3,
        "servekit_lb_queue_seconds_count": 3.0,
    }
    engine = {
        "vllm:time_to_first_token_seconds_sum{'m': 'x'}": 0.030 * 3,
        "vllm:time_to_first_token_seconds_count{'m': 'x'}": 3.0,
        "vllm:e2e_request_latency_seconds_sum{'m': 'x'}": 0.045 * 3,
        "vllm:e2e_request_latency_seconds_count{'m': 'x'}": 3.0,
    }
    warm = {name: value * 9 for name, value in engine.items()}
    total = {name: value * 10 for name, value in engine.items()}
    cold, hot = (
        EngineLoad(prefix_queries=0, prefix_hits=0),
        EngineLoad(prefix_queries=8, prefix_hits=2),
    )
    snapshots = [
        ServerSnapshot(at_s=-2.0, arm="a", target="", values=dict.fromkeys(balancer, 0.0)),
        ServerSnapshot(at_s=-9.0, arm="a", target="e", load=cold, values={}),
        ServerSnapshot(at_s=-1.0, arm="a", target="e", load=cold, values=warm),
        ServerSnapshot(at_s=9.0, arm="a", target="e", load=hot, values=total),
        ServerSnapshot(at_s=9.0, arm="a", target="", values=balancer),
    ]

    found = stages_of(a_run(schedule(1), [record], snapshots), "a")

    assert found is not None
    assert found.ttft == pytest.approx(50.0)
    assert found.e2e == pytest.approx(70.0)
    assert found.connect == pytest.approx(5.0)
    assert found.balancer_queue == pytest.approx(2.0)
    assert found.path_first == pytest.approx(50.0 - 5.0 - 2.0 - 30.0)
    assert found.path_last == pytest.approx(70.0 - 5.0 - 2.0 - 45.0)
    assert found.engine_queue is None
    assert found.hit_share == pytest.approx(0.25)


@pytest.mark.parametrize(("target", "known"), [("127.0.0.1:8001", False), ("llama-8b-1", True)])
def test_engines_that_both_arms_have_tell_them_apart_in_nothing(target: str, known: bool) -> None:
    """Their counters hold the requests of both: of two load balancers before one fleet, "slow link"
    was what was left.  Fleets that are each arm's own have the same names, and no addresses."""
    record = a_record(arm="a", wrote_s=0.005)
    values = {
        "vllm:time_to_first_token_seconds_sum": 0.9,
        "vllm:time_to_first_token_seconds_count": 3.0,
    }
    snapshots = [
        ServerSnapshot(at_s=at_s, arm=arm, target=target, values=said)
        for arm in ("a", "b")
        for at_s, said in ((-1.0, {}), (9.0, values))
    ]

    found = stages_of(a_run(schedule(1), [record], snapshots), "a")

    assert found is not None
    assert (found.path_first is not None) is known


def test_a_table_says_what_was_named_instead() -> None:
    """Right ones are counted; wrong ones are named."""
    text = accuracy_markdown(
        [FaultRuns(fault="slow engine", cause=ENGINE, named=(ENGINE, ENGINE, CACHE, ENGINE))]
    )

    assert f"| slow engine | {ENGINE} | 4 | 3 | {CACHE} (1) |" in text
    assert "75% of 4 runs" in text
