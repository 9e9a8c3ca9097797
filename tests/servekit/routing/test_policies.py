"""What every policy promises, and what each one is for."""

from collections import Counter
from itertools import pairwise
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors.tree import PolicyUnknown
from servekit.metrics.engine_load import EngineLoad
from servekit.routing.load_tracker import LoadTracker, Pool
from servekit.routing.registry import POLICY_NAMES, policy_named
from servekit.routing.request import RouteRequest

ASK = RouteRequest(model="m", prompt_tokens=100, blocks=(1, 2, 3), session="s")


def pool_of(tracker: LoadTracker, count: int) -> Pool:
    return Pool(tracker.load_of(f"r{number}") for number in range(count))


def picks(name: str, pool: Pool, times: int, now_s: float = 0.0) -> Counter[str]:
    policy = policy_named(name, Random(1))
    return Counter(policy.choose(ASK, pool, now_s).replica for _ in range(times))


@pytest.mark.parametrize("name", POLICY_NAMES)
@given(
    size=st.integers(1, 50),
    loads=st.lists(
        st.tuples(st.integers(0, 50), st.integers(0, 9), st.integers(0, 60), st.floats(0, 1))
    ),
    now_s=st.floats(0, 100),
    seed=st.integers(0, 9),
)
def test_policy_picks_one_of_the_candidates(
    name: str, size: int, loads: list[tuple[int, int, int, float]], now_s: float, seed: int
) -> None:
    """Whatever is known of the replicas: the choice is a candidate, and among the scores."""
    tracker = LoadTracker(period_s=1.0)
    pool = pool_of(tracker, size)
    for number, waiting, at_s, usage in loads:
        tracker.begin(tracker.load_of(f"r{number}"), prompt_tokens=waiting * 100)
        load = EngineLoad(running=3, waiting=waiting, kv_usage=usage)
        tracker.polled(f"r{number}", load, float(at_s))
    policy = policy_named(name, Random(seed))

    for _ in range(3):
        decision = policy.choose(ASK, pool, now_s)
        chosen = pool.named(decision.replica)
        assert chosen is not None
        assert decision.replica in dict(decision.scores)
        assert decision.policy == name
        policy.sent(ASK, chosen, now_s)
        policy.answered(ASK, chosen, 0.1)
    policy.forget(decision.replica)


@pytest.mark.parametrize("name", POLICY_NAMES)
def test_same_seed_makes_the_same_choices(name: str) -> None:
    """A simulation can be repeated."""
    first = [picks(name, pool_of(LoadTracker(1.0), 9), 50) for _ in range(2)]

    assert first[0] == first[1]


def test_round_robin_takes_turns_per_model() -> None:
    """A model's turns do not depend on other models' traffic."""
    pool = pool_of(LoadTracker(1.0), 2)
    policy = policy_named("round-robin", Random(0))
    models = ["m", "other", "m", "m", "other"]

    chosen = [policy.choose(RouteRequest(model=m), pool, 0.0).replica for m in models]

    assert chosen == ["r0", "r0", "r1", "r0", "r1"]


def test_least_waiting_herds_onto_the_first_while_nobody_queues() -> None:
    """The seed's rule to the letter: this is what is wrong with it."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 3)
    for replica in pool:
        tracker.polled(replica.name, EngineLoad(running=100, waiting=0), 0.0)

    assert picks("least-waiting", pool, 30) == {"r0": 30}


def test_least_waiting_passes_over_a_replica_without_metrics() -> None:
    """Unknown is not zero: a replica that could not be scraped is not the emptiest."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 2)
    tracker.polled("r1", EngineLoad(waiting=7), 0.0)

    assert picks("least-waiting", pool, 5) == {"r1": 5}
    assert picks("least-waiting", pool, 5, now_s=99.0) == {"r0": 5}


@pytest.mark.parametrize("name", ["least-inflight", "p2c", "queue"])
def test_ties_are_broken_by_chance(name: str) -> None:
    """Equal replicas share what arrives between two polls."""
    counts = picks(name, pool_of(LoadTracker(1.0), 4), 400)

    assert min(counts.values()) > 60
    assert len(counts) == 4


@pytest.mark.parametrize("name", ["least-inflight", "p2c", "queue"])
def test_our_own_requests_count_at_once(name: str) -> None:
    """No poll has to come for a request in flight to be seen."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 2)
    tracker.begin(pool[0])

    assert picks(name, pool, 20) == {"r1": 20}


def test_queue_avoids_a_replica_that_others_load() -> None:
    """What the engine holds beyond our own requests counts, while the poll is fresh."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 2)
    tracker.polled("r0", EngineLoad(running=9, waiting=0), 0.0)

    assert picks("queue", pool, 20) == {"r1": 20}
    assert len(picks("queue", pool, 50, now_s=9.0)) == 2


def test_queue_gives_a_slow_replica_less() -> None:
    """With four requests each, the one that drains them faster is next."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 2)
    for replica, tokens in zip(pool, (100, 160), strict=True):
        for _ in range(4):
            tracker.begin(replica)
        tracker.polled(replica.name, EngineLoad(running=4, generation_tokens=0), 0.0)
        tracker.polled(replica.name, EngineLoad(running=4, generation_tokens=tokens), 1.0)

    assert picks("queue", pool, 20, now_s=1.0) == {"r1": 20}


def test_queue_avoids_a_long_prompt_that_is_being_read() -> None:
    """One request with a prompt of 50,000 tokens weighs more than three short ones."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 2)
    long = tracker.begin(pool[0], prompt_tokens=50_000)
    for _ in range(3):
        tracker.begin(pool[1], prompt_tokens=10)

    assert picks("queue", pool, 20) == {"r1": 20}
    tracker.first_byte(long)
    assert picks("queue", pool, 20) == {"r0": 20}


def test_full_caches_do_not_send_everything_to_the_slowest() -> None:
    """Fast replicas fill theirs first; the slow one still gets what it can drain."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 2)
    for replica, tokens, usage in zip(pool, (100, 300), (0.5, 0.95), strict=True):
        for _ in range(4):
            tracker.begin(replica)
        for at_s, generated in ((0.0, 0), (1.0, tokens)):
            load = EngineLoad(running=4, kv_usage=usage, generation_tokens=generated)
            tracker.polled(replica.name, load, at_s)

    for name in ("queue", "prefix"):
        assert picks(name, pool, 20, now_s=1.0) == {"r1": 20}


def test_p2c_looks_at_two_of_a_thousand() -> None:
    """The cost of a choice does not grow with the fleet."""
    decision = policy_named("p2c", Random(0)).choose(ASK, pool_of(LoadTracker(1.0), 1000), 0.0)

    assert len(decision.scores) == 2


def test_unknown_policy_is_refused_with_the_list() -> None:
    """The message says what there is."""
    with pytest.raises(PolicyUnknown, match=r"'best' is unknown; there are: round-robin, random"):
        policy_named("best", Random(0))


def conversation(turns: int) -> RouteRequest:
    return RouteRequest(prompt_tokens=turns * 1280, blocks=tuple(range(turns * 10)))


def test_prefix_returns_to_the_replica_that_read_the_beginning() -> None:
    """A conversation's next turn finds its cache."""
    pool = pool_of(LoadTracker(1.0), 4)
    policy = policy_named("prefix", Random(0))
    policy.sent(conversation(3), pool[2], 0.0)

    decision = policy.choose(conversation(4), pool, 0.0)

    assert (decision.replica, decision.reason) == ("r2", "prefix")


def test_prefix_leaves_an_overloaded_replica() -> None:
    """A cache is not worth waiting behind twenty others."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 2)
    policy = policy_named("prefix", Random(0))
    policy.sent(conversation(3), pool[0], 0.0)
    for _ in range(20):
        tracker.begin(pool[0])

    assert policy.choose(conversation(4), pool, 0.0).replica == "r1"


def test_prefix_finds_its_replica_among_a_thousand() -> None:
    """A sample of a large fleet is completed by those that know the prompt."""
    pool = pool_of(LoadTracker(1.0), 1000)
    policy = policy_named("prefix", Random(0))
    policy.sent(conversation(3), pool[777], 0.0)

    decision = policy.choose(conversation(4), pool, 0.0)

    assert decision.replica == "r777"
    assert len(decision.scores) < 20


@pytest.mark.parametrize("name", ["prefix", "latency"])
@pytest.mark.parametrize("size", [1, 8, 32, 33, 200, 500])
def test_conversation_returns_to_its_replica_in_a_fleet_of_any_size(name: str, size: int) -> None:
    """Each of many conversations that share a system prompt finds the one that read its turns."""
    pool = pool_of(LoadTracker(1.0), size)
    policy = policy_named(name, Random(0))
    system = tuple(range(10))
    homes = {}
    for user in range(60):
        talk = RouteRequest(prompt_tokens=2560, blocks=system + blocks_of(user, 10))
        homes[user] = pool[user * 7 % size]
        policy.sent(talk, homes[user], 0.0)

    turns = [
        RouteRequest(prompt_tokens=3840, blocks=system + blocks_of(user, 20)) for user in homes
    ]
    decisions = [policy.choose(turn, pool, 0.0) for turn in turns]

    returned = [d.replica == homes[user].name for user, d in enumerate(decisions)]
    explored = sum(d.reason == "explore" for d in decisions)
    assert sum(returned) >= len(returned) - explored
    assert max(len(d.scores) for d in decisions) <= 32


def blocks_of(user: int, count: int) -> tuple[int, ...]:
    return tuple(1000 * (user + 1) + number for number in range(count))


def test_sample_of_a_large_fleet_has_holders_at_every_depth() -> None:
    """Where all have read the system prompt and one has read more, that one is looked at."""
    pool = pool_of(LoadTracker(1.0), 300)
    policy = policy_named("latency", Random(0))
    system = tuple(range(10))
    for replica in pool:
        policy.sent(RouteRequest(prompt_tokens=1280, blocks=system), replica, 0.0)
    talk = RouteRequest(prompt_tokens=3840, blocks=system + blocks_of(0, 20))
    policy.sent(talk, pool[123], 0.0)

    scores = policy.choose(talk, pool, 0.0).scores

    assert "r123" in dict(scores)
    assert 8 <= len(scores) <= 16


def test_restarted_replica_has_lost_its_prefixes() -> None:
    """What is forgotten attracts nobody."""
    pool = pool_of(LoadTracker(1.0), 2)
    policy = policy_named("prefix", Random(0))
    policy.sent(conversation(3), pool[0], 0.0)
    policy.forget("r0")

    assert policy.choose(conversation(4), pool, 0.0).reason == "least"


def test_session_stays_when_other_replicas_come_and_go() -> None:
    """Only the sessions of the replica that left move."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 5)
    policy = policy_named("session", Random(0))
    sessions = [RouteRequest(session=f"user-{number}") for number in range(200)]
    before = [policy.choose(s, pool, 0.0).replica for s in sessions]

    after = [policy.choose(s, pool.without(["r3"]), 0.0).replica for s in sessions]

    assert all(new == old for old, new in zip(before, after, strict=True) if old != "r3")
    assert set(before) == {f"r{number}" for number in range(5)}


def test_session_spills_over_when_its_home_is_full() -> None:
    """One hot session does not drown one replica."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 3)
    policy = policy_named("session", Random(0))
    home = policy.choose(ASK, pool, 0.0).replica
    for _ in range(30):
        tracker.begin(tracker.load_of(home))

    decision = policy.choose(ASK, pool, 0.0)

    assert decision.replica != home
    assert decision.reason == "spilled"


def test_latency_learns_which_replica_is_slow() -> None:
    """Ten slow answers teach it; the prior alone would call them equal."""
    pool = pool_of(LoadTracker(1.0), 2)
    policy = policy_named("latency", Random(0))
    for number in range(20):
        request = RouteRequest(prompt_tokens=1000)
        replica = pool[number % 2]
        policy.sent(request, replica, 0.0)
        policy.answered(request, replica, 0.5 if replica.name == "r0" else 0.1)

    chosen = Counter(
        policy.choose(RouteRequest(prompt_tokens=1000), pool, 0.0).replica for _ in range(1000)
    )

    assert chosen["r1"] > 970
    # A replica that was slow once can show that it is no longer.
    assert chosen["r0"] > 0


def test_prefix_remembers_as_much_as_the_engine_says_it_keeps() -> None:
    """A replica with room for 20 blocks has forgotten the first of two conversations."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 2)
    tracker.polled("r0", EngineLoad(running=0, waiting=0, kv_tokens=20 * 128), 0.0)
    other = RouteRequest(prompt_tokens=2560, blocks=tuple(range(100, 120)))
    for name in ("prefix", "latency"):
        policy = policy_named(name, Random(0))
        policy.sent(conversation(1), pool[0], 0.0)
        policy.sent(conversation(1), pool[1], 0.0)
        policy.sent(other, pool[0], 0.0)
        policy.sent(other, pool[1], 0.0)

        scores = dict(policy.choose(conversation(1), pool, 0.0).scores)

        forgotten, known = scores["r0"], scores["r1"]
        assert forgotten is not None
        assert known is not None
        assert known < forgotten


def busy_pool(tracker: LoadTracker) -> Pool:
    """Two replicas that take 80 steps a second, each with ten requests of 5,000 tokens."""
    pool = pool_of(tracker, 2)
    for replica in pool:
        for _ in range(10):
            tracker.begin(replica, prompt_tokens=5000)
        for at_s, tokens in ((0.0, 0), (1.0, 800)):
            load = EngineLoad(
                running=10, waiting=0, kv_usage=0.5, kv_tokens=10**8, generation_tokens=tokens
            )
            tracker.polled(replica.name, load, at_s)
    return pool


def test_latency_sends_a_few_at_a_time_where_every_step_reads_a_prompt() -> None:
    """Two hundred prompts a second and eighty steps: one follows the other, for a while."""
    pool = busy_pool(LoadTracker(period_s=100.0))
    policy = policy_named("latency", Random(0))
    ask = RouteRequest(prompt_tokens=10)
    chosen = []
    for number in range(2000):
        now_s = 1.0 + number / 200
        decision = policy.choose(ask, pool, now_s)
        replica = pool.named(decision.replica)
        assert replica is not None
        policy.sent(ask, replica, now_s)
        chosen.append(decision.replica)

    follows = sum(one == other for one, other in pairwise(chosen[-1000:]))
    assert follows > 750
    assert 400 < chosen[-1000:].count("r0") < 600


def test_latency_does_not_gather_at_the_price_of_a_cached_prompt() -> None:
    """Who has read the prompt gets it, whoever got the one before."""
    pool = busy_pool(LoadTracker(period_s=100.0))
    policy = policy_named("latency", Random(0))
    policy.sent(conversation(60), pool[1], 1.0)
    for number in range(400):
        policy.sent(RouteRequest(prompt_tokens=10), pool[number // 4 % 2], 1.0 + number / 200)
    policy.sent(RouteRequest(prompt_tokens=10), pool[0], 3.01)

    reasons = [policy.choose(conversation(60), pool, 3.02) for _ in range(50)]

    assert sum(decision.replica == "r1" for decision in reasons) > 40
    assert policy.choose(RouteRequest(prompt_tokens=10), pool, 3.02).reason == "together"


def test_latency_does_not_crowd_a_replica_whose_first_tokens_are_as_soon() -> None:
    """Two hundred held have not delayed one yet: they still are a reason to go elsewhere."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 2)
    policy = policy_named("latency", Random(0))
    for _ in range(200):
        tracker.begin(pool[0])
    for number in range(4000):
        request, replica = RouteRequest(prompt_tokens=100), pool[number % 2]
        policy.sent(request, replica, 0.0)
        policy.answered(request, replica, 0.02)

    chosen = Counter(
        policy.choose(RouteRequest(prompt_tokens=100), pool, 0.0).replica for _ in range(1000)
    )

    assert chosen["r1"] > 950


def test_latency_gives_a_slow_starter_a_share_of_a_busy_fleet() -> None:
    """It is faster than the others there, and gets more as time passes, not all and not nothing."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 2)
    for _ in range(10):
        tracker.begin(pool[1], prompt_tokens=100)
    tracker.returned("r0", now_s=100.0)
    policy = policy_named("latency", Random(0))

    def share(now_s: float) -> float:
        ask = RouteRequest(prompt_tokens=1000)
        return sum(policy.choose(ask, pool, now_s).replica == "r0" for _ in range(1000)) / 1000

    assert 0.15 < share(100.0) < 0.4 < share(106.0) < share(111.0)


@pytest.mark.parametrize("name", ["least-inflight", "p2c", "queue", "prefix", "session", "latency"])
def test_replica_that_came_back_starts_slowly(name: str) -> None:
    """Empty after an absence, it is not given everything; ten seconds later it is as others."""
    tracker = LoadTracker(1.0)
    pool = pool_of(tracker, 2)
    for _ in range(2):
        tracker.begin(pool[1])
    tracker.returned("r0", now_s=100.0)
    policy = policy_named(name, Random(0))
    ask = RouteRequest(prompt_tokens=1000)

    def share(now_s: float) -> int:
        return sum(policy.choose(ask, pool, now_s).replica == "r0" for _ in range(400))

    assert share(100.0) < 0.4 * 400 < share(111.0)
