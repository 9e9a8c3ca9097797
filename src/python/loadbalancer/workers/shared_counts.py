"""Several processes that decide as one: their counts of requests in flight, in shared memory.

Each worker writes a row of its own, so that nothing has to be locked, and adds up the others' rows
when it decides.
"""

import mmap

import xxhash

from loadbalancer.workers.deadly_requests import SIZE_BYTES, DeadlyRequests
from loadbalancer.workers.response_owners import ResponseOwners
from servekit.routing.load_tracker import Pool, ReplicaLoad

# Replicas find their slot by the hash of their name: workers read a changed fleet file at slightly
# different times.  With 100 replicas two share a slot once in 13 fleets, and then look busier.
SLOTS = 1 << 16
_BYTES = 4

# The counts of more replicas than this are added up every few milliseconds: with 500 that takes
# longer than a choice, in which a request more or less at one of them matters little.
LARGE = 64
LARGE_PERIOD_S = 0.005


class SharedCounts:
    """Requests in flight by worker and replica.

    Attributes:
        worker: which of them this process is.
        deadly: requests that engines died of, whichever worker had sent them.
        response_owners: which replica keeps which response, whichever worker has relayed it.
    """

    def __init__(self, workers: int) -> None:
        """Make the memory; processes that are forked from here on share it."""
        self._workers = workers
        self._memory = mmap.mmap(-1, workers * SLOTS * _BYTES)
        self._rows = [
            memoryview(self._memory)[n * SLOTS * _BYTES : (n + 1) * SLOTS * _BYTES].cast("i")
            for n in range(workers)
        ]
        self.deadly = DeadlyRequests(mmap.mmap(-1, SIZE_BYTES))
        self.response_owners = ResponseOwners()
        self._version = memoryview(mmap.mmap(-1, mmap.PAGESIZE))[:8].cast("Q")
        self.worker = 0
        self._slots: dict[str, int] = {}
        self._refreshed: Pool | None = None
        self._refresh_s = 0.0

    def become(self, worker: int) -> None:
        """Say which worker this process is.  What a predecessor left in its row is forgotten."""
        self.worker = worker
        self.clear(worker)

    def clear(self, worker: int) -> None:
        """Give back what *worker* had in flight: it has died."""
        self._rows[worker][:] = memoryview(bytes(SLOTS * _BYTES)).cast("i")

    @property
    def models_version(self) -> int:
        """How often replicas were told to serve other models (count)."""
        return self._version[0]

    def models_changed(self) -> None:
        """Tell the others that replicas were told so."""
        self._version[0] += 1

    def publish(self, load: ReplicaLoad) -> None:
        """Tell the others what this worker has in flight."""
        self._rows[self.worker][self._slot(load.name)] = load.in_flight

    def refresh(self, pool: Pool) -> None:
        """Bring in what the others have in flight."""
        others = [row for number, row in enumerate(self._rows) if number != self.worker]
        for load in pool:
            slot = self._slot(load.name)
            load.other_workers = sum([row[slot] for row in others])

    def refresh_lately(self, pool: Pool, now_s: float) -> None:
        """Do so, but for a large fleet not at every choice."""
        if len(pool) > LARGE:
            if pool is self._refreshed and now_s < self._refresh_s:
                return
            self._refreshed, self._refresh_s = pool, now_s + LARGE_PERIOD_S
        self.refresh(pool)

    def _slot(self, name: str) -> int:
        slot = self._slots.get(name)
        if slot is None:
            slot = self._slots[name] = xxhash.xxh3_64_intdigest(name.encode()) % SLOTS
        return slot
