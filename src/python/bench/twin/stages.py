"""Where the time of an arm's requests went: stamps of the client joined with what load balancer and
engines counted.  Pure.

Every number is a mean per request, in ms, over what was answered whole.  What a server does not
count is unknown, and so is every stage that is made of it.
"""

from collections.abc import Callable, Sequence
from statistics import fmean

import msgspec

from bench.loadgen.record import Record
from bench.loadgen.run_result import LoadResult
from bench.loadgen.server_metrics import ServerSnapshot
from servekit.metrics import names

_BALANCER_QUEUE = "servekit_lb_queue_seconds"


class StageTimes(msgspec.Struct, frozen=True, kw_only=True):
    """One arm.

    Attributes:
        ttft, e2e: from due to the first and to the last token, as the client saw them.
        send, connect: until a connection was looked for, and until the request was on it.
        balancer_queue: held back by the load balancer.
        engine_queue, prefill, decode: inside the engines, by their count.
        path_first, path_last: what is left of TTFT and E2E: network and proxies on the way.
        hit_share: prompt tokens found in prefix caches, 0.0 to 1.0.
    """

    ttft: float
    e2e: float
    send: float
    connect: float
    balancer_queue: float | None
    engine_queue: float | None
    prefill: float | None
    decode: float | None
    path_first: float | None
    path_last: float | None
    hit_share: float | None


def stages_of(run: LoadResult, arm: str) -> StageTimes | None:
    """Return where the time of *arm* went; None where nothing was streamed whole."""
    done = [one for one in run.of(arm) if one.ok and one.content_s and one.wrote_s is not None]
    if not done:
        return None
    # Counters before the first request that counts are those of the warm-up.
    begun_s = min(record.due_s for record in done)
    shared = _shared_engines(run.snapshots, arm)
    own = [s for s in run.snapshots if s.arm == arm and s.target not in shared]
    counted = _Counted(own, begun_s)
    send = _mean_ms(done, lambda r: r.sent_s - r.due_s)
    connect = _mean_ms(done, lambda r: (r.wrote_s or r.sent_s) - r.sent_s)
    ttft = _mean_ms(done, lambda r: r.content_s[0] - r.due_s)
    e2e = _mean_ms(done, lambda r: r.last_token_s - r.due_s)
    queue = counted.mean_ms(_BALANCER_QUEUE)
    engine_ttft = counted.mean_ms(names.TIME_TO_FIRST_TOKEN)
    engine_e2e = counted.mean_ms(names.E2E_REQUEST_LATENCY)
    before = send + connect + (queue or 0.0)
    return StageTimes(
        ttft=ttft,
        e2e=e2e,
        send=send,
        connect=connect,
        balancer_queue=queue,
        engine_queue=counted.mean_ms(names.REQUEST_QUEUE_TIME),
        prefill=counted.mean_ms(names.REQUEST_PREFILL_TIME),
        decode=counted.mean_ms(names.REQUEST_DECODE_TIME),
        path_first=None if engine_ttft is None else ttft - before - engine_ttft,
        path_last=None if engine_e2e is None else e2e - before - engine_e2e,
        hit_share=counted.hit_share,
    )


def _shared_engines(snapshots: Sequence[ServerSnapshot], arm: str) -> frozenset[str]:
    """Return the engines of *arm* that another arm has as well: their counters hold the requests of
    both.  Engines that were given by their address are known by it; fleets of our own repeat names.
    """
    own = {one.target for one in snapshots if one.arm == arm and ":" in one.target}
    return frozenset(own & {one.target for one in snapshots if one.arm != arm})


def _mean_ms(records: Sequence[Record], seconds: Callable[[Record], float]) -> float:
    return fmean(map(seconds, records)) * 1e3


class _Counted:
    """What the servers of one arm counted from *begun_s* on."""

    def __init__(self, snapshots: Sequence[ServerSnapshot], begun_s: float) -> None:
        self._ends: list[tuple[ServerSnapshot, ServerSnapshot]] = []
        for target in sorted({one.target for one in snapshots}):
            own = [one for one in snapshots if one.target == target]
            before = [one for one in own if one.at_s <= begun_s]
            self._ends.append(((before or own)[-1 if before else 0], own[-1]))

    def mean_ms(self, name: str) -> float | None:
        """Return the mean of a histogram, over all servers that have it."""
        total = self._grown(f"{name}_sum")
        number = self._grown(f"{name}_count")
        return total / number * 1e3 if total is not None and number else None

    @property
    def hit_share(self) -> float | None:
        hits = queries = prompts = 0
        for first, last in self._ends:
            a, b = first.load, last.load
            if a is None or b is None or a.prefix_hits is None or b.prefix_hits is None:
                continue
            hits += b.prefix_hits - a.prefix_hits
            queries += (b.prefix_queries or 0) - (a.prefix_queries or 0)
            prompts += (b.prompt_tokens or 0) - (a.prompt_tokens or 0)
        if queries > 0:
            return hits / queries
        # An engine whose cache is off looks nothing up in it.
        return 0.0 if prompts > 0 else None

    def _grown(self, name: str) -> float | None:
        """Return by how much the samples of *name* grew; None where there are none."""
        grown: float | None = None
        for first, last in self._ends:
            for sample, value in last.values.items():
                if sample == name or sample.startswith((f"{name}{{", f"{name}[")):
                    grown = (grown or 0.0) + value - first.values.get(sample, 0.0)
        return grown
