"""What `latency` learns is what the textbook's recursive least squares learns."""

import math

from hypothesis import given
from hypothesis import strategies as st

from servekit.routing.latency import FORGETTING, PRIOR, SpeedRatios, TtftModel

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

    def predict(self, inputs: tuple[int, int, int]) -> float:
        return sum(w * x for w, x in zip(self.weights, scaled(inputs), strict=True))

    def learn(self, inputs: tuple[int, int, int], ttft_s: float) -> None:
        x, p = scaled(inputs), self.covariance
        px = [sum(a * b for a, b in zip(row, x, strict=True)) for row in p]
        spread = FORGETTING + sum(a * b for a, b in zip(x, px, strict=True))
        error = ttft_s - self.predict(inputs)
        self.weights = [w + g / spread * error for w, g in zip(self.weights, px, strict=True)]
        forgetting = FORGETTING if max(p[i][i] for i in range(4)) < 100.0 else 1.0
        self.covariance = [
            [(p[i][j] - px[i] * px[j] / spread) / forgetting for j in range(4)] for i in range(4)
        ]


def predicted(model: TtftModel, unread: int, queued: int, held: int) -> float:
    """Return the seconds that *model* has learnt to expect, as `latency` does."""
    asked, per_unread, per_queued, per_held = model.weights()
    return max(0.0, asked + per_unread * unread + per_queued * queued + per_held * held)


def scaled(inputs: tuple[int, int, int]) -> list[float]:
    return [x * s for x, s in zip((1, *inputs), SCALES, strict=True)]


@given(seen=samples, asked=st.tuples(*[st.integers(0, 10_000)] * 3))
def test_model_learns_what_the_textbook_does(
    seen: list[tuple[int, int, int, float]], asked: tuple[int, int, int]
) -> None:
    """Written out for speed, it says the same; a time below zero is zero."""
    model, textbook = TtftModel(), Textbook()
    for unread, queued, held, ttft_s in seen:
        model.learn(unread, queued, held, ttft_s)
        textbook.learn((unread, queued, held), ttft_s)

    expected = max(0.0, textbook.predict(asked))
    assert abs(predicted(model, *asked) - expected) <= 1e-6 * (1.0 + abs(expected))


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
