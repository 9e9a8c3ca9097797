"""KV-cache memory that several engines of one GPU share, as KVCached does it.  Pure.

Each engine's cache is as large as the GPU on paper; memory is mapped when blocks are taken and
unmapped when they are given back, but for a few that are kept warm.  What one engine holds the
others cannot have.  (https://github.com/ovg-project/kvcached, KVCACHED_MAX_CACHED_TOKENS.)
"""

from dataclasses import dataclass

from servekit.enginesim.engine import SimulatedEngine

# KVCached's default: tokens of free blocks that stay mapped per engine.
KEPT_TOKENS = 16_000


@dataclass(slots=True)
class _Member:
    engine: SimulatedEngine
    block_bytes: float


class SharedMemory:
    """The memory that is left for KV caches on one GPU, in bytes."""

    def __init__(self, total_bytes: float, kept_tokens: int = KEPT_TOKENS) -> None:
        self.total_bytes = total_bytes
        self._kept_tokens = kept_tokens
        self._members: list[_Member] = []

    def join(self, engine: SimulatedEngine, bytes_per_token: float) -> None:
        """Let *engine* take its blocks from here from now on; it holds none yet."""
        engine.pool.resize(0)
        self._members.append(_Member(engine, bytes_per_token * engine.config.block_size))

    @property
    def used_bytes(self) -> float:
        """Bytes that are mapped."""
        return sum(m.engine.pool.total * m.block_bytes for m in self._members)

    def lend(self, engine: SimulatedEngine) -> None:
        """Map for *engine*, which is between two steps, whatever the others do not need.

        Where nothing runs in *engine*, the others keep no free block: it would wait for ever.
        """
        kept_tokens = self._kept_tokens if engine.load().running else 0
        own: _Member | None = None
        for member in self._members:
            if member.engine is engine:
                own = member
            else:
                _trim(member, kept_tokens)
        if own is None:
            raise AssertionError("the engine has not joined this memory")
        others = self.used_bytes - own.engine.pool.total * own.block_bytes
        blocks = int((self.total_bytes - others) / own.block_bytes)
        engine.pool.resize(min(engine.config.num_blocks, max(0, blocks)))


def _trim(member: _Member, kept_tokens: int) -> None:
    """Unmap free blocks beyond those that are kept."""
    pool = member.engine.pool
    kept = kept_tokens // member.engine.config.block_size
    if pool.free > kept:
        pool.resize(pool.total - pool.free + kept)
