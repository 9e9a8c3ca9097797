"""Which blocks are in an engine's prefix cache, by the events that it sends.  Pure.

Blocks are known here by a chain of our own over their tokens, which is the same for every engine;
an engine's hashes, whatever algorithm and seed it makes them with, are only names for what it
removes later and for what a block follows.
"""

from array import array
from collections.abc import Callable, Hashable, Iterable, Sequence

import xxhash

# Before the first block of a prompt.
ROOT = 0

EngineHash = int | bytes


def chained(before: int, tokens: Sequence[int], extra: Hashable = None) -> int:
    """Return the name of the block of *tokens* that follows *before*; *extra* sets it apart, as a
    salt or an adapter does."""
    whole = xxhash.xxh3_64(before.to_bytes(8, "little"))
    whole.update(array("Q", tokens).tobytes())
    if extra is not None:
        whole.update(repr(extra).encode())
    return whole.intdigest()


def prompt_chain(
    tokens: Sequence[int], block_tokens: int, first: Hashable = None, each: Hashable = None
) -> tuple[int, ...]:
    """Return the names of the full blocks of a prompt; *first* is what sets the first block apart
    beside what sets *each*, as `extra_keys` of vLLM's events have it."""
    chain: list[int] = []
    before = ROOT
    for start in range(0, len(tokens) - block_tokens + 1, block_tokens):
        keys = tuple(key for key in (each, None if start else first) if key is not None)
        before = chained(before, tokens[start : start + block_tokens], keys or None)
        chain.append(before)
    return tuple(chain)


class EngineBlocks:
    """The cached blocks of one engine, or of one of its data-parallel ranks.

    Attributes:
        block_tokens: tokens of a block; None until an event has said it.
    """

    __slots__ = ("_cached", "_names", "block_tokens")

    def __init__(self) -> None:
        self.block_tokens: int | None = None
        self._names: dict[EngineHash, int] = {}
        self._cached: set[int] = set()

    def __len__(self) -> int:
        return len(self._cached)

    def stored(
        self,
        hashes: Sequence[EngineHash],
        parent: EngineHash | None,
        tokens: Sequence[int],
        block_tokens: int,
        extra: Sequence[Hashable] = (),
    ) -> bool:
        """Blocks were cached behind *parent*; return whether they could be placed.

        They cannot where the parent is unknown, or their tokens are not whole blocks.
        """
        before = ROOT if parent is None else self._names.get(parent)
        if before is None or block_tokens < 1 or len(tokens) != len(hashes) * block_tokens:
            return False
        if self.block_tokens not in (None, block_tokens):
            return False
        self.block_tokens = block_tokens
        for number, engine_hash in enumerate(hashes):
            start = number * block_tokens
            keys = extra[number] if number < len(extra) else None
            before = chained(before, tokens[start : start + block_tokens], keys or None)
            # An engine says so again when it uses the block again.
            self._names[engine_hash] = before
            self._cached.add(before)
        return True

    def removed(self, hashes: Iterable[EngineHash]) -> None:
        """Blocks were evicted; those that are unknown here never counted."""
        for engine_hash in hashes:
            name = self._names.pop(engine_hash, None)
            if name is not None:
                self._cached.discard(name)

    def cleared(self) -> None:
        """The cache is empty."""
        self._names.clear()
        self._cached.clear()

    def held(self, chain: Sequence[int]) -> int:
        """Return how many of the first blocks of *chain* are cached.

        By bisection: an engine evicts the end of a prompt before its beginning.
        """
        low, high = 0, len(chain)
        cached = self._cached
        while low < high:
            middle = (low + high + 1) // 2
            if chain[middle - 1] in cached:
                low = middle
            else:
                high = middle - 1
        return low


class ExactPrompt:
    """A prompt by its tokens, and who has it in its cache.

    Attributes:
        chain: the names of its full blocks, but for the one that has its last token: an engine
            computes that in any case.
        made_s: when it was asked for.
    """

    __slots__ = ("_held", "block_tokens", "chain", "made_s", "tokens")

    def __init__(
        self,
        chain: tuple[int, ...],
        block_tokens: int,
        tokens: int,
        held: Callable[[str, Sequence[int]], int | None],
        made_s: float = 0.0,
    ) -> None:
        """*held* says how many of the first blocks a replica has cached; None: unknown."""
        self.chain = chain
        self.block_tokens = block_tokens
        self.tokens = tokens
        self.made_s = made_s
        self._held = held

    def blocks_at(self, replica: str) -> int | None:
        """Return how many of its first blocks *replica* has; None where that is not known."""
        return self._held(replica, self.chain)

    def tokens_at(self, replica: str) -> int | None:
        """Return how many tokens *replica* need not read; None where that is not known."""
        held = self._held(replica, self.chain)
        return None if held is None else held * self.block_tokens
