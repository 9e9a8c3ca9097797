"""The KV cache of an engine as blocks: who holds them, which are cached, which go first.  Pure.

Follows vLLM's V1 block pool (vllm/v1/core/block_pool.py, kv_cache_utils.py): one queue of free
blocks in the order in which they were freed; a block that holds a cached prefix keeps it while it
lies in that queue, and loses it when it reaches the front and is taken.  A sequence's blocks are
freed last block first, so that the end of a prompt is forgotten before its beginning.
"""

from collections import OrderedDict
from collections.abc import Sequence
from itertools import count, islice


class BlockPool:
    """`total` blocks, counted rather than numbered: only how many and which prefix matters.

    A *segment* is `per_segment` consecutive blocks under one hash: one block where prompts are
    known exactly, more where a trace names its prefixes in larger pieces.
    """

    def __init__(self, total: int, per_segment: int = 1) -> None:
        self.total = total
        self.free = total
        self.per_segment = per_segment
        # Cached segment -> sequences that hold it; 0 where it only lies in the free queue.
        self._holders: dict[int, int] = {}
        # Free queue, first to go first: segment hash, or a tuple for a run without a hash.
        self._queue: OrderedDict[int | tuple[int], int] = OrderedDict(
            {(0,): total} if total else {}
        )
        # Keys of runs without a hash; the first has 0.
        self._runs = count(1)

    @property
    def usage(self) -> float:
        """Share of blocks that a sequence holds, 0.0 to 1.0."""
        return 1.0 - self.free / self.total if self.total else 0.0

    def match(self, segments: Sequence[int], most: int) -> tuple[int, int]:
        """Return how many leading *segments*, at most *most*, are cached, and how many blocks of
        those are free now (and would no longer be, once held)."""
        holders = self._holders
        hits = idle = 0
        for segment in islice(segments, most):
            held = holders.get(segment)
            if held is None:
                break
            hits += 1
            idle += not held
        return hits, idle * self.per_segment

    def hold(self, segments: Sequence[int], count: int) -> None:
        """Hold the first *count* of *segments*, which are cached."""
        holders = self._holders
        for segment in islice(segments, count):
            held = holders[segment]
            if not held:
                self.free -= self._queue.pop(segment)
            holders[segment] = held + 1

    def take(self, blocks: int) -> None:
        """Take *blocks*, at most `free`, from the front of the queue; what they cached is gone."""
        if blocks > self.free:
            raise AssertionError(f"{blocks} blocks asked for, {self.free} are free")
        self.free -= blocks
        queue = self._queue
        while blocks:
            key, size = queue.popitem(last=False)
            if isinstance(key, int):
                del self._holders[key]
            if size > blocks:
                self._put_first(size - blocks)
                return
            blocks -= size

    def publish(self, segment: int) -> bool:
        """Cache a segment that a sequence has just filled, held by it.  False where the same
        segment is cached already: the copy then stays the sequence's own."""
        if segment in self._holders:
            return False
        self._holders[segment] = 1
        return True

    def release(self, segments: Sequence[int], own: int) -> None:
        """Let go of held *segments* and of *own* further blocks behind them."""
        if own:
            self._queue[(next(self._runs),)] = own
            self.free += own
        holders = self._holders
        for segment in reversed(segments):
            held = holders[segment] - 1
            holders[segment] = held
            if not held:
                self._queue[segment] = self.per_segment
                self.free += self.per_segment

    def resize(self, total: int) -> int:
        """Grow or shrink towards *total* blocks; held blocks stay.  Return the new total."""
        if total > self.total:
            self._put_first(total - self.total)
            self.free += total - self.total
            self.total = total
        else:
            gone = min(self.total - total, self.free)
            self.take(gone)
            self.total -= gone
        return self.total

    def forget(self) -> bool:
        """Drop every cached prefix, as vLLM's /reset_prefix_cache does.  False, and nothing
        happens, while a sequence holds blocks."""
        if self.free != self.total:
            return False
        self._holders.clear()
        self._queue.clear()
        if self.total:
            self._put_first(self.total)
        return True

    def _put_first(self, blocks: int) -> None:
        key = (next(self._runs),)
        self._queue[key] = blocks
        self._queue.move_to_end(key, last=False)
