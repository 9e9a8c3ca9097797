"""The OpenAI JSON that we read and write."""

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors.tree import RequestInvalid
from servekit.wire.openai import error_envelope, read_answer


@pytest.mark.parametrize(
    "body",
    [b"", b"[]", b'"m"', b"{", b'{"choices": 3}', b"\xff", b'{"choices": "\xff"}', b"[" * 5000],
)
def test_bad_body_is_the_callers_error(body: bytes) -> None:
    """Whatever is wrong with a body, the caller hears about it in one line."""
    with pytest.raises(RequestInvalid) as caught:
        read_answer(body)

    assert "\n" not in str(caught.value)


@given(body=st.binary())
def test_no_body_raises_anything_else(body: bytes) -> None:
    """Hostile bytes are a request error, never a crash."""
    with contextlib.suppress(RequestInvalid):
        read_answer(body)


@pytest.mark.parametrize(
    ("event", "content"),
    [
        (b'{"choices":[{"index":0,"text":" laz","finish_reason":null}]}', " laz"),
        (b'{"choices":[{"index":0,"delta":{"content":"P"},"finish_reason":null}]}', "P"),
        (b'{"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]}', ""),
        (b'{"choices":[{"index":0,"message":{"role":"assistant","content":"whole"}}]}', "whole"),
        (b'{"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}', ""),
    ],
)
def test_content_is_found_wherever_it_stands(event: bytes, content: str) -> None:
    """Completions, chat chunks and whole chat answers keep their text in three places."""
    assert read_answer(event).choices[0].content == content


def test_usage_event_has_no_choices() -> None:
    """The last event before [DONE] carries the counts."""
    answer = read_answer(
        b'{"choices":[],"usage":{"prompt_tokens":4,"total_tokens":12,"completion_tokens":8}}'
    )

    assert answer.usage is not None
    assert (answer.choices, answer.usage.completion_tokens) == ([], 8)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(404, "NotFoundError"), (418, "BadRequestError"), (599, "InternalServerError")],
)
def test_error_envelope_is_what_openai_clients_read(status: int, kind: str) -> None:
    """Every status has an envelope with its type, and it can be read back."""
    body = error_envelope(status, "no such model")
    error = read_answer(body).error

    assert json.loads(body)["error"]["code"] == status
    assert error is not None
    assert (error.message, error.type) == ("no such model", kind)
