"""Prompts as tokens and block hashes."""

from hypothesis import given
from hypothesis import strategies as st

from servekit.enginesim.prompts import text_segments, text_tokens, token_segments


@given(
    common=st.lists(st.integers(0, 200_000), max_size=80),
    left=st.lists(st.integers(0, 200_000), max_size=40),
    right=st.lists(st.integers(0, 200_000), max_size=40),
)
def test_prompts_share_the_blocks_of_their_common_beginning(
    common: list[int], left: list[int], right: list[int]
) -> None:
    """Hashes agree up to the last full common block, and no further."""
    one, two = token_segments(common + left, 16), token_segments(common + right, 16)
    alike = sum(1 for a, b in zip(one, two, strict=False) if a == b)
    same = 0
    for a, b in zip(common + left, common + right, strict=False):
        if a != b:
            break
        same += 1

    assert alike == min(same, len(common + left), len(common + right)) // 16


def test_text_counts_a_token_per_four_bytes() -> None:
    """The estimate rounds up, and full blocks are 64 bytes."""
    assert text_tokens(b"12345") == 2
    assert len(text_segments(b"x" * 130, 16)) == 2
    assert [len(text_segments(b"x" * size, 16)) for size in (63, 64, 127, 128)] == [0, 1, 1, 2]
    assert [text_tokens(b"x" * size) for size in (0, 1, 4, 5)] == [0, 1, 1, 2]


def test_a_block_depends_on_all_before_it() -> None:
    """The same 64 bytes behind others have another hash, and the same in any run."""
    one, two = (text_segments(first * 64 + b"same" * 16, 16) for first in (b"a", b"b"))

    assert one[1] != two[1]
    assert text_segments(b"a" * 64, 16) == one[:1]
    assert len({*one, *two}) == 4
    assert token_segments([1] * 16, 16) != token_segments([2] * 16, 16)
