"""Prompt -> number of tokens and the hash of each of its blocks.  Pure.

A simulated engine has no tokenizer.  A prompt of token ids is exact; text counts one token per
four bytes of UTF-8 (the usual figure for English in current vocabularies), rounded up.  The hash
of a block covers everything before it, as vLLM's does, so that two prompts share exactly the
blocks of their common beginning.
"""

from array import array
from collections.abc import Sequence
from hashlib import blake2b

BYTES_PER_TOKEN = 4


def text_tokens(text: bytes) -> int:
    """Return the tokens that *text* counts for."""
    return -(-len(text) // BYTES_PER_TOKEN)


def text_segments(text: bytes, segment_tokens: int) -> tuple[int, ...]:
    """Return the chained hash of each full segment of *text*."""
    return _chain(text, segment_tokens * BYTES_PER_TOKEN)


def token_segments(tokens: Sequence[int], segment_tokens: int) -> tuple[int, ...]:
    """Return the chained hash of each full segment of *tokens*.

    Raises:
        OverflowError: a token is below 0 or above 2**64.
    """
    return _chain(array("Q", tokens).tobytes(), segment_tokens * 8)


def _chain(raw: bytes, size: int) -> tuple[int, ...]:
    segments = []
    before = b""
    for start in range(0, len(raw) - size + 1, size):
        before = blake2b(before + raw[start : start + size], digest_size=8).digest()
        segments.append(int.from_bytes(before, "little"))
    return tuple(segments)
