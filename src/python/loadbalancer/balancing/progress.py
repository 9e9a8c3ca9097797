"""Whether a replica that says it is well makes any progress.  Pure.

An engine may answer /health, count a request as running and never produce a token.  Its siblings
show how long a first byte takes: a replica is stuck when nothing at all came of it for much longer
than the slowest of several answers that siblings gave to requests sent in the meantime, a longer
prompt being allowed proportionally more.
"""

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

# Shorter waits are no trouble, whatever the siblings do.
STUCK_S = 3.0
# How much slower than its siblings' slowest answer a replica may be: caches differ, so do machines.
SLOWER = 5.0
# Answers of siblings without which a wait proves nothing.
LEAST_ANSWERS = 5
# For how long an answer says how long another takes.
RECENT_S = 30.0
# Below this many tokens reading the prompt is not what takes the time.
SHORT_PROMPT = 100

_REMEMBERED = 64


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """A request that a replica has, without a first byte yet."""

    sent_s: float
    prompt_tokens: int


class FirstBytes:
    """The latest first bytes of a model's replicas.

    Attributes:
        latest: the replica, when the request was sent, how long it took, and tokens of the prompt.
    """

    __slots__ = ("latest",)

    def __init__(self) -> None:
        self.latest: deque[tuple[str, float, float, int]] = deque(maxlen=_REMEMBERED)

    def is_stuck(
        self,
        replica: str,
        waiting: OpenRequest,
        still_since_s: float,
        now_s: float,
        *,
        siblings_wait: bool = True,
    ) -> bool:
        """Whether *replica*, of which nothing came since *still_since_s*, will never answer.

        *siblings_wait*: whether they have requests without a first byte too.  Where they have none,
        what they answered a while ago counts as well: few requests may come.
        """
        begun_s = max(waiting.sent_s, still_since_s)
        if now_s - begun_s < STUCK_S:
            return False
        since_s = begun_s if siblings_wait else begun_s - RECENT_S
        allowed_s = [
            ttft_s * max(1.0, waiting.prompt_tokens / max(tokens, SHORT_PROMPT))
            for name, sent_s, ttft_s, tokens in self.latest
            if name != replica and sent_s >= since_s
        ]
        return len(allowed_s) >= LEAST_ANSWERS and now_s - begun_s > SLOWER * max(allowed_s)


class Progress:
    """What was last seen to come from one replica.

    Attributes:
        still_since_s: when it changed for the last time.
    """

    __slots__ = ("_seen", "still_since_s")

    def __init__(self) -> None:
        self._seen: tuple[float | None, ...] = ()
        self.still_since_s = float("-inf")

    def look(self, seen: Iterable[float | None], now_s: float) -> None:
        """Take the counts that grow with its work; any that changed is progress."""
        counts = tuple(seen)
        if counts != self._seen:
            self._seen = counts
            self.still_since_s = now_s
