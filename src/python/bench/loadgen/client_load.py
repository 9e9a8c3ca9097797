"""Watch ourselves while we measure: processor time and how late the event loop is.  Input and
output, but for `Burden`."""

import asyncio
import gc
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

# A timer fires within a millisecond of when it was asked to; later than that is our own lateness.
_PROBE_EVERY_S = 0.010


class ClientLoad(msgspec.Struct, frozen=True, kw_only=True):
    """What the client itself did to the measurement.

    Attributes:
        cpu_share: processor time over wall time over cores, 0.0 to 1.0.
        lag_p50_ms, lag_p99_ms: how late the event loop ran a timer; None where it is not ours.
        machine_load: processes of the whole machine that ran or waited to, per core, on average;
            None where the system does not say.
    """

    wall_s: float
    cpu_s: float
    cores: int
    lag_p50_ms: float | None
    lag_p99_ms: float | None
    machine_load: float | None = None

    @property
    def cpu_share(self) -> float:
        return self.cpu_s / self.wall_s / self.cores if self.wall_s else 0.0


class ClientLoadMonitor:
    """Measures the Burden of an `async with` block."""

    def __init__(self) -> None:
        self._lags_s: list[float] = []
        self._wall_s = 0.0
        self._cpu_s = 0.0
        self._probe: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "ClientLoadMonitor":
        self._started = time.monotonic(), time.process_time()
        self._probe = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._probe is not None
        self._probe.cancel()
        self._wall_s = time.monotonic() - self._started[0]
        self._cpu_s = time.process_time() - self._started[1]

    @property
    def burden(self) -> ClientLoad:
        """The burden of the block, once it has ended."""
        lags = sorted(self._lags_s) or [0.0]
        return ClientLoad(
            wall_s=self._wall_s,
            cpu_s=self._cpu_s,
            cores=1,
            lag_p50_ms=lags[len(lags) // 2] * 1e3,
            lag_p99_ms=lags[min(len(lags) - 1, len(lags) * 99 // 100)] * 1e3,
            machine_load=_machine_load(),
        )

    async def _watch(self) -> None:
        while True:
            before_s = time.monotonic()
            await asyncio.sleep(_PROBE_EVERY_S)
            self._lags_s.append(max(0.0, time.monotonic() - before_s - _PROBE_EVERY_S))


def _machine_load() -> float | None:
    """The load average of the last minute, per core."""
    try:
        return os.getloadavg()[0] / (os.cpu_count() or 1)
    except OSError:
        return None


@contextmanager
def few_collections() -> Iterator[None]:
    """Collect garbage rarely: a full collection stops every stream for tens of milliseconds."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(100_000, 50, 1_000)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
