import pickle
from typing import Literal

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modal_embedding.messages.protocol import (
    Embedded,
    TextTooLong,
    answer_body,
    check_texts,
    inputs_of,
    read_answer,
    read_request,
    read_too_long,
    too_long_body,
)
from servekit.errors.tree import EngineRefused, RequestInvalid


def inputs(given_input: object) -> object:
    return inputs_of(read_request(msgspec.json.encode({"input": given_input})))


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("one", ["one"]),
        (["a", "b"], ["a", "b"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_every_form_of_input_is_taken(asked: object, expected: object) -> None:
    """Text or tokens, one or several."""
    assert inputs(asked) == expected


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ("", "text 0 is empty"),
        ([], "there are no texts; send at least one"),
        ([-1], "text 0 has the token -1; an id is 0 or more"),
        ([[1], [2, -3]], "text 1 has the token -3"),
        (["a", ""], "text 1 is empty"),
        (["a", 1], "text 1 is of type int"),
        (["a", [1]], "text 0 stands among lists"),
        ([[1], []], "text 1 has no tokens"),
        (["a", None], r"\$\.input\[1\]"),
        ([1.5], r"\$\.input\[0\]"),
        (None, r"\$\.input"),
        ({"text": "a"}, r"\$\.input"),
    ],
)
def test_what_cannot_be_embedded_is_named_with_its_index(asked: object, message: str) -> None:
    """Whoever called can find it among thousands."""
    with pytest.raises(RequestInvalid, match=message):
        inputs(asked)


@pytest.mark.parametrize("texts", ["a string", None, 3, {"a"}])
def test_only_a_list_is_a_list(texts: object) -> None:
    """A string would be taken for a list of its letters."""
    with pytest.raises(RequestInvalid, match="pass a list of strings"):
        check_texts(texts)


def test_half_a_surrogate_pair_is_no_text() -> None:
    """It cannot be sent."""
    with pytest.raises(RequestInvalid, match="text 0 is not Unicode"):
        check_texts(["\ud800"])


@given(st.binary(max_size=40))
def test_any_body_is_a_request_or_is_refused(body: bytes) -> None:
    """Nothing else is raised."""
    try:
        inputs_of(read_request(body))
    except RequestInvalid as error:
        assert "\n" not in str(error)


@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_an_answer_is_read_as_it_was_written(encoding: Literal["float", "base64"]) -> None:
    """Vectors bit by bit, in either encoding, and the tokens."""
    vectors = np.random.default_rng(0).normal(size=(3, 5)).astype("f4")

    embedded = read_answer(answer_body(Embedded(vectors, 7), "m", encoding), 3)

    assert embedded.vectors.tobytes() == vectors.tobytes()
    assert embedded.tokens == 7


def test_an_answer_is_put_into_the_order_of_its_index() -> None:
    """Nothing promises the order of the entries."""
    rows = [{"index": 1, "embedding": [1.0]}, {"index": 0, "embedding": [0.0]}]

    assert read_answer(msgspec.json.encode({"data": rows}), 2).vectors.tolist() == [[0.0], [1.0]]


@pytest.mark.parametrize(
    "body",
    [
        b"<html>",
        b"{}",
        b'{"data": []}',
        b'{"data": [{"index": 1, "embedding": [1]}]}',
        b'{"data": [{"index": 0, "embedding": "?"}]}',
    ],
)
def test_an_answer_of_something_else_is_refused(body: bytes) -> None:
    """Vectors would be given to the wrong texts."""
    with pytest.raises(EngineRefused, match="/v1/embeddings"):
        read_answer(body, 1)


def test_a_text_that_is_too_long_is_told_with_index_and_counts() -> None:
    """Over HTTP, and to another process by pickle, as Modal does it."""
    error = TextTooLong(3, 9000, 8192)

    over_http = read_too_long(too_long_body(error))
    by_pickle = pickle.loads(pickle.dumps(error))  # noqa: S301

    for seen in (error, over_http, by_pickle):
        assert isinstance(seen, TextTooLong)
        assert (seen.index, seen.tokens, seen.limit) == (3, 9000, 8192)
        assert str(seen) == "text 3 has 9000 tokens and the model reads 8192; shorten or split it"


def test_another_error_is_not_taken_for_one_that_is_too_long() -> None:
    """It has no index."""
    assert read_too_long(b'{"error": {"message": "no"}}') is None


@pytest.mark.parametrize(
    "field", ["messages", "normalize", "add_special_tokens", "priority", "stream", "dimension"]
)
def test_a_field_that_is_not_honoured_is_refused_by_name(field: str) -> None:
    """To pass it over would give other vectors than were asked for."""
    with pytest.raises(RequestInvalid, match=field):
        read_request(msgspec.json.encode({"input": "a", field: 1}))


def test_what_clients_send_as_null_is_the_default() -> None:
    """OpenAI's clients in other languages write fields that were not set."""
    body = b'{"input": "a", "encoding_format": null, "input_type": null, "user": null}'

    request = read_request(body)

    assert (request.encoding_format, request.input_type) == (None, None)
    assert b"[" in answer_body(Embedded(ONE, 1), "m", request.encoding_format)


ONE = np.array([[0.1, -0.25, 1e-7]], dtype=np.float32)


def test_floats_are_written_as_float32() -> None:
    """0.1, and not 0.10000000149011612, which is the same float32."""
    assert b'"embedding":[0.1,-0.25,1e-07]' in answer_body(Embedded(ONE, 1), "m").replace(
        b"1e-7", b"1e-07"
    )
