"""The index of prefixes agrees with comparing the prompts themselves."""

from hypothesis import given
from hypothesis import strategies as st

from servekit.routing.prefix_index import PrefixIndex, prompt_blocks


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


def _common(one: list[int], other: list[int]) -> int:
    for length, (a, b) in enumerate(zip(one, other, strict=False)):
        if a != b:
            return length
    return min(len(one), len(other))


def _chain(tokens: list[int]) -> tuple[int, ...]:
    return tuple(hash(tuple(tokens[: n + 1])) for n in range(len(tokens)))
