"""What the engine is sent before anybody waits for it."""

from hypothesis import given
from hypothesis import strategies as st

from servekit.container.prewarm import (
    BATCHES,
    LENGTHS,
    MAX_TOKENS,
    WarmupShape,
    plan_shapes,
    token_ids,
)


def test_seeds_lengths_and_batches_are_sent() -> None:
    """A model with room gets all of them."""
    shapes = plan_shapes(32768, 8)

    assert [shape.prompt_tokens for shape in shapes if shape.requests == 1] == list(LENGTHS)
    assert [shape.requests for shape in shapes if shape.requests > 1] == list(BATCHES)


@given(length=st.integers(1, 5000), seqs=st.integers(1, 300))
def test_every_shape_fits_the_engine(length: int, seqs: int) -> None:
    """With its output, within the model's length; in one step, within its batch; none twice."""
    shapes = plan_shapes(length, seqs)

    assert all(0 < shape.prompt_tokens <= length - MAX_TOKENS for shape in shapes)
    assert all(1 <= shape.requests <= seqs for shape in shapes)
    assert len(set(shapes)) == len(shapes)


def test_engine_for_one_request_gets_no_batches() -> None:
    """And one with little room gets its longest prompt once."""
    assert plan_shapes(100, 1) == (WarmupShape(90),)


@given(
    count=st.integers(0, 3000),
    start=st.integers(0, 40),
    vocab=st.one_of(st.none(), st.integers(4, 300_000)),
)
def test_ids_are_as_many_as_asked_for_and_in_the_vocabulary(
    count: int, start: int, vocab: int | None
) -> None:
    """And not among the special tokens at its ends."""
    ids = token_ids(count, start, vocab)

    size = vocab or 256
    assert len(ids) == count
    assert all(size // 4 <= token < size // 4 + max(1, size // 2) for token in ids)
