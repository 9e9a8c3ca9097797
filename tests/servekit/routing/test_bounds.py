"""Where exactly rules begin to hold: the least count, the last second, the smallest memory."""

from random import Random

import pytest

from servekit.metrics.engine_load import EngineLoad
from servekit.routing.latency import PRIOR, ClaimedLoads, Latency
from servekit.routing.load_tracker import (
    SLOW_START_FACTOR,
    SLOW_START_S,
    LoadTracker,
    Pool,
)
from servekit.routing.prefix_index import BLOCKS_PER_RUN, PrefixIndex
from servekit.routing.request import RouteRequest
from servekit.routing.token_estimate import TokenEstimate


def test_request_of_unknown_length_reads_nothing() -> None:
    """Unknown is not one token."""
    tracker = LoadTracker(1.0)
    load = tracker.load_of("a")
    tracker.begin(load)

    assert (load.in_flight, load.prefilling) == (1, 0)


def test_one_counted_token_is_a_count() -> None:
    """None, or less, is not."""
    estimate = TokenEstimate()
    estimate.learn(100, 0, 0, 0)
    assert estimate.text_ratio == 1.0
    estimate.learn(100, 0, 0, 1)
    assert estimate.text_ratio < 1.0

    estimate = TokenEstimate()
    estimate.learn(0, 100, 0, 1)
    assert estimate.media_ratio < 1.0


def test_short_prompts_are_remembered_for_as_many_fewer() -> None:
    """Of prompts with one block each, an eighth of what the cache holds, and eight."""
    index = PrefixIndex()
    for block in range(1000):
        index.add("a", (block + 1,), capacity=160)

    assert index.size("a") == 160 // BLOCKS_PER_RUN + BLOCKS_PER_RUN


@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.75, 0.9])
def test_slow_starter_gets_its_share_until_the_end_of_its_start(share: float) -> None:
    """Among equals, of the choices in which it takes part it wins about half: with a factor of
    1.3 as well as with one of 4."""
    tracker = LoadTracker(1.0)
    pool = Pool(tracker.load_of(name) for name in "ab")
    tracker.returned("a", now_s=0.0)
    tracker.begin(pool[1], prompt_tokens=4000)
    policy = Latency(Random(0))
    now_s = share * SLOW_START_S
    factor = 1.0 + (SLOW_START_FACTOR - 1.0) * (1.0 - share)
    ask = RouteRequest(prompt_tokens=8000)

    won = sum(policy.choose(ask, pool, now_s).replica == "a" for _ in range(3000)) / 3000

    # Empty it wins whenever it is not held back, and when its seconds are few all the same.
    seconds = [PRIOR[0] + PRIOR[1] * 8000, PRIOR[0] + PRIOR[1] * 12_000 + PRIOR[3]]
    wins_anyhow = factor * seconds[0] < seconds[1]
    assert won == pytest.approx(0.99 if wins_anyhow else 1.0 / factor, abs=0.05)


def test_claim_that_is_not_doubted_counts_whole() -> None:
    """And one that four answers contradict not at all."""
    tracker, claims = LoadTracker(1.0), ClaimedLoads()
    load = tracker.load_of("a")
    tracker.polled("a", EngineLoad(running=40, waiting=0), 0.0)
    assert claims.believed(load, 0.0) == 40

    believed = []
    for _ in range(5):
        claims.heard("a", ttft_s=0.01, claimed_s=1.0, ours_s=0.01)
        believed.append(claims.believed(load, 0.0))
    assert believed == [30, 20, 10, 0, 0]

    claims.heard("a", ttft_s=1.0, claimed_s=1.0, ours_s=0.01)
    assert claims.believed(load, 0.0) == 10


def test_claim_that_answers_confirm_is_what_is_learnt() -> None:
    """A replica full of others' requests teaches what holding them costs."""
    tracker, policy = LoadTracker(1.0), Latency(Random(0))
    load = tracker.load_of("a")
    tracker.polled("a", EngineLoad(running=400, waiting=0), 0.0)
    for _ in range(300):
        request = RouteRequest(prompt_tokens=100)
        policy.sent(request, load, 0.0)
        policy.answered(request, load, 0.008 + 100 * PRIOR[1] + 400 * PRIOR[3])

    asked, per_unread, _, per_held = policy._model.weights()
    assert asked + 100 * per_unread < 0.05
    assert per_held == pytest.approx(PRIOR[3], rel=0.2)
