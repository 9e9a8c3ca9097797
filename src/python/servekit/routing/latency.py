"""`latency`: the replica with the shortest predicted time to first token.  Pure.

One linear model of it, learnt online by recursive least squares with forgetting, times how much
longer a replica takes than its fellows do:

    ttft_s = pace · w · (1, unread prompt tokens, prompt tokens queued before them, requests held)

The model is shared because a busy replica's own answers say little: it holds as much as it held
before, so that what a further request costs cannot be told from its waits, which are late besides.
What replicas hold differs, and that shows it.  Before anything is learnt the weights are those
measured on one H200, and every pace is the same.

Where engines read prompts nearly all the time, requests are sent a few at a time: see
prompt_batching.py.
"""

import math
from random import Random
from typing import ClassVar

from servekit.routing.decision import Decision
from servekit.routing.load_tracker import Pool, ReplicaLoad
from servekit.routing.policy import lowest, with_holders
from servekit.routing.prefix_index import PrefixIndex, blocks_held
from servekit.routing.prompt_batching import WITHIN, PromptBatching
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

# Who comes makes those who are there decode more slowly, and decodes so too, which no wait for a
# first token shows: one sequence of 640 tokens more lengthens an H200's steps by 0.04 ms, 10 ms in
# an answer of 250 tokens.  A twentieth of that, in seconds per request held, keeps the fast
# replicas of an unequal fleet from being crowded; four times as much makes short waits longer.
CROWDING_S = 0.0005

# Half of a sample's weight is gone after 693 more: seconds on a busy fleet, whose load changes
# within minutes.
FORGETTING = 0.999
# How sure the prior is: as if a few requests had been seen.
_PRIOR_VARIANCE = 1.0
# Below this a covariance would blow up while nothing new is learnt (wind-up).
_MOST_VARIANCE = 100.0

# An answer moves what is predicted for its like by at most a quarter of the error: a replica that
# claims to hold thousands of requests would teach with one answer that holding them costs nothing.
_LEAST_SPREAD = 4.0
# An error that is larger than so many usual ones counts as so many: an image whose tokens were
# misjudged, or an engine that stood still, says little about how long a token takes.
_MOST_ERRORS = 4.0
# How far one error moves the usual one, in seconds; what it is at first, and at least.
_ERROR_GAIN = 0.05
_FIRST_ERROR_S = 0.05
_LEAST_ERROR_S = 1e-4

Weights = tuple[float, float, float, float]
# The upper half of a symmetric matrix, row by row.
Covariance = tuple[float, float, float, float, float, float, float, float, float, float]


class TtftModel:
    """Recursive least squares over a constant and three inputs, written out: it runs per request.

    Robust in three ways: a single answer weighs no more than the others together (bounded
    influence), large errors are cut (Huber), and weights that would be negative are 0, the others
    being the best that there are then.
    """

    __slots__ = ("_covariance", "_error_s", "_usable", "_weights")

    def __init__(self) -> None:
        constant, unread, queued, held = PRIOR
        self._weights: Weights = (constant, unread / _TOKENS, queued / _TOKENS, held / _REQUESTS)
        self._usable = self._weights
        v = _PRIOR_VARIANCE
        self._covariance: Covariance = (v, 0.0, 0.0, 0.0, v, 0.0, 0.0, v, 0.0, v)
        self._error_s = _FIRST_ERROR_S

    def weights(self) -> Weights:
        """Return seconds: for being asked, per unread token, per queued token, per request held.

        None is negative.
        """
        a, b, c, d = self._usable
        return a, b * _TOKENS, c * _TOKENS, d * _REQUESTS

    def predicted_s(self, unread: int, queued: int, held: int) -> float:
        """Return the time to first token that is expected."""
        a, b, c, d = self._usable
        return a + b * unread * _TOKENS + c * queued * _TOKENS + d * held * _REQUESTS

    def learn(self, unread: int, queued: int, held: int, ttft_s: float) -> float:
        """Return what would have been predicted."""
        x, y, z = unread * _TOKENS, queued * _TOKENS, held * _REQUESTS
        p, q, r, s, t, u, v, k, m, n = self._covariance
        a, b, c, d = self._weights
        # Covariance times inputs, and from that the gain of each weight.
        ga = p + q * x + r * y + s * z
        gb = q + t * x + u * y + v * z
        gc = r + u * x + k * y + m * z
        gd = s + v * x + m * y + n * z
        unsure = ga + gb * x + gc * y + gd * z
        spread = FORGETTING + unsure
        if spread < _LEAST_SPREAD * unsure:
            spread = _LEAST_SPREAD * unsure
        error_s = ttft_s - (a + b * x + c * y + d * z)
        most_s = _MOST_ERRORS * self._error_s
        error_s = most_s if error_s > most_s else max(error_s, -most_s)
        usual_s = self._error_s + _ERROR_GAIN * (abs(error_s) - self._error_s)
        self._error_s = max(_LEAST_ERROR_S, usual_s)
        ua, ub, uc, ud = self._usable
        predicted_s = ua + ub * x + uc * y + ud * z
        step = error_s / spread
        weights = (a + ga * step, b + gb * step, c + gc * step, d + gd * step)
        f = 1.0 / FORGETTING if max(p, t, k, n) < _MOST_VARIANCE else 1.0
        ha, hb, hc, hd = ga / spread, gb / spread, gc / spread, gd / spread
        self._covariance = (
            (p - ga * ha) * f, (q - ga * hb) * f, (r - ga * hc) * f, (s - ga * hd) * f,
            (t - gb * hb) * f, (u - gb * hc) * f, (v - gb * hd) * f,
            (k - gc * hc) * f, (m - gc * hd) * f,
            (n - gd * hd) * f,
        )  # fmt: skip
        self._weights = weights
        self._usable = weights if min(weights) >= 0.0 else not_negative(weights, self._covariance)
        return predicted_s


def not_negative(weights: Weights, covariance: Covariance) -> Weights:
    """Return the most likely weights none of which is negative, about: those that would be most
    clearly negative become 0 one after the other, and the rest is what it is on that condition."""
    p, q, r, s, t, u, v, k, m, n = covariance
    spread = [[p, q, r, s], [q, t, u, v], [r, u, k, m], [s, v, m, n]]
    found, free = list(weights), [0, 1, 2, 3]
    while negative := [i for i in free if found[i] < 0.0]:
        worst = min(negative, key=lambda i: found[i] / math.sqrt(max(spread[i][i], 1e-12)))
        free.remove(worst)
        variance = max(spread[worst][worst], 1e-12)
        row, by = list(spread[worst]), found[worst] / variance
        found[worst] = 0.0
        for i in free:
            found[i] -= row[i] * by
            for j in free:
                spread[i][j] -= row[i] * row[j] / variance
    return found[0], found[1], found[2], found[3]


# How far one answer moves what a token of an image takes; it may do so by no more than this a
# token, or by what it takes already.
_MEDIA_GAIN = 0.05
_MEDIA_STEP_S = 5e-6


class MediaCost:
    """What a token of an image takes, with the encoder's work, in seconds.

    It is learnt apart, and taken off before the model learns: encoders differ, and images are what
    is counted worst.
    """

    __slots__ = ("per_token_s",)

    def __init__(self) -> None:
        self.per_token_s = PRIOR[1]

    def learn(self, tokens: int, rest_s: float) -> None:
        """An answer with so many *tokens* took *rest_s* longer than without them."""
        known = self.per_token_s
        most = max(known, _MEDIA_STEP_S)
        differs = rest_s / tokens - known
        step = most if differs > most else max(differs, -most)
        self.per_token_s = max(0.0, known + _MEDIA_GAIN * step)


# How far one answer moves a replica's pace: half of its weight is gone after 34 more.
_SPEED_RATIO_GAIN = 0.02
# An answer that took e times as long as expected says as much as one that took a hundred times.
_MOST_SURPRISE = 1.0
# An answer speaks of the time when its request was sent.  Where more answers than this have come
# since, as many will come that know nothing of what this one changes, so that it changes less:
# else a queue of seconds makes paces swing.
_PROMPT = 4.0


class SpeedRatios:
    """How many times as long as the typical replica each one takes.

    Kept as logarithms around their mean: only the weights say how long the typical one takes.

    Attributes:
        factors: by replica, `typical` times what `of` says; replicas never observed are missing.
    """

    __slots__ = ("_logs", "_mean", "factors", "typical")

    def __init__(self) -> None:
        self._logs: dict[str, float] = {}
        self._mean = 0.0
        # The exponentials of both, which are read more often than they change.
        self.factors: dict[str, float] = {}
        self.typical = 1.0

    def of(self, replica: str) -> float:
        """Return the factor; 1.0 before the first observation."""
        return self.factors.get(replica, self.typical) / self.typical

    def observe(self, replica: str, expected_s: float, ttft_s: float, missed: float = 0.0) -> None:
        """*replica* took *ttft_s* where *expected_s* was predicted, *missed* answers of it ago."""
        if expected_s <= 0.0 or ttft_s <= 0.0:
            return
        surprise = math.log(ttft_s / expected_s)
        step = _SPEED_RATIO_GAIN * max(-_MOST_SURPRISE, min(_MOST_SURPRISE, surprise))
        if missed > _PROMPT:
            step *= _PROMPT / missed
        known = self._logs[replica] = self._logs.get(replica, self._mean) + step
        self.factors[replica] = math.exp(known)
        self._move(self._mean + step / len(self._logs))

    def forget(self, replica: str) -> None:
        """*replica* has no observations any more; the others keep theirs."""
        if self._logs.pop(replica, None) is not None:
            del self.factors[replica]
            logs = self._logs.values()
            self._move(sum(logs) / len(logs) if logs else 0.0)

    def _move(self, mean: float) -> None:
        # All may drift the same way for ever; exponentials would not stand it.
        if abs(mean) > 1.0:
            self._logs = {name: known - mean for name, known in self._logs.items()}
            self.factors = {name: math.exp(known) for name, known in self._logs.items()}
            mean = 0.0
        self._mean = mean
        self.typical = math.exp(mean)


# A claim is looked into where a replica says that it holds so many more requests than ours, and so
# many times as many.
_MUCH_MORE, _MUCH_MORE_TIMES = 16, 3
# One answer moves the belief by so much: after four that contradict it a claim is not believed.
_BELIEF_STEP = 0.25


class ClaimedLoads:
    """How far each replica is believed that it holds requests of others.

    A replica that claims thousands would get nothing but what explores.  Its answers tell: where
    they come as they would without the others, its claim counts for less.
    """

    __slots__ = ("doubted",)

    def __init__(self) -> None:
        # The share of a claim that is not believed, 0.0 to 1.0, by replica; few are in it.
        self.doubted: dict[str, float] = {}

    def believed(self, replica: ReplicaLoad, now_s: float) -> int:
        """Return how many requests *replica* holds, as far as it is believed."""
        doubted = self.doubted.get(replica.name, 0.0)
        return replica.held(now_s) - round(doubted * replica.external(now_s))

    def heard(self, replica: str, ttft_s: float, claimed_s: float, ours_s: float) -> None:
        """An answer took *ttft_s*: by what was claimed *claimed_s* were expected, by ours alone
        *ours_s*."""
        middle_s = math.sqrt(max(claimed_s, 1e-9) * max(ours_s, 1e-9))
        step = _BELIEF_STEP if ttft_s < middle_s else -_BELIEF_STEP
        doubted = self.doubted.get(replica, 0.0) + step
        if doubted > 0.0:
            self.doubted[replica] = min(1.0, doubted)
        else:
            self.doubted.pop(replica, None)


class Latency:
    """The shortest predicted time to first token; ties by chance."""

    name: ClassVar[str] = "latency"
    reads_prompt: ClassVar[bool] = True
    reads_size: ClassVar[bool] = True
    reads_session: ClassVar[bool] = False

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._index = PrefixIndex()
        self._model = TtftModel()
        self._media = MediaCost()
        self._claims = ClaimedLoads()
        self._speed_ratios = SpeedRatios()
        self._batching = PromptBatching()
        # What a request found when it was sent, until its first byte says how long that took.
        self._found: dict[int, tuple[RouteRequest, int, int, int, int, int]] = {}
        self._answers = 0

    def choose(self, request: RouteRequest, pool: Pool, now_s: float) -> Decision:
        joined = self._batching.open(request.prompt_tokens, len(pool), now_s)
        scores = self._scores(request, pool, joined, now_s)
        if self._rng.random() < EXPLORED:
            name, _ = scores[int(self._rng.random() * len(scores))]
            return Decision(name, self.name, "explore", tuple(scores))
        if joined is not None and _is_near(joined, scores, now_s):
            return Decision(joined.name, self.name, "together", tuple(scores))
        return lowest(self.name, scores, self._rng)

    def hit_blocks(self, request: RouteRequest, replica: str) -> int:
        return self._index.held_by(replica, request.blocks)

    def sent(self, request: RouteRequest, replica: ReplicaLoad, now_s: float) -> None:
        blocks, name = request.blocks, replica.name
        unread = request.prompt_tokens
        if blocks:
            capacity = blocks_held(replica, request.block_tokens)
            unread = _unread(request, self._index.add(name, blocks, capacity))
        if request.exact is not None and (known := request.exact.tokens_at(name)) is not None:
            unread = max(0, request.prompt_tokens - known)
        if len(self._found) > _MOST_UNANSWERED:
            self._found.pop(next(iter(self._found)))
        held, ours = self._claims.believed(replica, now_s), replica.ours
        claimed = replica.external(now_s)
        if claimed <= _MUCH_MORE or claimed <= _MUCH_MORE_TIMES * ours:
            claimed = 0
        found = (request, unread, replica.prefilling, held, claimed, self._answers)
        self._found[id(request)] = found
        self._batching.sent(replica, now_s)

    def answered(self, request: RouteRequest, replica: ReplicaLoad, ttft_s: float) -> None:
        found = self._found.pop(id(request), None)
        self._answers += 1
        if found is not None:
            _, unread, queued, held, claimed, answers = found
            if claimed:
                held = self._look_into(replica, ttft_s, unread, queued, claimed)
            speed_ratios = self._speed_ratios
            speed_ratio = speed_ratios.of(replica.name)
            alike_s = ttft_s / speed_ratio
            media_s = 0.0
            if request.media_tokens:
                media = min(unread, request.media_tokens)
                unread -= media
                media_s = media * self._media.per_token_s
                if media:
                    rest_s = alike_s - self._model.predicted_s(unread, queued, held)
                    self._media.learn(media, rest_s)
            learnt_s = alike_s - media_s if alike_s > media_s else 0.0
            predicted_s = media_s + self._model.learn(unread, queued, held, learnt_s)
            missed = (self._answers - answers) / (len(speed_ratios.factors) or 1)
            speed_ratios.observe(replica.name, speed_ratio * predicted_s, ttft_s, missed)

    def forget(self, replica: str) -> None:
        self._index.forget(replica)
        self._speed_ratios.forget(replica)
        self._claims.doubted.pop(replica, None)

    def _look_into(
        self, replica: ReplicaLoad, ttft_s: float, unread: int, queued: int, claimed: int
    ) -> int:
        """Compare an answer with what *replica* claimed to hold beside ours; return how many it
        held, as far as that is believed."""
        model, ours = self._model, replica.ours
        with_s = model.predicted_s(unread, queued, ours + claimed)
        self._claims.heard(replica.name, ttft_s, with_s, model.predicted_s(unread, queued, ours))
        doubted = self._claims.doubted.get(replica.name, 0.0)
        # What is doubted at all teaches nothing about those that are held.
        return ours if doubted else ours + claimed

    def _scores(
        self, request: RouteRequest, pool: Pool, joined: ReplicaLoad | None, now_s: float
    ) -> list[tuple[str, float]]:
        """Return the seconds that each replica would take, and the crowd there; written for speed.

        Who starts slowly counts as slower for all but a share of the requests: seconds differ so
        little between replicas that four times as many would always be the most.
        """
        path = self._index.path(request.blocks) if request.blocks else []
        replicas, hits = with_holders(pool, path, self._rng, joined)
        asked, per_unread, per_queued, per_held = self._model.weights()
        per_held += CROWDING_S
        unread, media = request.prompt_tokens, request.media_tokens
        dearer = self._media.per_token_s - per_unread
        exact = request.exact
        doubted = self._claims.doubted
        factors, typical = self._speed_ratios.factors, self._speed_ratios.typical
        scores: list[tuple[str, float]] = []
        for replica in replicas:
            name = replica.name
            if exact is not None and (known := exact.tokens_at(name)) is not None:
                unread = max(0, request.prompt_tokens - known)
            elif hits or exact is not None:
                unread = _unread(request, hits.get(name, 0))
            seconds = asked + per_unread * unread + per_queued * replica.prefilling
            if media:
                seconds += dearer * (min(unread, media))
            held = replica.held(now_s)
            if doubted and name in doubted:
                held = self._claims.believed(replica, now_s)
            seconds += per_held * held
            slower = factors.get(name, typical) / typical
            slow_start_factor = replica.slow_start_factor(now_s)
            if slow_start_factor > 1.0 and self._rng.random() * slow_start_factor > 1.0:
                slower *= slow_start_factor
            scores.append((name, seconds * slower))
        return scores


# Requests that never get a first byte must not be remembered for ever.
_MOST_UNANSWERED = 10_000


def _is_near(replica: ReplicaLoad, scores: list[tuple[str, float]], now_s: float) -> bool:
    """Whether *replica* is among *scores*, and hardly worse than the best of them."""
    score, best = None, math.inf
    for name, seconds in scores:
        if name == replica.name:
            score = seconds
        best = min(best, seconds)
    if score is None:
        return False
    return score - best <= WITHIN * (score - CROWDING_S * replica.held(now_s))


def _unread(request: RouteRequest, hit_blocks: int) -> int:
    return max(0, request.prompt_tokens - hit_blocks * request.block_tokens)
