"""The index of prefixes agrees with comparing the prompts themselves."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from servekit.routing.prefix_index import PrefixIndex, prompt_blocks
from tests.servekit.routing.cost import bytes_per_block


@given(first=st.binary(max_size=60), second=st.binary(max_size=60), shared=st.binary(max_size=60))
def test_prompts_share_as_many_hashes_as_blocks(first: bytes, second: bytes, shared: bytes) -> None:
    """A block's hash stands for everything before it, too."""
    one, other = shared + first, shared + second
    common = next((n for n, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
    same = min(len(one), len(other)) if common is None else common
    hashes = zip(prompt_blocks(one, 4), prompt_blocks(other, 4), strict=False)

    assert sum(a == b for a, b in hashes) == same // 4


@given(
    prompts=st.lists(
        st.tuples(st.sampled_from("ab"), st.lists(st.integers(0, 3), max_size=6)), max_size=20
    ),
    asked=st.lists(st.integers(0, 3), max_size=6),
)
def test_hits_are_the_longest_prefix_each_replica_has_read(
    prompts: list[tuple[str, list[int]]], asked: list[int]
) -> None:
    """As long as nothing had to be forgotten."""
    index = PrefixIndex()
    for replica, prompt in prompts:
        index.add(replica, _chain(prompt))

    expected = {
        replica: best
        for replica in "ab"
        if (best := max((_common(p, asked) for r, p in prompts if r == replica), default=0))
    }
    assert index.hits(_chain(asked)) == expected


def test_least_recently_used_blocks_are_forgotten_from_the_end() -> None:
    """What prompts share is at their front and goes last."""
    index = PrefixIndex(capacity=3)
    index.add("a", (1, 2, 3))
    index.add("a", (1, 9))

    assert index.hits((1, 2, 3)) == {"a": 2}
    assert index.size("a") == 3


class Model:
    """The same by brute force: for each replica its blocks, the least recently used first."""

    def __init__(self) -> None:
        self.held: dict[str, list[int]] = {}

    def add(self, replica: str, blocks: tuple[int, ...], capacity: int) -> None:
        held = self.held.setdefault(replica, [])
        for block in reversed(blocks):
            if block in held:
                held.remove(block)
            held.append(block)
        del held[: max(0, len(held) - capacity)]

    def hits(self, blocks: tuple[int, ...]) -> dict[str, int]:
        lengths = {}
        for replica, held in self.held.items():
            known = next((n for n, block in enumerate(blocks) if block not in held), len(blocks))
            if known:
                lengths[replica] = known
        return lengths


steps = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.lists(st.integers(0, 2), min_size=1, max_size=8),
        st.sampled_from(["add"] * 9 + ["forget"]),
    ),
    max_size=40,
)


@given(steps=steps, capacity=st.integers(1, 12))
def test_index_remembers_what_a_list_of_blocks_would(
    steps: list[tuple[str, list[int], str]], capacity: int
) -> None:
    """Runs that are read, cut, extended, shortened and forgotten: what each replica holds, how
    much of a prompt it held before, and its size are those of the simplest model."""
    index, model = PrefixIndex(), Model()
    for replica, prompt, step in steps:
        blocks = _chain(prompt)
        if step == "forget":
            index.forget(replica)
            model.held.pop(replica, None)
        else:
            before = model.hits(blocks).get(replica, 0)
            assert index.held_by(replica, blocks) == before
            assert index.add(replica, blocks, capacity) == before
            model.add(replica, blocks, capacity)
        assert index.hits(blocks) == model.hits(blocks)
        assert index.size(replica) == len(model.held.get(replica, ()))
    for _, prompt, _ in steps:
        assert index.hits(_chain(prompt)) == model.hits(_chain(prompt))


def test_an_index_that_forgot_everything_is_empty() -> None:
    """Nothing is left of replicas that are gone, however their prompts branched."""
    index, rng = PrefixIndex(capacity=200), Random(3)
    for _ in range(3000):
        blocks = _chain([rng.randrange(3) for _ in range(rng.randrange(1, 12))])
        index.add(rng.choice("abcd"), blocks)

    for replica in "abcd":
        index.forget(replica)

    assert index._starts == {}


def test_memory_of_a_block_is_bounded_for_prompts_of_any_length() -> None:
    """At most 60 bytes for each block that a replica's cache has room for."""
    for length in (1, 3, 16, 400):
        assert bytes_per_block(50, length) < 60, length


def test_choice_does_not_cost_more_than_its_sample_in_a_large_fleet() -> None:
    """A prompt of 400 blocks that all of 500 replicas have read: no step for each of either."""
    index, rng = PrefixIndex(), Random(4)
    blocks = tuple(rng.getrandbits(64) for _ in range(400))
    for number in range(500):
        index.add(f"r{number}", blocks)

    assert len(index.path(blocks)) == 1


def _common(one: list[int], other: list[int]) -> int:
    for length, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return length
    return min(len(one), len(other))


def _chain(tokens: list[int]) -> tuple[int, ...]:
    return tuple(hash(tuple(tokens[: n + 1])) for n in range(len(tokens)))
