"""The world around the engines: nobody is lost, whatever breaks, and a run repeats to the bit."""

from collections.abc import Sequence
from dataclasses import replace
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.fleetsim.outcome import CUT, OK, FleetOutcome
from bench.fleetsim.scenario import Arrival, Autoscale, ReplicaFailure, ReplicaSetup, Scenario
from bench.fleetsim.world import World
from servekit.enginesim.calibration import EngineCalibration
from servekit.enginesim.engine_args import EngineOptions
from servekit.errors.tree import SettingInvalid
from servekit.routing.registry import POLICY_NAMES, policy_named
from tests.servekit.enginesim.driving import PROFILE

SLOW = PROFILE.faster(0.25)


def _setup(name: str, *, kv_tokens: int = 50_000, slow: bool = False) -> ReplicaSetup:
    profile = SLOW if slow else PROFILE
    return ReplicaSetup(
        name, "m", EngineCalibration("m", "test", 1, profile, kv_tokens, "made up"), 4000
    )


def _load(number: int, *, rate: float = 20.0, seed: int = 1) -> list[Arrival]:
    """*number* requests, half of them with one of eight shared beginnings."""
    rng, now, arrivals = Random(seed), 0.0, []
    for fresh in range(number):
        now += rng.expovariate(rate)
        shared = rng.randrange(16)
        blocks = (shared, fresh + 100) if shared < 8 else (fresh + 100, fresh + 100_000)
        arrivals.append(Arrival(now, "m", 1100, rng.randint(1, 200), blocks, str(shared)))
    return arrivals


def _run(arrivals: Sequence[Arrival], policy: str = "queue", **changes: object) -> FleetOutcome:
    settings: dict[str, object] = {"replicas": tuple(_setup(f"r{n}") for n in range(3))}
    scenario = Scenario(**(settings | changes))  # type: ignore[arg-type]
    return World(scenario, lambda rng: policy_named(policy, rng)).run(arrivals)


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_every_policy_serves_everyone_once(policy: str) -> None:
    """Each request ends once, with its first token before its last."""
    outcome = _run(_load(200), policy)

    assert sorted(outcome.number) == list(range(200))
    assert outcome.failed == 0
    pairs = zip(outcome.ttft_s, outcome.e2e_s, strict=True)
    assert all(0 < ttft <= e2e for ttft, e2e in pairs)


@pytest.mark.parametrize("policy", POLICY_NAMES)
def test_run_repeats_to_the_bit(policy: str) -> None:
    """The same seed gives the same numbers; nothing else decides them."""
    failures = (ReplicaFailure("r1", 2.0, 1.0),)

    one = _run(_load(300), policy, failures=failures)
    two = _run(_load(300), policy, failures=failures)

    assert one.digest() == two.digest()


@given(
    failures=st.lists(
        st.tuples(st.sampled_from(["r0", "r1", "r2"]), st.floats(0.0, 6.0), st.floats(0.05, 3.0)),
        max_size=6,
    ),
    policy=st.sampled_from(["round-robin", "least-inflight", "queue"]),
)
def test_failures_lose_nobody(failures: list[tuple[str, float, float]], policy: str) -> None:
    """Whatever dies and comes back, every request ends exactly once, as whole, cut or refused."""
    planned = tuple(ReplicaFailure(name, at, down) for name, at, down in failures)

    outcome = _run(_load(100), policy, failures=planned)

    assert sorted(outcome.number) == list(range(100))


def test_dead_replica_cuts_streams_and_sends_the_rest_elsewhere() -> None:
    """Who has seen a token is cut off; who has not is served by another replica."""
    # At 200 requests/s prompts queue, so that some have no token yet when it dies.
    failures = (ReplicaFailure("r0", 0.4, 60.0),)
    outcome = _run(_load(100, rate=200.0), "round-robin", failures=failures)

    assert outcome.status.count(CUT) > 0
    assert outcome.status.count(OK) + outcome.status.count(CUT) == 100
    assert outcome.retries > 0


def test_stale_metrics_herd() -> None:
    """The seed's rule sends everyone to one replica between two polls; counting does not."""
    arrivals = _load(400, rate=40.0)

    herding = _run(arrivals, "least-waiting", poll_s=1.0)
    counting = _run(arrivals, "least-inflight", poll_s=1.0)

    assert herding.ttft_quantiles([0.99])[0] > 1.5 * counting.ttft_quantiles([0.99])[0]


def test_slow_replica_gets_less_from_a_policy_that_looks() -> None:
    """A GPU at a quarter of the speed is sent its share by turns, and less by work."""
    mixed = (_setup("fast"), _setup("slow", slow=True))

    def share(policy: str) -> float:
        outcome = _run(_load(200, rate=8.0), policy, replicas=mixed)
        return sum(outcome.replica_names[n] == "slow" for n in outcome.replica) / 200

    assert share("round-robin") == pytest.approx(0.5)
    assert share("least-inflight") < 0.4


def test_shared_prefixes_hit_more_where_they_are_sent_back() -> None:
    """Prefix affinity finds in one cache what round-robin spreads over three."""
    arrivals = _load(300, rate=10.0)
    small = tuple(_setup(f"r{n}", kv_tokens=12_000) for n in range(3))

    affine = _run(arrivals, "prefix", replicas=small)
    turns = _run(arrivals, "round-robin", replicas=small)

    assert affine.hit_rate > turns.hit_rate


def test_fleet_grows_with_load_and_shrinks_after_it() -> None:
    """Replicas start when many wait, serve after their start, and leave when they idle."""
    rule = Autoscale(in_flight=4, most=6, start_s=2.0, every_s=1.0, idle_s=5.0)
    burst = _load(400, rate=60.0)
    calm = [Arrival(60.0 + n * 2.0, "m", 1100, 10, (n + 10**6, n + 2 * 10**6)) for n in range(20)]

    outcome = _run([*burst, *calm], replicas=(_setup("r0"),), autoscale=rule)
    alone = _run([*burst, *calm], replicas=(_setup("r0"),))

    assert len(outcome.replica_names) > 3
    assert outcome.ttft_quantiles([0.9])[0] < alone.ttft_quantiles([0.9])[0]
    assert outcome.replica_s < len(outcome.replica_names) * outcome.end_s
    assert outcome.failed == 0


def test_engines_of_one_gpu_share_its_memory() -> None:
    """Two models on one GPU serve everyone, hold no more than there is, and slow each other."""

    def setups(shared: str | None) -> tuple[ReplicaSetup, ...]:
        return tuple(
            ReplicaSetup(
                name,
                name,
                EngineCalibration(name, "test", 1, PROFILE, 50_000, "made up"),
                4000,
                shares=shared,
                kv_bytes_per_token=100.0,
            )
            for name in ("a", "b")
        )

    arrivals = [Arrival(n * 0.05, "ab"[n % 2], 1100, 50, (n, n + 1000)) for n in range(100)]
    together = _run(arrivals, replicas=setups("gpu-0"), shared_bytes=8_000 * 100.0)
    apart = _run(arrivals, replicas=setups(None))

    assert together.failed == 0
    assert together.e2e_quantiles([0.5])[0] > apart.e2e_quantiles([0.5])[0]


def test_scenarios_that_contradict_themselves_are_refused() -> None:
    """A name twice, or a failure of nobody."""
    with pytest.raises(SettingInvalid, match="must be unique"):
        Scenario((_setup("a"), _setup("a")))
    with pytest.raises(SettingInvalid, match="no replica has this name"):
        Scenario((_setup("a"),), failures=(ReplicaFailure("b", 1.0, 1.0),))


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), -1.0])
def test_times_that_are_none_are_refused(odd: float) -> None:
    """NaN passes every comparison that is not made for it."""
    with pytest.raises(SettingInvalid, match="at least 0 s"):
        ReplicaFailure("a", odd, 1.0)
    with pytest.raises(SettingInvalid, match="at least 0 s"):
        ReplicaFailure("a", 1.0, odd)
    with pytest.raises(SettingInvalid, match="poll_s"):
        Scenario((_setup("a"),), poll_s=odd)
    for fields in ({"in_flight": odd}, {"start_s": odd}, {"every_s": odd}):
        with pytest.raises(SettingInvalid, match="autoscaling"):
            Autoscale(**({"in_flight": 1.0, "most": 2, "start_s": 1.0} | fields))  # type: ignore[arg-type]


def test_a_replica_that_is_added_is_like_the_others() -> None:
    """With the arguments of its model, and memory of its own."""
    options = EngineOptions(max_num_seqs=2)
    slow = (replace(_setup("a"), options=options),)
    rule = Autoscale(in_flight=1.0, most=4, start_s=0.5, every_s=0.5)

    few = _run(_load(100, rate=50.0), replicas=slow, autoscale=rule)
    many = _run(_load(100, rate=50.0), replicas=(_setup("a"),), autoscale=rule)

    assert few.failed == many.failed == 0
    assert len(few.replica_names) > 1
    assert few.e2e_quantiles([0.5])[0] > 1.5 * many.e2e_quantiles([0.5])[0]
