"""Requests are gathered where prompts come faster than steps, and nowhere else."""

from hypothesis import given
from hypothesis import strategies as st

from servekit.metrics.engine_load import EngineLoad
from servekit.routing.load_tracker import LoadTracker, ReplicaLoad
from servekit.routing.prompt_batching import (
    FEWEST_STEPS,
    LEAST_CACHED,
    MOST,
    MOST_STEPS,
    PromptBatching,
)

STEPS_PER_S = 50
PROMPT_TOKENS = 100
CACHED = 2 * LEAST_CACHED * PROMPT_TOKENS
# A period so long that no poll is stale.
POLL_S = 1e6


def _replica(
    tracker: LoadTracker, name: str = "a", *, waiting: int = 0, used: int = CACHED
) -> ReplicaLoad:
    """One whose engine was seen to take 50 steps a second over a cache of *used* tokens."""
    replica = tracker.load_of(name)
    for second in (0, 1):
        load = EngineLoad(
            running=10,
            waiting=waiting,
            kv_usage=0.5,
            kv_tokens=2 * used,
            generation_tokens=10 * STEPS_PER_S * second,
        )
        tracker.polled(name, load, float(second))
    return replica


def _open(batching: PromptBatching, replicas: int = 2) -> str | None:
    replica = batching.open(PROMPT_TOKENS, replicas, now_s=1.0)
    return None if replica is None else replica.name


def _after(replica: ReplicaLoad, other: ReplicaLoad, rate: float) -> PromptBatching:
    """Return one that saw *rate* requests a second for long, the last of them to *replica*."""
    batching = PromptBatching()
    for number in range(1, 1001):
        batching.sent(other, number / rate)
    batching.sent(replica, 1001 / rate)
    return batching


def test_prompts_that_come_faster_than_steps_are_gathered() -> None:
    """Just inside the bounds the last replica stays open, just outside it does not."""
    tracker = LoadTracker(POLL_S)
    replica, other = _replica(tracker), _replica(tracker, "b")
    slowest, fastest = (2 * STEPS_PER_S / steps for steps in (MOST_STEPS, FEWEST_STEPS))

    assert _open(_after(replica, other, 0.95 * slowest)) is None
    assert _open(_after(replica, other, 1.05 * slowest)) == "a"
    assert _open(_after(replica, other, 0.95 * fastest)) == "a"
    assert _open(_after(replica, other, 1.05 * fastest)) is None


def test_twice_the_replicas_take_twice_the_prompts() -> None:
    """What counts is how many come to each replica per step."""
    tracker = LoadTracker(POLL_S)
    batching = _after(_replica(tracker), _replica(tracker, "b"), 100.0)

    assert _open(batching, 2) == "a"
    assert _open(batching, 4) is None


def test_long_prompt_is_not_gathered() -> None:
    """Reading it takes longer than what a step without a prompt saves."""
    tracker = LoadTracker(POLL_S)
    batching = _after(_replica(tracker), _replica(tracker, "b"), 100.0)

    assert batching.open(CACHED // LEAST_CACHED, 2, now_s=1.0) is tracker.load_of("a")
    assert batching.open(CACHED // LEAST_CACHED + 1, 2, now_s=1.0) is None


def test_engine_without_memory_for_more_is_sent_no_group() -> None:
    """Its requests wait for memory: who is sent together is not read together."""
    tracker = LoadTracker(POLL_S)
    replica, other = _replica(tracker, waiting=MOST + 1), _replica(tracker, "b")

    assert _open(_after(replica, other, 100.0)) is None


def test_unknown_engine_is_sent_no_group() -> None:
    """Never polled, or not for long: it may take any number of steps."""
    tracker = LoadTracker(POLL_S)
    known, other = _replica(tracker), _replica(tracker, "b")

    assert _open(_after(tracker.load_of("c"), other, 100.0)) is None
    assert _after(known, other, 100.0).open(PROMPT_TOKENS, 2, now_s=4 * POLL_S) is None


def test_nobody_was_sent_anything_yet() -> None:
    """The first request follows no other."""
    assert _open(PromptBatching()) is None


@given(gaps=st.lists(st.floats(0.0, 0.02), min_size=MOST, max_size=60))
def test_no_more_than_so_many_go_to_one_replica_in_a_row(gaps: list[float]) -> None:
    """However fast they come, a group ends."""
    tracker = LoadTracker(POLL_S)
    replica = _replica(tracker)
    batching, now_s = _after(replica, _replica(tracker, "b"), 100.0), 1001 / 100.0
    for gap_s in gaps:
        now_s += gap_s
        batching.sent(replica, now_s)

    assert _open(batching) is None


def test_pause_is_forgotten_within_seconds() -> None:
    """After a night without requests they are gathered again as soon as they come fast."""
    tracker = LoadTracker(POLL_S)
    replica, other = _replica(tracker), _replica(tracker, "b")
    batching = _after(replica, other, 100.0)
    now_s = 40_000.0
    for number in range(300):
        now_s += 0.01
        batching.sent(replica if number % 2 else other, now_s)

    assert _open(batching) == "a"
