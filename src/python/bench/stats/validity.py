"""Was it the upstream that was measured, or the client?  Pure."""

from collections.abc import Sequence

import msgspec
import numpy as np

from bench.loadgen.client_load import ClientLoad
from bench.loadgen.record import Record

MAX_CPU_SHARE = 0.80
MAX_LAG_P99_MS = 5.0
MIN_ACHIEVED_SHARE = 0.99
MAX_ERROR_SHARE = 0.05


class Validity(msgspec.Struct, frozen=True, kw_only=True):
    """How far a run can be trusted.

    Attributes:
        reasons: why not; empty for a valid run.
        lag_p50_ms, lag_p99_ms: how late the client's event loop was; None where unknown.
        achieved_share: requests sent per second over requests due per second.
        dispatch_p50_ms, dispatch_p99_ms: how late requests were sent.
        machine_load: runnable processes of the machine per core; None where unknown.
    """

    reasons: tuple[str, ...]
    client_cpu_share: float
    lag_p50_ms: float | None
    lag_p99_ms: float | None
    achieved_share: float
    dispatch_p50_ms: float
    dispatch_p99_ms: float
    error_share: float
    machine_load: float | None = None

    @property
    def valid(self) -> bool:
        return not self.reasons


def judge(
    records: Sequence[Record], burden: ClientLoad, *, max_error_share: float = MAX_ERROR_SHARE
) -> Validity:
    """Return whether *records*, taken under *burden*, say something of the upstream."""
    achieved = achieved_share(records)
    delays_ms = np.array([one.dispatch_delay_s * 1e3 for one in records] or [0.0])
    errors = sum(not one.ok for one in records) / len(records) if records else 0.0
    reasons = []
    if not records:
        reasons.append("no request was sent")
    if burden.cpu_share > MAX_CPU_SHARE:
        reasons.append(
            f"client CPU usage was {burden.cpu_share:.0%} of {burden.cores} core(s) (max "
            f"{MAX_CPU_SHARE:.0%}); lower --rate or raise --workers"
        )
    if burden.lag_p99_ms is not None and burden.lag_p99_ms > MAX_LAG_P99_MS:
        reasons.append(
            f"client event-loop lag p99 was {burden.lag_p99_ms:.1f} ms (max {MAX_LAG_P99_MS:g} "
            "ms); use an otherwise idle machine or raise --workers"
        )
    if achieved < MIN_ACHIEVED_SHARE:
        reasons.append(
            f"{achieved:.1%} of the scheduled rate was sent (min {MIN_ACHIEVED_SHARE:.0%}); lower "
            "--rate"
        )
    if errors > max_error_share:
        reasons.append(
            f"{errors:.1%} of requests failed (max {max_error_share:.0%}); the latencies of "
            "the rest are biased"
        )
    return Validity(
        machine_load=burden.machine_load,
        reasons=tuple(reasons),
        client_cpu_share=burden.cpu_share,
        lag_p50_ms=burden.lag_p50_ms,
        lag_p99_ms=burden.lag_p99_ms,
        achieved_share=achieved,
        dispatch_p50_ms=float(np.percentile(delays_ms, 50)),
        dispatch_p99_ms=float(np.percentile(delays_ms, 99)),
        error_share=errors,
    )


def achieved_share(records: Sequence[Record]) -> float:
    """Return the rate at which requests were sent over the rate at which they were due, both
    within the parts of each arm; 1.0 where there is too little to tell."""
    due_s = sent_s = 0.0
    stretches: dict[tuple[str, int], list[Record]] = {}
    for one in records:
        stretches.setdefault((one.arm, one.part), []).append(one)
    for some in stretches.values():
        due_s += max(one.due_s for one in some) - min(one.due_s for one in some)
        # A request may be sent early in the last one's place, never before it was due.
        sent_s += max(one.sent_s for one in some) - min(one.due_s for one in some)
    return min(1.0, due_s / sent_s) if due_s > 0 and sent_s > 0 else 1.0
