"""What an engine's events say of its cache is what is in it."""

import tracemalloc
from collections import OrderedDict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.routing.exact_index import EngineBlocks, prompt_chain

SIZE = 4


class Engine:
    """A prefix cache that evicts the least recently used, and names blocks as it likes."""

    def __init__(self, room: int, seed: int) -> None:
        self.room, self.seed = room, seed
        self.cache: OrderedDict[tuple[tuple[int, ...], str], int] = OrderedDict()
        self.told = EngineBlocks()

    def read(self, tokens: list[int], salt: str) -> int:
        """Read a prompt; return how many blocks of it were cached."""
        full = len(tokens) // SIZE
        keys = [(tuple(tokens[: (n + 1) * SIZE]), salt) for n in range(min(full, self.room))]
        hits = next((n for n, key in enumerate(keys) if key not in self.cache), len(keys))
        names = [hash((self.seed, key)) for key in keys]
        for key in reversed(keys[:hits]):
            self.cache.move_to_end(key)
        new = keys[hits:]
        while len(self.cache) + len(new) > self.room:
            _, gone = self.cache.popitem(last=False)
            self.told.removed([gone])
        if new:
            extra = [(salt,) if salt and not n else None for n in range(hits, len(keys))]
            kept = tokens[hits * SIZE : len(keys) * SIZE]
            parent = names[hits - 1] if hits else None
            assert self.told.stored(names[hits:], parent, kept, SIZE, extra)
        for key, name in reversed(list(zip(keys, names, strict=True))[hits:]):
            self.cache[key] = name
        for key in reversed(keys):
            self.cache.move_to_end(key)
        return hits


prompts = st.lists(
    st.tuples(st.lists(st.integers(0, 1), max_size=24), st.sampled_from(["", "a"])), max_size=30
)


@given(prompts=prompts, room=st.integers(6, 12), seeds=st.tuples(st.integers(), st.integers()))
def test_held_blocks_are_those_that_the_engine_finds(
    prompts: list[tuple[list[int], str]], room: int, seeds: tuple[int, int]
) -> None:
    """Whatever its hashes are seeded with, also when it evicts, and with salts."""
    engines = [Engine(room, seed) for seed in seeds]
    for tokens, salt in prompts:
        chain = prompt_chain(tokens, SIZE, salt or None)
        for engine in engines:
            held = engine.told.held(chain[: engine.room])
            assert held == engine.read(tokens, salt)
            assert len(engine.told) == len(engine.cache)


def test_blocks_behind_one_that_is_unknown_cannot_be_placed() -> None:
    """Their events came, and those before them did not."""
    blocks = EngineBlocks()

    assert not blocks.stored([5], 4, [1, 2, 3, 4], 4)
    assert not blocks.stored([5], None, [1, 2, 3], 4)
    assert blocks.stored([4], None, [1, 2, 3, 4], 4)
    assert not blocks.stored([6], 4, [1, 2], 2)
    assert blocks.held(prompt_chain([1, 2, 3, 4, 5, 6, 7, 8], 4)) == 1


def test_salt_and_adapter_set_blocks_apart() -> None:
    """The salt in the first block, the adapter in each."""
    tokens = list(range(12))
    chains = {
        prompt_chain(tokens, 4),
        prompt_chain(tokens, 4, "salt"),
        prompt_chain(tokens, 4, None, "lora"),
        prompt_chain(tokens, 4, "salt", "lora"),
    }

    assert len(chains) == 4
    blocks = EngineBlocks()
    blocks.stored([b"x", b"y"], None, tokens[:8], 4, [("lora", "salt"), ("lora",)])
    assert blocks.held(prompt_chain(tokens, 4, "salt", "lora")) == 2
    assert blocks.held(prompt_chain(tokens, 4, "salt")) == 0


def test_what_was_removed_or_cleared_is_not_held() -> None:
    """Unknown removals are no error: they were never counted."""
    blocks, chain = EngineBlocks(), prompt_chain(range(16), 4)
    blocks.stored([1, 2, 3, 4], None, list(range(16)), 4)
    blocks.removed([4, 99])
    assert blocks.held(chain) == 3

    blocks.cleared()
    assert blocks.held(chain) == len(blocks) == 0


@pytest.mark.parametrize("most", [260])
def test_memory_of_a_block_is_bounded(most: int) -> None:
    """Of 16 tokens, beside which a block of KV cache takes 2 MB on the engine."""
    tracemalloc.start()
    blocks = EngineBlocks()
    for start in range(0, 20_000, 100):
        hashes = [(start + n) * 7**20 % 2**64 for n in range(100)]
        blocks.stored(hashes, None, [start + n for n in range(1600)], 16)
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert used / len(blocks) < most
