import base64
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from modal_embedding.messages.vectors import (
    Vectors,
    as_vectors,
    check_dimensions,
    cosine_distances,
    from_base64,
    nearest,
    normalised,
    shortened,
    shortest,
    to_base64,
)
from servekit.errors.tree import RequestInvalid

FLOATS = st.floats(-1e3, 1e3, width=32)
VECTORS = arrays.arrays(np.float32, st.tuples(st.integers(1, 5), st.just(8)), elements=FLOATS)


@given(VECTORS)
def test_normalised_vectors_have_length_one(vectors: Vectors) -> None:
    """All but vectors of zeros, which have no direction."""
    lengths = np.linalg.norm(normalised(vectors).astype(np.float64), axis=1)

    zero = ~vectors.any(axis=1)
    assert np.allclose(lengths[~zero], 1.0, atol=1e-5)
    assert np.all(lengths[zero] == 0.0)


@given(VECTORS, st.integers(1, 8))
def test_a_shortened_vector_points_where_its_first_part_points(vectors: Vectors, size: int) -> None:
    """Cut, then brought to length 1: what a Matryoshka model was trained for."""
    short = shortened(normalised(vectors), size)

    assert short.shape == (len(vectors), size)
    expected = normalised(normalised(vectors)[:, :size])
    assert np.allclose(short, expected, atol=1e-6)


def test_a_vector_is_cut_by_hand() -> None:
    """3-4-12 cut to 3-4 has length 5."""
    assert shortened(as_vectors([[3.0, 4.0, 12.0]]), 2)[0] == pytest.approx([0.6, 0.8])


def test_a_vector_is_not_made_longer() -> None:
    """There is nothing to fill it with."""
    with pytest.raises(RequestInvalid, match="these vectors have 3"):
        shortened(as_vectors([[1.0, 2.0, 3.0]]), 4)


@given(arrays.arrays(np.float32, st.integers(0, 9), elements=FLOATS))
def test_base64_gives_back_the_very_bits(vector: Vectors) -> None:
    """Nothing is rounded on the way."""
    assert from_base64([to_base64(vector)]).tobytes() == vector.tobytes()


def test_base64_is_little_endian_float32() -> None:
    """As OpenAI's clients read it."""
    assert base64.b64decode(to_base64(np.array([1.0, -2.0], "f4"))) == struct.pack("<2f", 1.0, -2.0)


@pytest.mark.parametrize("text", ["!!!", "AAA", "AAAAAAA="])
def test_what_is_no_vector_is_refused(text: str) -> None:
    """Not base64, cut short, or no whole number of floats."""
    with pytest.raises(RequestInvalid, match="base64"):
        from_base64([text])


def test_rows_of_different_lengths_are_no_batch() -> None:
    """They come from different models or dimensions."""
    with pytest.raises(RequestInvalid, match="different lengths"):
        as_vectors([[1.0], [1.0, 2.0]])


def test_no_rows_are_a_batch() -> None:
    """Of nothing."""
    assert as_vectors([]).shape == (0, 0)


@pytest.mark.parametrize(("asked", "own"), [(None, None), (64, None), (100, 100)])
def test_offered_dimensions_are_taken(asked: int | None, own: int | None) -> None:
    """None, one of the sizes, or the model's own."""
    check_dimensions(asked, (128, 64), own)


def test_other_dimensions_are_refused_with_those_offered() -> None:
    """Whoever called learns what there is."""
    with pytest.raises(RequestInvalid, match="use one of 64, 128, 256"):
        check_dimensions(65, (128, 64), 256)
    with pytest.raises(RequestInvalid, match="only its own size"):
        check_dimensions(65, ())


@given(VECTORS, st.integers(0, 7))
def test_the_nearest_are_the_most_similar_in_order(vectors: Vectors, count: int) -> None:
    """As many as asked for, best first, with the cosine as score."""
    matches = nearest(vectors[0], vectors, count)

    assert len(matches) == min(count, len(vectors))
    scores = [match.score for match in matches]
    assert scores == sorted(scores, reverse=True)
    rest = set(range(len(vectors))) - {match.index for match in matches}
    distances = cosine_distances(np.repeat(vectors[:1], len(vectors), axis=0), vectors)
    for match in matches:
        if vectors[0].any() and vectors[match.index].any():
            assert match.score == pytest.approx(1.0 - distances[match.index], abs=1e-5)
        assert all(1.0 - distances[other] <= match.score + 1e-5 for other in rest)


def test_a_query_of_another_size_is_refused() -> None:
    """It was made by another model."""
    with pytest.raises(RequestInvalid, match="query has 2 dimensions and the vectors have 3"):
        nearest(np.ones(2, "f4"), np.ones((1, 3), "f4"), 1)


@given(arrays.arrays(np.float32, (2, 5), elements=FLOATS))
def test_the_shortest_numbers_are_read_back_as_the_very_bits(vectors: Vectors) -> None:
    """And each is as short as numpy, which knows the shortest, writes it."""
    written = shortest(vectors)

    assert written.astype(np.float32).tobytes() == vectors.tobytes()
    for number, shown in zip(vectors.flat, written.flat, strict=True):
        # Below, a power of ten is no exact float64, and a digit more may be written.
        if abs(number) > 1e-12:
            assert float(shown) == float(str(number))
