"""A child's output as lines."""

from hypothesis import given
from hypothesis import strategies as st

from servekit.launch.lines import MAX_LINE_BYTES, LineSplitter

OUTPUT = st.lists(st.sampled_from([b"one", b"two three", b"\n", b"\r", b"\r\n", b" ", b"\xff"]))


def _lines(pieces: list[bytes]) -> list[str]:
    splitter = LineSplitter()
    lines = [line for piece in pieces for line in splitter.feed(piece)]
    return lines + splitter.finish()


@given(output=OUTPUT, cut=st.integers(1, 5))
def test_lines_do_not_depend_on_how_bytes_are_cut(output: list[bytes], cut: int) -> None:
    """A pipe cuts where it likes."""
    whole = b"".join(output)
    pieces = [whole[start : start + cut] for start in range(0, len(whole), cut)]

    assert _lines(pieces) == _lines([whole])


def test_progress_bar_is_seen_while_it_moves() -> None:
    """It returns to its start with \\r and ends only when it is done."""
    assert LineSplitter().feed(b"10%\r20%\r30") == ["10%", "20%"]


def test_endless_line_is_cut() -> None:
    """Memory stays bounded, whatever the child writes."""
    splitter = LineSplitter()

    assert splitter.feed(b"x" * (MAX_LINE_BYTES + 1)) == ["x" * (MAX_LINE_BYTES + 1)]
    assert splitter.finish() == []
