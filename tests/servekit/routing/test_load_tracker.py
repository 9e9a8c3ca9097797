"""The ledger: requests are conserved, and old polls are unknown."""

from hypothesis import given
from hypothesis import strategies as st

from servekit.metrics.engine_load import EngineLoad
from servekit.routing.load_tracker import InFlight, LoadTracker, Pool

NAMES = ("a", "b", "c")


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["begin", "first_byte", "end"]), st.integers(0, 50)), max_size=80
    )
)
def test_requests_in_flight_are_conserved(steps: list[tuple[str, int]]) -> None:
    """What is in flight is what began and did not end, in whatever order, and never below 0."""
    tracker = LoadTracker(period_s=1.0)
    replicas = [tracker.load_of(name) for name in NAMES]
    begun: list[InFlight] = []
    for step, number in steps:
        if step == "begin":
            begun.append(tracker.begin(replicas[number % 3], prompt_tokens=number))
        elif begun and step == "first_byte":
            tracker.first_byte(begun[number % len(begun)])
        elif begun:
            tracker.end(begun[number % len(begun)])

        for replica in replicas:
            open_ones = [r for r in begun if r.replica is replica and not r.ended]
            assert replica.in_flight == len(open_ones)
            assert replica.prefilling == sum(r.prefilling for r in open_ones)

    for request in begun:
        tracker.end(request)
    assert [(a.in_flight, a.prefilling) for a in replicas] == [(0, 0)] * 3


def test_poll_older_than_three_periods_is_unknown() -> None:
    """A stale load is None, not zero and not the last value."""
    tracker = LoadTracker(period_s=0.5)
    replica = tracker.load_of("a")
    tracker.polled("a", EngineLoad(running=4, waiting=1), now_s=10.0)

    assert replica.engine_load(11.5) == EngineLoad(running=4, waiting=1)
    assert replica.held(11.5) - replica.ours == 5
    assert replica.engine_load(11.6) is None
    assert replica.held(11.6) - replica.ours == 0


def test_requests_of_others_are_what_the_engine_holds_beyond_ours() -> None:
    """Our own requests are not counted twice."""
    tracker = LoadTracker(period_s=1.0)
    replica = tracker.load_of("a")
    for _ in range(3):
        tracker.begin(replica)
    tracker.polled("a", EngineLoad(running=4, waiting=1), now_s=0.0)

    assert replica.held(0.0) - replica.ours == 2
    assert replica.held(0.0) == 5
    assert replica.held(9.0) == 3


def test_speed_is_tokens_per_second_and_running_request() -> None:
    """Two polls a second apart, ten running, 500 tokens: 50 tokens/s each."""
    tracker = LoadTracker(period_s=1.0)
    replica = tracker.load_of("a")
    tracker.polled("a", EngineLoad(running=10, generation_tokens=1000), now_s=0.0)
    tracker.polled("a", EngineLoad(running=10, generation_tokens=1500), now_s=1.0)

    assert replica.tokens_per_s == 50.0


def test_restarted_engine_does_not_turn_the_speed_negative() -> None:
    """A counter that fell back is no sample."""
    tracker = LoadTracker(period_s=1.0)
    replica = tracker.load_of("a")
    tracker.polled("a", EngineLoad(running=10, generation_tokens=1000), now_s=0.0)
    tracker.polled("a", EngineLoad(running=10, generation_tokens=10), now_s=1.0)

    assert replica.tokens_per_s is None


def test_request_of_a_replica_that_was_removed_still_ends() -> None:
    """Closing an account while it holds requests breaks nothing; reopening starts at zero."""
    tracker = LoadTracker(period_s=1.0)
    request = tracker.begin(tracker.load_of("a"), prompt_tokens=9)
    tracker.close("a")
    reopened = tracker.load_of("a")
    tracker.end(request)

    assert (request.replica.in_flight, reopened.in_flight) == (0, 0)


def test_pool_without_names_keeps_the_order_of_the_rest() -> None:
    """Retries go to what is left."""
    tracker = LoadTracker(period_s=1.0)
    pool = Pool(tracker.load_of(name) for name in NAMES)

    assert [a.name for a in pool.without(["b"])] == ["a", "c"]
    assert pool.without(["b"]).named("b") is None
