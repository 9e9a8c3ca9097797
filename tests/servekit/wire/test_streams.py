"""Events of streamed answers, understood."""

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from servekit.errors.tree import RequestInvalid
from servekit.wire.sse import DONE, ERROR, SseDecoder, SseEvent
from servekit.wire.streams import StreamEvent, TokenKind, read_event, read_whole_answer, words_of

_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
_FIELDS = st.sampled_from(
    ["type", "choices", "usage", "error", "delta", "response", "message", "detail", "item"]
)


def said(event: object) -> StreamEvent:
    return read_event(SseEvent(json.dumps(event).encode()))


@given(event=st.dictionaries(_FIELDS, _JSON) | _JSON, kind=st.sampled_from(["message", ERROR]))
def test_no_event_raises_anything_but_that_it_is_none(event: Any, kind: str) -> None:
    """Whatever a server puts into a field, the reader goes on."""
    content = json.dumps(event).encode()
    readers: list[Callable[[], object]] = [
        lambda: read_event(SseEvent(content, kind)),
        lambda: read_whole_answer(content),
    ]
    for read in readers:
        try:
            read()
        except RequestInvalid as error:
            assert str(error)


@pytest.mark.parametrize(
    ("delta", "kinds"),
    [
        ({"content": "a"}, [TokenKind.TEXT]),
        ({"reasoning_content": "a"}, [TokenKind.REASONING]),
        ({"reasoning": "a"}, [TokenKind.REASONING]),
        ({"reasoning": "a", "content": "b"}, [TokenKind.TEXT, TokenKind.REASONING]),
        ({"refusal": "no"}, [TokenKind.REFUSAL]),
        ({"tool_calls": [{"index": 0, "function": {"name": "f"}}]}, [TokenKind.TOOL_CALL]),
        ({"tool_calls": [{"index": 0, "id": "x", "function": {"arguments": ""}}]}, []),
        ({"role": "assistant", "content": ""}, []),
        ({"content": None, "reasoning_content": None, "tool_calls": None}, []),
        ({}, []),
    ],
)
def test_tokens_are_found_by_kind(delta: dict[str, Any], kinds: list[TokenKind]) -> None:
    """A token of any kind is a token; bookkeeping is none."""
    found = said({"choices": [{"index": 0, "delta": delta}]})

    assert [tokens.kind for tokens in found.tokens] == kinds


@pytest.mark.parametrize(
    ("event", "words"),
    [
        ({"error": {"message": "full", "code": 503}}, "full"),
        ({"error": "full"}, "full"),
        ({"error": {"error": {"message": "full"}}}, "full"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "full"}}, "full"),
        ({"error": {"code": 503}}, "503"),
    ],
)
def test_an_error_keeps_the_words_of_the_server(event: object, words: str) -> None:
    """However an error is wrapped, what it says is found."""
    assert said(event).error == words


@pytest.mark.parametrize("nothing", [None, "", {}, False])
def test_an_error_of_nothing_is_none(nothing: object) -> None:
    """Servers that always send the field have not failed."""
    assert said({"error": nothing, "choices": []}).error is None


def test_a_line_that_says_error_and_a_bare_object_are_errors() -> None:
    """What the specification ignores is not lost."""
    body = b'error: {"message":"full"}\n\n{"error":{"message":"broke"}}\n\ndata: [DONE]\n\n'

    events = SseDecoder().feed(body)

    assert [read_event(event).error for event in events[:2]] == ["full", "broke"]
    assert read_event(events[2]).is_last


def test_the_last_event_may_lack_its_empty_line() -> None:
    """At the end of a body, what is held is an event."""
    decoder = SseDecoder()

    assert decoder.feed(b"data: [DONE]\n") == []
    assert [event.data for event in decoder.flush()] == [DONE]
    assert decoder.flush() == []


def test_what_is_not_json_is_quoted() -> None:
    """The reader of a report sees what came."""
    with pytest.raises(RequestInvalid, match="Internal Server Error"):
        read_event(SseEvent(b"Internal Server Error"))


@given(body=st.binary(max_size=200))
def test_any_body_of_a_failure_has_words(body: bytes) -> None:
    """Words are text, whatever the bytes were."""
    assert isinstance(words_of(body), str)
