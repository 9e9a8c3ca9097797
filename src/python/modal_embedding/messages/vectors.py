"""Vectors: cut, normalise, write as text, compare.  Pure.

A batch of vectors is a float32 array of shape (texts, dimensions).
"""

import base64
import binascii
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from servekit.errors.tree import EngineRefused, RequestInvalid

Vectors = NDArray[np.float32]
Vector = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Match:
    """One vector found by a search.

    Attributes:
        index: its row.
        score: cosine similarity, -1.0 to 1.0.
    """

    index: int
    score: float


def as_vectors(rows: Sequence[Sequence[float] | Vector]) -> Vectors:
    """Return *rows* as one array; no rows give shape (0, 0).

    Raises:
        RequestInvalid: the rows differ in length.
    """
    if len({len(row) for row in rows}) > 1:
        raise RequestInvalid("vectors of different lengths do not belong together")
    return np.asarray(rows, dtype=np.float32).reshape(len(rows), -1 if len(rows) else 0)


def normalised(vectors: Vectors) -> Vectors:
    """Return the vectors at length 1.  A vector of zeros has no direction and stays as it is."""
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    return (vectors / np.where(lengths == 0.0, 1.0, lengths)).astype(np.float32)


def check_dimensions(asked: int | None, allowed: Sequence[int], own: int | None = None) -> None:
    """Raise RequestInvalid unless vectors can be given in *asked* dimensions.

    Args:
        asked: None asks for the model's own.
        allowed: sizes that the model was trained to be cut to.
        own: the model's own size, where it is known.
    """
    if asked is None or asked in allowed or asked == own:
        return
    sizes = ", ".join(str(size) for size in sorted({*allowed, *([own] if own else [])}))
    remedy = f"use one of {sizes}" if sizes else "leave it out: this model has only its own size"
    raise RequestInvalid(f"dimensions is {asked}; {remedy}")


def shortened(vectors: Vectors, dimensions: int | None) -> Vectors:
    """Return the first *dimensions* of each vector, at length 1 again (Matryoshka, 2205.13147).

    Raises:
        RequestInvalid: the vectors have fewer.
    """
    own = vectors.shape[1]
    if dimensions is None or dimensions == own or not len(vectors):
        return vectors
    if not 0 < dimensions < own:
        raise RequestInvalid(f"dimensions is {dimensions}; these vectors have {own}")
    return normalised(vectors[:, :dimensions])


def to_base64(vector: Vector) -> str:
    """Return one vector as OpenAI writes it: little-endian float32."""
    return base64.b64encode(vector.astype("<f4").tobytes()).decode("ascii")


def from_base64(texts: Sequence[str]) -> Vectors:
    """Return the vectors that `to_base64` wrote, decoded in one pass.

    Raises:
        RequestInvalid: one is not base64 of whole numbers of four bytes, or their sizes differ.
    """
    try:
        rows = [binascii.a2b_base64(text, strict_mode=True) for text in texts]
        if len({len(row) for row in rows}) > 1:
            raise RequestInvalid("vectors of different lengths do not belong together")
        flat = np.frombuffer(b"".join(rows), dtype="<f4").astype(np.float32)
        return flat.reshape(len(rows), -1)
    except (binascii.Error, ValueError) as error:
        raise RequestInvalid(f"an embedding is not base64 of float32: {error}") from error


def shortest(vectors: Vectors) -> NDArray[np.float64]:
    """Return the numbers with the fewest digits that are read back as the same float32.

    A float32 written as the float64 that it equals has twice the digits, and is no more exact.
    Six digits always survive in a float32, and nine always suffice.

    Raises:
        EngineRefused: a number is not finite; JSON has none such.
    """
    exact = vectors.astype(np.float64)
    if not np.isfinite(exact).all():
        raise EngineRefused("the engine gave a number that is not finite; try again", status=502)
    size = np.abs(exact, where=exact != 0.0, out=np.ones_like(exact))
    whole_digits = np.floor(np.log10(size)) + 1.0
    written = exact
    for digits in (9, 8, 7, 6):
        scale = 10.0 ** (digits - whole_digits)
        rounded = np.rint(exact * scale) / scale
        written = np.where(rounded.astype(np.float32) == vectors, rounded, written)
    return written


def cosine_distances(left: Vectors, right: Vectors) -> NDArray[np.float64]:
    """Return 1 - cosine similarity of each pair of rows; 0.0 to 2.0."""
    left_unit = normalised(left).astype(np.float64)
    right_unit = normalised(right).astype(np.float64)
    distances: NDArray[np.float64] = 1.0 - np.sum(left_unit * right_unit, axis=1)
    return distances


def nearest(query: Vector, vectors: Vectors, count: int) -> list[Match]:
    """Return the *count* rows most similar to *query*, best first; the lower row where equal.

    Raises:
        RequestInvalid: the query has another size than the vectors.
    """
    if not len(vectors) or count < 1:
        return []
    if query.shape[0] != vectors.shape[1]:
        raise RequestInvalid(
            f"the query has {query.shape[0]} dimensions and the vectors have {vectors.shape[1]}; "
            "embed both with the same model and dimensions"
        )
    scores = normalised(vectors) @ normalised(query[np.newaxis, :])[0]
    best = np.argsort(-scores, kind="stable")[:count]
    return [Match(int(row), float(scores[row])) for row in best]
