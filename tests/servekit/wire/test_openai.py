"""The OpenAI JSON that we read and write."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors.tree import RequestInvalid
from servekit.wire.openai import (
    RequestHead,
    error_envelope,
    read_answer,
    read_chat,
    read_completion,
    read_head,
)


def test_head_reads_two_fields_and_ignores_the_rest() -> None:
    """A relay learns the model and whether to stream, and nothing else is looked at."""
    body = b'{"messages": [{"role": "user", "content": 3}], "model": "m", "stream": true}'

    assert read_head(body) == RequestHead(model="m", stream=True)


@pytest.mark.parametrize(
    "body", [b"", b"[]", b'"m"', b"{", b'{"model": 3}', b"\xff", b'{"model": "\xff"}', b"[" * 5000]
)
def test_bad_body_is_the_callers_error(body: bytes) -> None:
    """Whatever is wrong with a body, the caller hears about it in one line."""
    with pytest.raises(RequestInvalid) as caught:
        read_head(body)

    assert "\n" not in str(caught.value)


@given(body=st.binary())
def test_no_body_raises_anything_else(body: bytes) -> None:
    """Hostile bytes are a request error, never a crash."""
    for read in (read_head, read_completion, read_chat, read_answer):
        try:
            read(body)
        except RequestInvalid:
            continue


@pytest.mark.parametrize(
    "prompt", ["text", ["two", "texts"], [1, 2, 3], [[1, 2], [3]]], ids=lambda p: type(p).__name__
)
def test_completion_takes_text_and_token_ids(prompt: object) -> None:
    """All four spellings of a prompt arrive as they were sent."""
    body = json.dumps({"model": "m", "prompt": prompt, "max_tokens": 4}).encode()

    assert read_completion(body).prompt == prompt


def test_chat_content_may_come_in_parts() -> None:
    """A message's content is text, or typed parts."""
    parts = [{"type": "text", "text": "hello"}]
    body = json.dumps({"model": "m", "messages": [{"role": "user", "content": parts}]}).encode()

    assert read_chat(body).messages[0].content == parts


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
