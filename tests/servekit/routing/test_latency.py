"""What `latency` learns is what the textbook's recursive least squares learns."""

import math
from collections import Counter, deque
from itertools import product
from random import Random

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.metrics.engine_load import EngineLoad
from servekit.routing.latency import (
    FORGETTING,
    PRIOR,
    Latency,
    SpeedRatios,
    TtftModel,
    not_negative,
)
from servekit.routing.load_tracker import InFlight, LoadTracker, Pool
from servekit.routing.request import RouteRequest

SCALES = (1.0, 1e-3, 1e-3, 0.1)

samples = st.lists(
    st.tuples(
        st.integers(0, 30_000), st.integers(0, 300_000), st.integers(0, 500), st.floats(0.0, 60.0)
    ),
    max_size=40,
)


class Textbook:
    """The same with matrices (Haykin, "Adaptive Filter Theory", table 10.1)."""

    def __init__(self) -> None:
        self.weights = [w / s for w, s in zip(PRIOR, SCALES, strict=True)]
        self.covariance = [[float(row == column) for column in range(4)] for row in range(4)]
        self.usual_s = 0.05

    def predict(self, inputs: tuple[int, int, int]) -> float:
        return sum(w * x for w, x in zip(self.weights, scaled(inputs), strict=True))

    def learn(self, inputs: tuple[int, int, int], ttft_s: float) -> None:
        x, p = scaled(inputs), self.covariance
        px = [sum(a * b for a, b in zip(row, x, strict=True)) for row in p]
        unsure = sum(a * b for a, b in zip(x, px, strict=True))
        # Bounded influence, and Huber's cut at four usual errors.
        spread = max(FORGETTING + unsure, 4.0 * unsure)
        error = max(-4.0 * self.usual_s, min(4.0 * self.usual_s, ttft_s - self.predict(inputs)))
        self.usual_s = max(1e-4, 0.95 * self.usual_s + 0.05 * abs(error))
        self.weights = [w + g / spread * error for w, g in zip(self.weights, px, strict=True)]
        forgetting = FORGETTING if max(p[i][i] for i in range(4)) < 100.0 else 1.0
        self.covariance = [
            [(p[i][j] - px[i] * px[j] / spread) / forgetting for j in range(4)] for i in range(4)
        ]


def likely(textbook: Textbook) -> list[float]:
    """Return the weights without one that is negative: by all subsets of those that may be 0, the
    one in which none is, nearest by the covariance."""
    precision = np.linalg.inv(np.array(textbook.covariance))
    best, found = math.inf, [0.0] * 4
    for free in product((False, True), repeat=4):
        kept = [i for i in range(4) if free[i]]
        trial = np.zeros(4)
        if kept:
            inner = precision[np.ix_(kept, kept)]
            trial[kept] = np.linalg.solve(inner, precision[kept] @ np.array(textbook.weights))
        away = trial - np.array(textbook.weights)
        distance = float(away @ precision @ away)
        if trial.min() >= 0.0 and distance < best:
            best, found = distance, list(trial)
    return found


def predicted(model: TtftModel, unread: int, queued: int, held: int) -> float:
    """Return the seconds that *model* has learnt to expect, as `latency` does."""
    asked, per_unread, per_queued, per_held = model.weights()
    return max(0.0, asked + per_unread * unread + per_queued * queued + per_held * held)


def scaled(inputs: tuple[int, int, int]) -> list[float]:
    return [x * s for x, s in zip((1, *inputs), SCALES, strict=True)]


@given(seen=samples)
def test_model_learns_what_the_textbook_does(seen: list[tuple[int, int, int, float]]) -> None:
    """Written out for speed, it says the same; where a weight would be negative, it is not."""
    model, textbook = TtftModel(), Textbook()
    for unread, queued, held, ttft_s in seen:
        model.learn(unread, queued, held, ttft_s)
        textbook.learn((unread, queued, held), ttft_s)

    found = [w / s for w, s in zip(model.weights(), SCALES, strict=True)]
    assert min(found) >= 0.0
    if min(textbook.weights) >= 0.0:
        assert found == pytest.approx(textbook.weights, rel=1e-6, abs=1e-6)


@given(
    seen=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), max_size=9)
)
def test_weights_on_their_bound_are_nearly_the_most_likely_ones(
    seen: list[tuple[int, int, int]],
) -> None:
    """Where more tokens take less time: as near as the exact solution, within a fifth."""
    textbook = Textbook()
    for unread, queued, held in seen:
        textbook.learn((100 * unread, 100 * queued, held), 1.0 / (1 + unread + queued))
    rows = textbook.covariance
    upper = tuple(rows[i][j] for i in range(4) for j in range(i, 4))

    found = not_negative(tuple(textbook.weights), upper)  # type: ignore[arg-type]

    exact = likely(textbook)
    assert min(found) >= -1e-12
    assert sum(found) == pytest.approx(sum(exact), rel=0.2, abs=1e-3)


TRUE_ASKED_S, TRUE_TOKEN_S, TRUE_HELD_S = 0.008, 21.5e-6, 0.0005


@pytest.mark.parametrize("share", [0.0, 0.02, 0.1, 0.5])
@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 2.0, 100.0])
@pytest.mark.parametrize("encoder_s", [0.0, 0.3])
def test_images_do_not_spoil_what_a_token_takes(
    share: float, factor: float, encoder_s: float
) -> None:
    """However wrongly their tokens are estimated, and however long an encoder takes besides."""
    policy, rng = Latency(Random(0)), Random(5)
    tracker = LoadTracker(1.0)
    replica = tracker.load_of("a")
    for _ in range(3000):
        tokens, held = rng.randrange(3000), rng.randrange(60)
        replica.in_flight, replica.prefilling = held, rng.randrange(2000)
        ttft_s = TRUE_ASKED_S + TRUE_TOKEN_S * (tokens + replica.prefilling) + TRUE_HELD_S * held
        media = 0
        if rng.random() < share:
            ttft_s += TRUE_TOKEN_S * 1300 + encoder_s
            media = round(1300 * factor)
        request = RouteRequest("m", tokens + media, media_tokens=media)
        policy.sent(request, replica, 0.0)
        policy.answered(request, replica, ttft_s * rng.lognormvariate(0.0, 0.1))

    assert policy._model.weights()[1] == pytest.approx(TRUE_TOKEN_S, rel=0.1)


def test_a_replica_that_claims_much_teaches_little() -> None:
    """One answer in fifty comes from one that says it holds 5,000 requests, and is as fast."""
    model, rng = TtftModel(), Random(6)
    for number in range(5000):
        held = rng.randrange(60)
        ttft_s = TRUE_ASKED_S + TRUE_TOKEN_S * 500 + TRUE_HELD_S * held
        model.learn(500, 0, 5000 if number % 50 == 0 else held, ttft_s)

    busy, idle = (predicted(model, 500, 0, held) for held in (50, 0))
    assert busy - idle > 0.5 * 50 * TRUE_HELD_S


@pytest.mark.parametrize("is_true", [True, False])
def test_claim_to_be_full_is_believed_as_far_as_answers_agree(is_true: bool) -> None:
    """A replica says that it holds 400 requests of others.  Where its answers take as long, it is
    left alone; where they come as soon as anyone's, it gets its share."""
    policy, rng = Latency(Random(0)), Random(8)
    tracker = LoadTracker(1.0)
    pool = Pool(tracker.load_of(name) for name in "abcd")
    for _ in range(20):
        tracker.polled("d", EngineLoad(running=400, waiting=0), 0.0)
    chosen: Counter[str] = Counter()
    open_requests: deque[InFlight] = deque()
    for number in range(6000):
        request = RouteRequest("m", rng.randrange(100, 1000))
        decision = policy.choose(request, pool, 0.0)
        replica = pool.named(decision.replica)
        assert replica is not None
        held = replica.in_flight + (400 if is_true and replica.name == "d" else 0)
        policy.sent(request, replica, 0.0)
        policy.answered(request, replica, 0.008 + 2e-5 * request.prompt_tokens + 0.0005 * held)
        open_requests.append(tracker.begin(replica))
        if len(open_requests) > 80:
            tracker.end(open_requests.popleft())
        chosen[replica.name] += number >= 4000

    if is_true:
        assert chosen["d"] < 40
    else:
        assert chosen["d"] > 300


def test_engines_whose_first_token_takes_the_same_whatever_they_hold() -> None:
    """What they hold has no weight then, and none below that."""
    model, rng = TtftModel(), Random(7)
    for _ in range(3000):
        model.learn(rng.randrange(3000), rng.randrange(9000), rng.randrange(99), 0.05)

    constant, *others = model.weights()
    assert constant == pytest.approx(0.05, rel=0.05)
    assert max(others) * 99 < 0.005
    assert min(others) >= 0.0


@given(
    seen=st.lists(
        st.tuples(
            st.sampled_from("abc"), st.floats(1e-3, 60.0), st.floats(1e-3, 60.0), st.booleans()
        ),
        max_size=60,
    )
)
def test_paces_stay_around_one(seen: list[tuple[str, float, float, bool]]) -> None:
    """They compare replicas: whoever came or was forgotten, their geometric mean is 1."""
    speed_ratios = SpeedRatios()
    known: set[str] = set()
    for replica, expected_s, ttft_s, forgotten in seen:
        speed_ratios.observe(replica, expected_s, ttft_s)
        known.add(replica)
        if forgotten:
            speed_ratios.forget(replica)
            known.discard(replica)

    assert math.isclose(math.prod(speed_ratios.of(replica) for replica in known), 1.0, rel_tol=1e-9)
    assert speed_ratios.of("stranger") == 1.0


def test_paces_stand_a_prediction_that_always_errs() -> None:
    """What all replicas share drifts for ever and must not over- or underflow."""
    speed_ratios = SpeedRatios()
    for _ in range(50_000):
        speed_ratios.observe("a", 60.0, 0.001)
        speed_ratios.observe("b", 60.0, 0.001)

    assert math.isclose(speed_ratios.of("a"), speed_ratios.of("b"), rel_tol=0.05)


def test_late_answers_move_a_pace_less() -> None:
    """A hundred answers that were all sent before the first of them came are worth a few."""
    prompt, late = SpeedRatios(), SpeedRatios()
    for _ in range(100):
        for speed_ratios, missed in ((prompt, 1.0), (late, 100.0)):
            speed_ratios.observe("a", 1.0, 2.0, missed)
            speed_ratios.observe("b", 1.0, 1.0, missed)

    assert prompt.of("a") / prompt.of("b") > 3.0
    assert 1.0 < late.of("a") / late.of("b") < 1.1


def test_slower_replica_is_known_by_its_pace() -> None:
    """Twice as slow as the other, after as many answers of each."""
    model, speed_ratios = TtftModel(), SpeedRatios()
    for number in range(2000):
        held = number % 50
        for replica, factor in (("fast", 1.0), ("slow", 2.0)):
            speed_ratio = speed_ratios.of(replica)
            ttft_s = factor * (0.01 + 0.001 * held)
            speed_ratios.observe(replica, speed_ratio * predicted(model, 100, 0, held), ttft_s)
            model.learn(100, 0, held, ttft_s / speed_ratio)

    assert math.isclose(speed_ratios.of("slow") / speed_ratios.of("fast"), 2.0, rel_tol=0.02)
    for held in (0, 49):
        expected = 0.01 + 0.001 * held
        assert math.isclose(
            speed_ratios.of("fast") * predicted(model, 100, 0, held), expected, rel_tol=0.03
        )
