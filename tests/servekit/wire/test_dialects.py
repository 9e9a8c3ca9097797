"""Errors in the words of each API."""

import json

import pytest

from servekit.wire.dialects import Dialect, error_body, error_event
from servekit.wire.sse import SseDecoder
from servekit.wire.streams import read_event


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (401, "authentication_error"),
        (404, "not_found_error"),
        (405, "invalid_request_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_messages_name_errors_as_anthropic_does(status: int, kind: str) -> None:
    """By https://platform.claude.com/docs/en/api/errors."""
    said = json.loads(error_body(Dialect.MESSAGES, status, "why"))

    assert said == {"type": "error", "error": {"type": kind, "message": "why"}}


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.RESPONSES, Dialect.UNKNOWN])
def test_others_have_openais_envelope(dialect: Dialect) -> None:
    """vLLM answers with it on every path but Anthropic's."""
    assert json.loads(error_body(dialect, 404, "why"))["error"]["code"] == 404


@pytest.mark.parametrize("dialect", [Dialect.OPENAI, Dialect.RESPONSES, Dialect.MESSAGES])
@pytest.mark.parametrize("before", [b"", b"data: {", b'data: {"a":1}\n', b'data: {"a":1}\n\n'])
def test_error_event_is_read_as_one_wherever_the_stream_was_cut(
    dialect: Dialect, before: bytes
) -> None:
    """By the decoder that our own client has."""
    event = error_event(dialect, 502, "the engine left")
    assert event is not None

    *_, last = SseDecoder().feed(before + event)
    assert "the engine left" in (read_event(last).error or "")


def test_stream_of_an_unknown_dialect_gets_no_event() -> None:
    """It would be taken for something that was generated."""
    assert error_event(Dialect.UNKNOWN, 502, "why") is None


@pytest.mark.parametrize(
    ("last", "number"),
    [(b'data: {"sequence_number":7}\n\ndata: {"sequence_number": 8}\n\n', 9), (b"", None)],
)
def test_responses_number_their_error(last: bytes, number: int | None) -> None:
    """One more than the last event; unknown is no number."""
    event = error_event(Dialect.RESPONSES, 502, "why", last) or b""
    said = json.loads(event.split(b"data: ")[1])

    assert said.get("sequence_number") == number
    assert (said["type"], said["message"], said["error"]["message"]) == ("error", "why", "why")
