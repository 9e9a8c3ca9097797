"""Bodies read without a socket."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from servekit.client.reading import DETAIL_CHARS, StreamReading, refusal, shorten

BODY = b"".join(b'data: {"choices":[{"text":"t%d"}]}\n\n' % n for n in range(5)) + (
    b'data: {"choices":[],"usage":{"completion_tokens":5}}\n\ndata: [DONE]\n\n'
)


@given(cuts=st.lists(st.integers(0, len(BODY)), max_size=20))
def test_events_do_not_depend_on_how_the_body_is_cut(cuts: list[int]) -> None:
    """However a stream is cut, each event is counted once and times never run backwards."""
    reading = StreamReading()
    edges = [0, *sorted(cuts), len(BODY)]

    for number, (start, end) in enumerate(pairwise(edges)):
        reading.read(BODY[start:end], float(number))
    outcome = reading.finish()

    assert outcome.error is None
    assert len(outcome.content_s) == 5
    assert list(outcome.content_s) == sorted(outcome.content_s)


@given(pieces=st.lists(st.binary(max_size=200), max_size=10))
def test_any_bytes_are_read_without_an_exception(pieces: list[bytes]) -> None:
    """A body that is no stream sets an error; nothing is raised."""
    reading = StreamReading()

    for piece in pieces:
        reading.read(piece, 0.0)

    assert reading.finish().error is not None


def test_a_refusal_that_is_not_json_keeps_its_text() -> None:
    """A proxy's HTML page is quoted as it is."""
    assert refusal(502, b"<h1>Bad\nGateway</h1>") == ("http 502", "<h1>Bad Gateway</h1>")


@given(text=st.text())
def test_a_detail_is_one_short_line(text: str) -> None:
    """What an upstream says cannot break a table."""
    line = shorten(text)

    assert len(line) <= DETAIL_CHARS
    assert "\n" not in line
