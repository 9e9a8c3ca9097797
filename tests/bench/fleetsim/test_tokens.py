"""The time of every token, against what the request as a whole saw."""

from hypothesis import given
from hypothesis import strategies as st

from bench.fleetsim.outcome import OK
from bench.fleetsim.scenario import Arrival, ReplicaFailure, ReplicaSetup, Scenario
from bench.fleetsim.world import World
from servekit.enginesim.calibration import EngineCalibration
from servekit.routing.registry import policy_named
from tests.servekit.enginesim.driving import PROFILE


@given(
    asks=st.lists(
        st.tuples(st.floats(0.0, 0.2), st.integers(1, 900), st.integers(1, 60)),
        min_size=1,
        max_size=40,
    ),
    kv_tokens=st.sampled_from([1_200, 50_000]),
    dies=st.booleans(),
)
def test_every_answer_has_its_tokens_in_order(
    asks: list[tuple[float, int, int]], kv_tokens: int, dies: bool
) -> None:
    """As many as were asked for, the first at its TTFT and the last at its end, through preemption
    and death."""
    now, arrivals = 0.0, []
    for gap, prompt, output in asks:
        now += gap
        arrivals.append(Arrival(now, "m", prompt, output))
    calibration = EngineCalibration("m", "test", 1, PROFILE, kv_tokens, "made up")
    scenario = Scenario(
        tuple(ReplicaSetup(name, "m", calibration, 1000) for name in ("a", "b")),
        failures=(ReplicaFailure("a", 0.3, 0.2),) if dies else (),
    )

    outcome = World(scenario, lambda rng: policy_named("round-robin", rng), keep_tokens=True).run(
        arrivals
    )

    for place, number in enumerate(outcome.number):
        if outcome.status[place] != OK:
            assert number not in outcome.token_s
            continue
        times, at_s = outcome.token_s[number], arrivals[number].at_s
        assert len(times) == arrivals[number].output_tokens
        assert list(times) == sorted(times)
        assert times[0] - at_s == outcome.ttft_s[place]
        assert times[-1] - at_s == outcome.e2e_s[place]
