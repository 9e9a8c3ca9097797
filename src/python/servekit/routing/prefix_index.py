"""Which replica has read which prefixes: a guess at the engines' caches.  Pure.

Kept as one map from block to holders, so that a look-up costs as much as the prompt is long and
not as much as the fleet is large.
"""

from collections import OrderedDict

import xxhash

from servekit.routing.load_tracker import ReplicaLoad

# Where an engine does not say how large its cache is.  An L4 holds a few hundred blocks of this
# size, an H200 with an 8B model about 8,000; being wrong costs a miss, which is what every other
# policy has each time.
BLOCKS_PER_REPLICA = 8000

# 512 bytes of JSON are about 128 tokens, eight of vLLM's blocks.
BLOCK_BYTES = 512


def prompt_blocks(prompt: bytes | memoryview, block_bytes: int = BLOCK_BYTES) -> tuple[int, ...]:
    """Return chained hashes of the whole blocks of *prompt*.

    Two prompts share their first n hashes exactly where they share their first n blocks.
    """
    whole = xxhash.xxh3_64()
    hashes: list[int] = []
    for start in range(0, len(prompt) - block_bytes + 1, block_bytes):
        whole.update(prompt[start : start + block_bytes])
        hashes.append(whole.intdigest())
    return tuple(hashes)


def blocks_held(replica: ReplicaLoad, block_tokens: int) -> int | None:
    """Return how many blocks the cache of *replica* holds by its last poll; None where unknown."""
    load = replica.last_load
    return None if load is None or load.kv_tokens is None else load.kv_tokens // block_tokens


class PrefixIndex:
    """Blocks by replica, the least recently used forgotten first."""

    def __init__(self, capacity: int = BLOCKS_PER_REPLICA) -> None:
        self._capacity = capacity
        self._holders: dict[int, set[str]] = {}
        self._held: dict[str, OrderedDict[int, None]] = {}

    def hits(self, blocks: tuple[int, ...]) -> dict[str, int]:
        """Return how many of the first *blocks* each replica holds; those with none are missing."""
        lengths: dict[str, int] = {}
        following: set[str] | None = None
        for number, block in enumerate(blocks, start=1):
            holders = self._holders.get(block)
            if not holders:
                break
            following = set(holders) if following is None else following & holders
            if not following:
                break
            for name in following:
                lengths[name] = number
        return lengths

    def held_by(self, replica: str, blocks: tuple[int, ...]) -> int:
        """Return how many of the first *blocks* one replica holds."""
        held = self._held.get(replica, ())
        for number, block in enumerate(blocks):
            if block not in held:
                return number
        return len(blocks)

    def add(self, replica: str, blocks: tuple[int, ...], capacity: int | None = None) -> None:
        """*replica*, whose cache holds *capacity* blocks where that is known, reads *blocks*."""
        held = self._held.setdefault(replica, OrderedDict())
        # The end first: what all prompts share is at the front, and must be forgotten last.
        for block in reversed(blocks):
            if block in held:
                held.move_to_end(block)
            else:
                held[block] = None
                self._holders.setdefault(block, set()).add(replica)
        most = self._capacity if capacity is None else capacity
        while len(held) > most:
            oldest, _ = held.popitem(last=False)
            self._let_go(replica, oldest)

    def forget(self, replica: str) -> None:
        """*replica* has lost its cache."""
        for block in self._held.pop(replica, ()):
            self._let_go(replica, block)

    def size(self, replica: str) -> int:
        """Return how many blocks *replica* is thought to hold."""
        return len(self._held.get(replica, ()))

    def _let_go(self, replica: str, block: int) -> None:
        holders = self._holders[block]
        holders.discard(replica)
        if not holders:
            del self._holders[block]
