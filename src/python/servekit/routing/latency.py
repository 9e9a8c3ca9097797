"""`latency`: the replica with the shortest predicted time to first token.  Pure.

Each replica has a linear model of it, learnt online by recursive least squares with forgetting:

    ttft_s = w · (1, unread prompt tokens, prompt tokens queued before them, requests held)

A new replica starts from what was measured on one H200, so that it is neither avoided nor flooded.
"""

from random import Random
from typing import ClassVar

from servekit.routing.decision import Decision
from servekit.routing.ledger import Account, Pool
from servekit.routing.policy import looked_at, lowest
from servekit.routing.prefix_index import PrefixIndex
from servekit.routing.request import RouteRequest

# vLLM 0.26 with an 8B model on an H200: 8 ms and 21.5 us a token when idle, and each running
# sequence lengthens the steps by about 0.1 ms.
PRIOR = (0.008, 21.5e-6, 21.5e-6, 0.0005)

# Scales that bring the four inputs to about 1.
_SCALES = (1.0, 1e-3, 1e-3, 0.1)

# A replica that was slow once, while it started, would never be asked again and could not show that
# it is fast: this share of the requests goes anywhere.
EXPLORED = 0.02

# Half of a sample's weight is gone after 138 more: a fleet's load changes within minutes.
FORGETTING = 0.995
# How sure the prior is: as if a few requests had been seen.
_PRIOR_VARIANCE = 1.0
# Below this a covariance would blow up while nothing new is learnt (wind-up).
_MOST_VARIANCE = 100.0


class TtftModel:
    """Recursive least squares over four inputs."""

    __slots__ = ("_covariance", "_weights")

    def __init__(self) -> None:
        self._weights = [w / s for w, s in zip(PRIOR, _SCALES, strict=True)]
        self._covariance = [
            [_PRIOR_VARIANCE * (row == column) for column in range(4)] for row in range(4)
        ]

    def predict(self, inputs: tuple[float, ...]) -> float:
        """Return seconds, never below 0."""
        terms = zip(self._weights, inputs, _SCALES, strict=True)
        return max(0.0, sum(w * x * s for w, x, s in terms))

    def learn(self, inputs: tuple[float, ...], ttft_s: float) -> None:
        x = [value * scale for value, scale in zip(inputs, _SCALES, strict=True)]
        p = self._covariance
        px = [sum(row[i] * x[i] for i in range(4)) for row in p]
        spread = FORGETTING + sum(x[i] * px[i] for i in range(4))
        error = ttft_s - sum(w * value for w, value in zip(self._weights, x, strict=True))
        for i in range(4):
            self._weights[i] += px[i] / spread * error
        forgetting = FORGETTING if max(p[i][i] for i in range(4)) < _MOST_VARIANCE else 1.0
        self._covariance = [
            [(p[i][j] - px[i] * px[j] / spread) / forgetting for j in range(4)] for i in range(4)
        ]


class Latency:
    """The shortest predicted time to first token; ties by chance."""

    name: ClassVar[str] = "latency"
    reads_prompt: ClassVar[bool] = True
    reads_session: ClassVar[bool] = False

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._index = PrefixIndex()
        self._models: dict[str, TtftModel] = {}
        # What a request found when it was sent, until its first byte says how long that took.
        self._found: dict[int, tuple[RouteRequest, tuple[float, ...]]] = {}

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        hits = self._index.hits(request.blocks)
        scores = [
            (a.name, self._model(a.name).predict(_inputs(request, hits, a, now_s)))
            for a in looked_at(pool, self._rng)
        ]
        if self._rng.random() < EXPLORED:
            name, _ = scores[int(self._rng.random() * len(scores))]
            return Decision(name, self.name, "explore", tuple(scores))
        return lowest(self.name, scores, self._rng)

    def sent(self, request: RouteRequest, account: Account, now_s: float) -> None:
        hits = self._index.hits(request.blocks)
        if len(self._found) > _MOST_UNANSWERED:
            self._found.pop(next(iter(self._found)))
        self._found[id(request)] = (request, _inputs(request, hits, account, now_s))
        if request.blocks:
            self._index.add(account.name, request.blocks)

    def answered(self, request: RouteRequest, account: Account, ttft_s: float) -> None:
        _, found = self._found.pop(id(request), (None, None))
        if found is not None:
            self._model(account.name).learn(found, ttft_s)

    def forget(self, replica: str) -> None:
        self._index.forget(replica)
        self._models.pop(replica, None)

    def _model(self, replica: str) -> TtftModel:
        model = self._models.get(replica)
        if model is None:
            model = self._models[replica] = TtftModel()
        return model


# Requests that never get a first byte must not be remembered for ever.
_MOST_UNANSWERED = 10_000


def _inputs(
    request: RouteRequest, hits: dict[str, int], account: Account, now_s: float
) -> tuple[float, ...]:
    unread = max(0, request.prompt_tokens - hits.get(account.name, 0) * request.block_tokens)
    held = account.ours + account.strangers(now_s)
    return (1.0, float(unread), float(account.prefilling), float(held))
