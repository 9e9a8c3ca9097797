"""What became of every request of a simulation, kept small.  Pure."""

import hashlib
from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field

from bench.fleetsim.histogram import GapHistogram

# Why a request has no whole answer.
OK, REFUSED, CUT, NO_REPLICA, TOO_LONG = range(5)
STATUS = ("ok", "refused", "cut", "no-replica", "too-long")


@dataclass(slots=True)
class FleetOutcome:
    """A line per request, in the order in which they ended; times in seconds.

    Attributes:
        number: position among the arrivals.
        ttft_s, e2e_s: from the arrival; -1 where there was no first token or no whole answer.
        replica_s: seconds that replicas existed, summed: what a fleet costs.
        token_s: when each token of a whole answer came out, by number, where asked.
        running: (second, requests in engines, share of KV cache in use) at each poll, where asked.
    """

    number: "array[int]" = field(default_factory=lambda: array("q"))
    at_s: "array[float]" = field(default_factory=lambda: array("d"))
    ttft_s: "array[float]" = field(default_factory=lambda: array("d"))
    e2e_s: "array[float]" = field(default_factory=lambda: array("d"))
    output_tokens: "array[int]" = field(default_factory=lambda: array("l"))
    status: "array[int]" = field(default_factory=lambda: array("b"))
    replica: "array[int]" = field(default_factory=lambda: array("l"))
    replica_names: list[str] = field(default_factory=list)
    gaps: GapHistogram = field(default_factory=GapHistogram)
    end_s: float = 0.0
    replica_s: float = 0.0
    retries: int = 0
    preemptions: int = 0
    prefix_queries: int = 0
    prefix_hits: int = 0
    prompt_tokens: int = 0
    events: int = 0
    token_s: dict[int, "array[float]"] = field(default_factory=dict)
    running: list[tuple[float, int, float]] = field(default_factory=list)

    def add(
        self,
        number: int,
        at_s: float,
        first_s: float,
        last_s: float,
        tokens: int,
        status: int,
        replica: int,
    ) -> None:
        self.number.append(number)
        self.at_s.append(at_s)
        self.ttft_s.append(first_s - at_s if first_s >= 0 else -1.0)
        self.e2e_s.append(last_s - at_s if status == OK else -1.0)
        self.output_tokens.append(tokens)
        self.status.append(status)
        self.replica.append(replica)

    @property
    def requests(self) -> int:
        return len(self.number)

    @property
    def failed(self) -> int:
        return self.requests - self.status.count(OK)

    @property
    def tokens(self) -> int:
        """Output tokens of whole answers."""
        pairs = zip(self.output_tokens, self.status, strict=True)
        return sum(tokens for tokens, status in pairs if status == OK)

    @property
    def hit_rate(self) -> float:
        """Share of prompt tokens that were found in a prefix cache."""
        return self.prefix_hits / self.prefix_queries if self.prefix_queries else 0.0

    def ttft_quantiles(self, shares: Sequence[float]) -> list[float]:
        return quantiles(self._whole(self.ttft_s), shares)

    def e2e_quantiles(self, shares: Sequence[float]) -> list[float]:
        return quantiles(self._whole(self.e2e_s), shares)

    def per_token_quantiles(self, shares: Sequence[float]) -> list[float]:
        """Of each whole answer's mean time per token after the first."""
        rows = zip(self.ttft_s, self.e2e_s, self.output_tokens, self.status, strict=True)
        means = [(e2e - ttft) / (n - 1) for ttft, e2e, n, s in rows if s == OK and n > 1]
        return quantiles(means, shares)

    def _whole(self, values: "array[float]") -> list[float]:
        return [value for value, s in zip(values, self.status, strict=True) if s == OK]

    def digest(self) -> str:
        """Return a hash that only the same run, to the bit, has."""
        whole = hashlib.sha256()
        columns = (self.number, self.at_s, self.ttft_s, self.e2e_s, self.status, self.replica)
        for column in columns:
            whole.update(column.tobytes())
        whole.update(repr((self.gaps.total, self.gaps.sum_s, self.end_s)).encode())
        return whole.hexdigest()


def quantiles(values: Sequence[float], shares: Sequence[float]) -> list[float]:
    """Return the value at each of *shares*, between neighbours by a straight line; 0.0 of none."""
    ordered = sorted(values)
    if not ordered:
        return [0.0 for _ in shares]
    found = []
    for share in shares:
        place = share * (len(ordered) - 1)
        below = int(place)
        above = min(below + 1, len(ordered) - 1)
        found.append(ordered[below] + (ordered[above] - ordered[below]) * (place - below))
    return found
