"""What a chat sends and receives.  Pure."""

from typing import Annotated, Any, Literal

import msgspec

from chat_backend.chat_settings import ChatSettings
from servekit.errors.tree import RequestInvalid, RequestTooLarge
from servekit.wire.openai import Usage


class ChatFieldInvalid(RequestInvalid):
    """JSON, but a field is missing or cannot be used."""


class ChatTurn(msgspec.Struct, frozen=True):
    """One earlier message of the conversation."""

    role: Literal["user", "assistant"]
    content: str


class ChatQuestion(msgspec.Struct, frozen=True, kw_only=True):
    """POST /chat.

    Attributes:
        history: earlier turns, oldest first.
        stream: answer with server-sent events, a piece at a time.
    """

    message: Annotated[str, msgspec.Meta(min_length=1)]
    max_tokens: Annotated[int, msgspec.Meta(ge=1)] = 100
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    history: Annotated[list[ChatTurn], msgspec.Meta(max_length=2000)] = []
    stream: bool = False


class ChatReply(msgspec.Struct, frozen=True):
    """The whole answer.

    Attributes:
        finish_reason: "length" where max_tokens cut it short, else "stop".
        dropped_turns: oldest turns of the history that the model was not given, for want of room.
    """

    response: str
    finish_reason: str
    usage: Usage
    request_id: str
    dropped_turns: int = 0


class Problem(msgspec.Struct, frozen=True):
    """Why there is no answer.

    Attributes:
        code: stable, for programs: "engine_unavailable".
        message: for people.
    """

    code: str
    message: str
    request_id: str


class ErrorReply(msgspec.Struct, frozen=True):
    error: Problem


_decode = msgspec.json.Decoder(ChatQuestion).decode


def read_chat_request(body: bytes | str, settings: ChatSettings) -> ChatQuestion:
    """Return the request in *body*.

    Raises:
        ChatFieldInvalid: a field is missing, has the wrong type or is out of range.
        RequestInvalid: not JSON at all.
        RequestTooLarge: the message is longer than MAX_MESSAGE_CHARS.
    """
    try:
        request = _decode(body)
    except msgspec.ValidationError as error:
        raise ChatFieldInvalid(f"{error}; see /docs") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise RequestInvalid(f"the body is not JSON: {error}") from error
    if request.max_tokens > settings.max_tokens_limit:
        raise ChatFieldInvalid(
            f"max_tokens is {request.max_tokens}; at most {settings.max_tokens_limit} are given"
        )
    length = len(request.message)
    if length > settings.max_message_chars:
        raise RequestTooLarge(
            f"the message has {length} characters, at most {settings.max_message_chars} "
            "are taken; shorten it"
        )
    return request


def fitted(question: ChatQuestion, max_chars: int) -> ChatQuestion:
    """Return *question* with the newest turns whose characters fit beside its message."""
    room = max_chars - len(question.message)
    kept = 0
    for turn in reversed(question.history):
        room -= len(turn.content)
        if room < 0:
            break
        kept += 1
    return _with_newest(question, kept)


def shortened(question: ChatQuestion) -> ChatQuestion | None:
    """Return *question* with the newer half of its history; None where it has none."""
    if not question.history:
        return None
    return _with_newest(question, len(question.history) // 2)


def _with_newest(question: ChatQuestion, count: int) -> ChatQuestion:
    """Keep at most *count* turns.  Where some are dropped, the first is a user's: chat templates
    of several models refuse a conversation that begins with an answer."""
    if count >= len(question.history):
        return question
    kept = question.history[len(question.history) - count :]
    while kept and kept[0].role == "assistant":
        kept = kept[1:]
    return msgspec.structs.replace(question, history=kept)


def engine_body(request: ChatQuestion, settings: ChatSettings) -> bytes:
    """Return the body for the engine's /v1/chat/completions."""
    system = [{"role": "system", "content": settings.system_prompt}]
    turns = [{"role": turn.role, "content": turn.content} for turn in request.history]
    body: dict[str, Any] = {
        "model": settings.model_name,
        "messages": [
            *(system if settings.system_prompt else []),
            *turns,
            {"role": "user", "content": request.message},
        ],
        "max_tokens": request.max_tokens,
        "stream": request.stream,
    }
    if request.temperature is not None:
        body["temperature"] = request.temperature
    if request.stream:
        # Without it the engine would not say how many tokens it wrote.
        body["stream_options"] = {"include_usage": True}
    return msgspec.json.encode(body)
