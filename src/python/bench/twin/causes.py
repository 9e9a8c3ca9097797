"""Why two arms differ: the difference of their latencies, cause by cause.  Pure.

Connecting, the load balancer's queue and the path are measured (bench.twin.stages).  Routing,
prefix caches and the engines' speed act on one another: their shares come from the twin, in which
one of them at a time is exchanged (bench.twin.factor_replay).
"""

from collections.abc import Sequence

import msgspec

from bench.loadgen.run_result import RunResult
from bench.twin.factor_replay import Factors, Means, Twin
from bench.twin.stages import StageTimes, stages_of
from servekit.fleet.fleet import Fleet

CONNECT = "connecting"
BALANCER_QUEUE = "load balancer's queue"
ROUTING = "routing (engine queues and interference)"
CACHE = "prefix cache"
ENGINE = "engine speed"
BUFFERING = "buffering on the path"
LINK = "slow link"
REST = "unexplained"

# A proxy that holds an answer back until it is whole delays the first token and not the last.
_BUFFERED = 0.5


class Cause(msgspec.Struct, frozen=True, kw_only=True):
    """What one cause adds to the candidate's means, in ms.

    Attributes:
        weight: the larger of both as a share of the baseline's mean: what causes are ordered by.
    """

    name: str
    ttft: float
    e2e: float
    weight: float


class Explanation(msgspec.Struct, frozen=True, kw_only=True):
    """Why two arms differ.

    Attributes:
        causes: the heaviest first; the last one is what they leave unexplained.
        arms: where the time of each went, baseline first.
    """

    baseline: str
    candidate: str
    causes: tuple[Cause, ...]
    arms: tuple[StageTimes, StageTimes]

    @property
    def first(self) -> str:
        return self.causes[0].name

    @property
    def is_replayed(self) -> bool:
        """Whether the engines' counters were known, without which the twin says nothing."""
        return any(cause.name == ENGINE for cause in self.causes)


def explain(run: RunResult, fleet: Fleet) -> Explanation | None:
    """Return why the two arms of *run* differ; None where stamps or counters are missing.

    *fleet* says what engines are like; its speed does not matter, as it is brought to what was
    measured.
    """
    baseline, candidate = run.arms
    first, second = stages_of(run, baseline), stages_of(run, candidate)
    if first is None or second is None:
        return None
    found = [*_measured(first, second), *_replayed(run, fleet, first, second)]
    causes = [
        Cause(
            name=name,
            ttft=ttft,
            e2e=e2e,
            weight=max(abs(ttft) / first.ttft, abs(e2e) / first.e2e),
        )
        for name, ttft, e2e in found
    ]
    causes.sort(key=lambda cause: -cause.weight)
    rest_ttft = second.ttft - first.ttft - sum(cause.ttft for cause in causes)
    rest_e2e = second.e2e - first.e2e - sum(cause.e2e for cause in causes)
    rest = Cause(
        name=REST,
        ttft=rest_ttft,
        e2e=rest_e2e,
        weight=max(abs(rest_ttft) / first.ttft, abs(rest_e2e) / first.e2e),
    )
    return Explanation(
        baseline=baseline, candidate=candidate, causes=(*causes, rest), arms=(first, second)
    )


Contribution = tuple[str, float, float]


def _measured(first: StageTimes, second: StageTimes) -> list[Contribution]:
    """Return what stamps and counters say by themselves."""
    connect = second.send + second.connect - first.send - first.connect
    found: list[Contribution] = [(CONNECT, connect, connect)]
    if first.balancer_queue is not None and second.balancer_queue is not None:
        queue = second.balancer_queue - first.balancer_queue
        found.append((BALANCER_QUEUE, queue, queue))
    if None not in (first.path_first, first.path_last, second.path_first, second.path_last):
        early = (second.path_first or 0.0) - (first.path_first or 0.0)
        late = (second.path_last or 0.0) - (first.path_last or 0.0)
        is_buffered = abs(late) < _BUFFERED * abs(early)
        found.append((BUFFERING if is_buffered else LINK, early, late))
    return found


def _replayed(
    run: RunResult, fleet: Fleet, first: StageTimes, second: StageTimes
) -> list[Contribution]:
    """Return what the twin says of routing, caches and speed; nothing where the engines' own times
    are unknown."""
    twin = Twin(run, run.arms[0], fleet)
    if twin.is_empty or first.decode is None or second.decode is None:
        return []
    own, others = (twin.decisions(run.of(arm)) for arm in run.arms)
    base = twin.at_speed_of(Factors(decisions=own), first.decode)

    def exchanged(**changes: object) -> Means:
        return twin.means(msgspec.structs.replace(base.factors, **changes))

    uncached = exchanged(caching=False)
    routed = exchanged(decisions=others)
    lost = _lost_share((first, second), (base.means, routed))
    # The other arm's speed is what its times ask for with its own routing and caches.
    with_cache = lost < 0.5
    factors = msgspec.structs.replace(base.factors, decisions=others, caching=with_cache)
    slowed = exchanged(speed=twin.at_speed_of(factors, second.decode).factors.speed)
    return [
        (ROUTING, *_change(base.means, routed)),
        (CACHE, lost * (uncached.ttft - base.means.ttft), lost * (uncached.e2e - base.means.e2e)),
        (ENGINE, *_change(base.means, slowed)),
    ]


def _change(before: Means, after: Means) -> tuple[float, float]:
    return after.ttft - before.ttft, after.e2e - before.e2e


def _lost_share(measured: Sequence[StageTimes], replayed: Sequence[Means]) -> float:
    """Return the share of hits that the candidate's caches miss, beyond what its routing costs:
    -1.0 to 1.0, negative where the baseline's miss them."""
    shares = []
    for arm, twin in zip(measured, replayed, strict=True):
        if arm.hit_share is None or twin.hit_share <= 0.01:
            return 0.0
        shares.append(arm.hit_share / twin.hit_share)
    largest = max(shares)
    return (shares[0] - shares[1]) / largest if largest > 0 else 0.0
