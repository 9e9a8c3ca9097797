"""What `latency` learns is what the textbook's recursive least squares learns."""

from hypothesis import given
from hypothesis import strategies as st

from servekit.routing.latency import FORGETTING, PRIOR, TtftModel

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
    assert abs(model.predict(*asked) - expected) <= 1e-6 * (1.0 + abs(expected))
