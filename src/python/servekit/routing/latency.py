"""`latency`: the replica with the shortest predicted time to first token.  Pure.

Each replica has a linear model of it, learnt online by recursive least squares with forgetting:

    ttft_s = w · (1, unread prompt tokens, prompt tokens queued before them, requests held)

A new replica starts from what was measured on one H200, so that it is neither avoided nor flooded.
"""

from collections.abc import Mapping
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

# Scales that bring tokens and requests to about 1, where the numbers below are at their best.
_TOKENS = 1e-3
_REQUESTS = 0.1

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
    """Recursive least squares over a constant and three inputs, written out: it runs per request.

    The covariance is symmetric; its upper half is kept, row by row.
    """

    __slots__ = ("_covariance", "_weights")

    def __init__(self) -> None:
        constant, unread, queued, held = PRIOR
        self._weights = (constant, unread / _TOKENS, queued / _TOKENS, held / _REQUESTS)
        v = _PRIOR_VARIANCE
        self._covariance = (v, 0.0, 0.0, 0.0, v, 0.0, 0.0, v, 0.0, v)

    def predict(self, unread: int, queued: int, held: int) -> float:
        """Return seconds, never below 0."""
        a, b, c, d = self._weights
        seconds = a + (b * unread + c * queued) * _TOKENS + d * held * _REQUESTS
        return max(0.0, seconds)

    def learn(self, unread: int, queued: int, held: int, ttft_s: float) -> None:
        x, y, z = unread * _TOKENS, queued * _TOKENS, held * _REQUESTS
        p, q, r, s, t, u, v, k, m, n = self._covariance
        a, b, c, d = self._weights
        # Covariance times inputs, and from that the gain of each weight.
        ga = p + q * x + r * y + s * z
        gb = q + t * x + u * y + v * z
        gc = r + u * x + k * y + m * z
        gd = s + v * x + m * y + n * z
        spread = FORGETTING + ga + gb * x + gc * y + gd * z
        step = (ttft_s - a - b * x - c * y - d * z) / spread
        self._weights = (a + ga * step, b + gb * step, c + gc * step, d + gd * step)
        f = 1.0 / FORGETTING if max(p, t, k, n) < _MOST_VARIANCE else 1.0
        ha, hb, hc, hd = ga / spread, gb / spread, gc / spread, gd / spread
        self._covariance = (
            (p - ga * ha) * f, (q - ga * hb) * f, (r - ga * hc) * f, (s - ga * hd) * f,
            (t - gb * hb) * f, (u - gb * hc) * f, (v - gb * hd) * f,
            (k - gc * hc) * f, (m - gc * hd) * f,
            (n - gd * hd) * f,
        )  # fmt: skip


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
        self._found: dict[int, tuple[RouteRequest, int, int, int]] = {}

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        hits = self._index.hits(request.blocks) if request.blocks else _NO_HITS
        scores = [
            (a.name, self._score(request, hits, a, now_s)) for a in looked_at(pool, self._rng)
        ]
        if self._rng.random() < EXPLORED:
            name, _ = scores[int(self._rng.random() * len(scores))]
            return Decision(name, self.name, "explore", tuple(scores))
        return lowest(self.name, scores, self._rng)

    def sent(self, request: RouteRequest, account: Account, now_s: float) -> None:
        blocks, name = request.blocks, account.name
        unread = request.prompt_tokens
        if blocks:
            unread = _unread(request, self._index.held_by(name, blocks))
            self._index.add(name, blocks)
        if len(self._found) > _MOST_UNANSWERED:
            self._found.pop(next(iter(self._found)))
        held = account.ours + account.strangers(now_s)
        self._found[id(request)] = (request, unread, account.prefilling, held)

    def answered(self, request: RouteRequest, account: Account, ttft_s: float) -> None:
        found = self._found.pop(id(request), None)
        if found is not None:
            _, unread, queued, held = found
            self._model(account.name).learn(unread, queued, held, ttft_s)

    def forget(self, replica: str) -> None:
        self._index.forget(replica)
        self._models.pop(replica, None)

    def _score(
        self, request: RouteRequest, hits: Mapping[str, int], account: Account, now_s: float
    ) -> float:
        unread = request.prompt_tokens
        if hits:
            unread = _unread(request, hits.get(account.name, 0))
        held = account.ours + account.strangers(now_s)
        ttft_s = self._model(account.name).predict(unread, account.prefilling, held)
        return ttft_s * account.handicap(now_s)

    def _model(self, replica: str) -> TtftModel:
        model = self._models.get(replica)
        if model is None:
            model = self._models[replica] = TtftModel()
        return model


# Requests that never get a first byte must not be remembered for ever.
_MOST_UNANSWERED = 10_000

_NO_HITS: Mapping[str, int] = {}


def _unread(request: RouteRequest, hit_blocks: int) -> int:
    return max(0, request.prompt_tokens - hit_blocks * request.block_tokens)
