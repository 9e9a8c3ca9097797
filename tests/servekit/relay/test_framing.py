"""Where bodies end, however the bytes were cut."""

import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors.tree import RequestInvalid, RequestTooLarge, StreamCut
from servekit.relay.framing import ChunkedBody, ChunkedFraming
from tests.loadbalancer.engine import chunk

chunks = st.lists(st.binary(min_size=1, max_size=40), max_size=6)
cuts = st.lists(st.integers(1, 9), max_size=60)
ends = st.sampled_from([b"0\r\n\r\n", b"0;last\r\nTrailer: x\r\n\r\n"])


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    out, position = [], 0
    for size in sizes:
        out.append(data[position : position + size])
        position += size
    return [piece for piece in [*out, data[position:]] if piece]


@given(parts=chunks, sizes=cuts, end=ends)
def test_end_does_not_depend_on_where_the_bytes_were_cut(
    parts: list[bytes], sizes: list[int], end: bytes
) -> None:
    """All bytes of the body are taken, and nothing of what follows."""
    body = b"".join(map(chunk, parts)) + end
    framing = ChunkedFraming()
    taken = 0
    for piece in pieces(body + b"HTTP/1.1", sizes):
        if not framing.done:
            taken += framing.feed(piece)

    assert framing.done
    assert taken == len(body)


@given(parts=chunks, sizes=cuts)
def test_what_is_unfinished_begins_at_a_chunk(parts: list[bytes], sizes: list[int]) -> None:
    """Whatever is held back, what was passed on is whole chunks."""
    body = b"".join(map(chunk, parts))
    boundaries = {len(b"".join(map(chunk, parts[:n]))) for n in range(len(parts) + 1)}
    framing = ChunkedFraming()
    fed = 0
    for piece in pieces(body, sizes):
        fed += framing.feed(piece)
        assert fed - framing.unfinished in boundaries


@given(parts=chunks, sizes=cuts, end=ends)
def test_request_body_is_what_was_sent(parts: list[bytes], sizes: list[int], end: bytes) -> None:
    """The rest is handed back for the next request."""
    body = ChunkedBody(limit=10_000)
    rest = b""
    for piece in pieces(b"".join(map(chunk, parts)) + end + b"GET /", sizes):
        rest = rest + piece if body.done else body.feed(piece)

    assert body.done
    assert body.take() == b"".join(parts)
    assert rest == b"GET /"


@pytest.mark.parametrize("data", [b"x\r\n", b"-1\r\n", b" 5\r\n", b"5\n", b"0x5\r\n", b"\r\n"])
def test_size_that_is_no_number_is_refused(data: bytes) -> None:
    """By the strict reader of requests and by the relay of answers."""
    with pytest.raises(RequestInvalid):
        ChunkedBody(limit=100).feed(data)
    with pytest.raises(StreamCut):
        ChunkedFraming().feed(data)


def test_chunk_longer_than_its_size_is_refused() -> None:
    """The bytes in between could hide a request."""
    with pytest.raises(RequestInvalid, match="longer"):
        ChunkedBody(limit=100).feed(b"2\r\nabcd\r\n0\r\n\r\n")


def test_small_chunks_take_no_more_memory_than_their_bytes() -> None:
    """Within the limit of a body nobody can make us hold many times as much."""
    body = ChunkedBody(limit=1 << 20)
    tracemalloc.start()
    try:
        for _ in range(100):
            body.feed(chunk(b"ab") * 1000)
        held, _ = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()

    assert held < 2 * 200_000 + 64 * 1024


def test_body_beyond_the_limit_is_refused_before_it_is_kept() -> None:
    """The size line alone is enough to know."""
    with pytest.raises(RequestTooLarge):
        ChunkedBody(limit=100).feed(b"65\r\n")


@given(st.lists(st.binary(max_size=30), max_size=8))
def test_any_bytes_are_chunks_or_refused(data: list[bytes]) -> None:
    """Nothing else is raised."""
    for make, refused in ((lambda: ChunkedBody(99), RequestInvalid), (ChunkedFraming, StreamCut)):
        reader = make()
        try:
            for piece in data:
                if not reader.done:
                    reader.feed(piece)
        except (refused, RequestTooLarge):
            continue
