"""Server-sent events from bytes."""

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors.tree import StreamCut
from servekit.wire.sse import DONE, MAX_EVENT_BYTES, SseDecoder, SseEvent, encode

_LINE_ENDS = st.sampled_from([b"\n", b"\r\n", b"\r"])


@st.composite
def _streams(draw: st.DrawFn) -> tuple[bytes, list[SseEvent]]:
    """A stream and the events in it: comments, ids and several data lines among them."""
    end = draw(_LINE_ENDS)
    text = st.text(st.characters(blacklist_characters="\r\n", codec="utf-8"))
    stream, events = b"", []
    for lines in draw(st.lists(st.lists(text, min_size=1, max_size=3), max_size=5)):
        data = [line.encode() for line in lines]
        extra = draw(st.sampled_from([b"", b": comment" + end, b"id: 7" + end]))
        stream += extra + b"".join(b"data: " + line + end for line in data) + end
        events.append(SseEvent(b"\n".join(data)))
    return stream, events


def _pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(stream) + 1) for cut in cuts), len(stream)]
    return [stream[a:b] for a, b in itertools.pairwise(edges)]


def _decode(pieces: list[bytes]) -> list[SseEvent]:
    decoder = SseDecoder()
    events = [event for piece in pieces for event in decoder.feed(piece)]
    # A stream that ends in a lone carriage return is complete only once its successor is known.
    return events + decoder.feed(b"\n")


@given(stream=_streams(), cuts=st.lists(st.integers(min_value=0), max_size=12))
def test_events_do_not_depend_on_how_bytes_are_split(
    stream: tuple[bytes, list[SseEvent]], cuts: list[int]
) -> None:
    """However the network cut the stream, the same events come out, and all of them."""
    raw, events = stream

    assert _decode(_pieces(raw, cuts)) == events


@given(stream=st.binary(), cuts=st.lists(st.integers(min_value=0), max_size=6))
def test_any_bytes_decode_alike_however_cut(stream: bytes, cuts: list[int]) -> None:
    """The law holds for garbage too, and garbage raises nothing."""
    assert _decode(_pieces(stream, cuts)) == _decode([stream])


def test_byte_order_mark_is_skipped() -> None:
    """The specification asks for it, and a cut inside the mark changes nothing."""
    assert _decode([b"\xef", b"\xbb\xbfdata: x\n\n"]) == [SseEvent(b"x")]


def test_several_events_in_one_read() -> None:
    """A busy engine's events come in one piece."""
    assert SseDecoder().feed(encode(b'{"a":1}') + encode(DONE)) == [
        SseEvent(b'{"a":1}'),
        SseEvent(DONE),
    ]


def test_event_name_is_kept() -> None:
    """Cog and the Responses API name their events."""
    assert SseDecoder().feed(b"event: output\ndata: hi\n\n") == [SseEvent(b"hi", "output")]


def test_unfinished_event_is_seen() -> None:
    """Whoever reads to the end can tell a whole stream from one that was cut."""
    decoder = SseDecoder()

    decoder.feed(b"data: half")

    assert decoder.unfinished
    assert decoder.feed(b"\n\n") == [SseEvent(b"half")]
    assert not decoder.unfinished


def test_endless_event_is_refused() -> None:
    """Something that is not an event stream cannot fill the memory."""
    decoder = SseDecoder()

    with pytest.raises(StreamCut, match="not an event stream"):
        for _ in range(10):
            decoder.feed(b"x" * (MAX_EVENT_BYTES // 4))
