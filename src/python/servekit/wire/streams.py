"""What one event of a streamed answer says: its tokens by kind, its end, its error.  Pure.

Four dialects are read: chat and text completions (vLLM, SGLang, llama.cpp, TGI, Azure), OpenAI's
Responses, and Anthropic's Messages.  Sources:
https://platform.openai.com/docs/api-reference/chat-streaming,
https://developers.openai.com/api/reference/resources/responses/streaming-events,
https://platform.claude.com/docs/en/build-with-claude/streaming.
"""

from enum import StrEnum
from typing import Any

import msgspec

from servekit.errors.tree import RequestInvalid
from servekit.wire.sse import DONE, ERROR, SseEvent


class TokenKind(StrEnum):
    """What a token is part of."""

    TEXT = "text"
    REASONING = "reasoning"
    TOOL_CALL = "tool call"
    REFUSAL = "refusal"


class TokenCounts(msgspec.Struct, frozen=True):
    """Tokens as an upstream counts them; None where it does not say.

    Attributes:
        reasoning: how many of *completion* are reasoning.
    """

    prompt: int | None = None
    completion: int | None = None
    reasoning: int | None = None


class EventTokens(msgspec.Struct, frozen=True):
    """Generated text of one kind in one event.

    Attributes:
        chars: its length in characters.
        choice: which of several answers it belongs to.
        opens_reasoning: it begins with a `<think>` tag that no parser of the server took out.
        text: the text itself, where it is part of the answer.
    """

    kind: TokenKind
    chars: int
    choice: int = 0
    opens_reasoning: bool = False
    text: str = ""


class StreamEvent(msgspec.Struct, frozen=True):
    """One event, understood.

    Attributes:
        tokens: what was generated; empty for an event of bookkeeping.
        finish: why generation ended, in the upstream's word.
        error: the upstream's own words, where it says that it failed.
        holds_back: it has the place of a token and no text: vLLM sends one for a token that ends
            inside a character.  A heartbeat of a proxy may look the same.
        is_last: nothing follows, by the rules of the dialect.
        null_choices: it says `"choices": null`, which no client of OpenAI's can iterate over.
        embeddings: how many vectors it has.
    """

    tokens: tuple[EventTokens, ...] = ()
    counts: TokenCounts | None = None
    finish: str | None = None
    error: str | None = None
    holds_back: bool = False
    is_last: bool = False
    null_choices: bool = False
    embeddings: int = 0


class _Usage(msgspec.Struct, frozen=True):
    prompt_tokens: float | None = None
    completion_tokens: float | None = None
    completion_tokens_details: Any = None
    # Responses and Messages.
    input_tokens: float | None = None
    output_tokens: float | None = None
    output_tokens_details: Any = None
    cache_read_input_tokens: float | None = None
    cache_creation_input_tokens: float | None = None


class _Delta(msgspec.Struct, frozen=True):
    role: Any = None
    content: Any = None
    reasoning_content: Any = None
    reasoning: Any = None
    reasoning_details: Any = None
    thinking: Any = None
    thinking_blocks: Any = None
    tool_calls: Any = None
    function_call: Any = None
    refusal: Any = None


class _Choice(msgspec.Struct, frozen=True):
    index: Any = 0
    text: Any = None
    delta: _Delta | None = None
    message: _Delta | None = None
    finish_reason: Any = None


class _Event(msgspec.Struct, frozen=True):
    type: Any = None
    choices: list[_Choice] | msgspec.UnsetType | None = msgspec.UNSET
    # Any: a server that counts in a way of its own has not failed for it.
    usage: Any = None
    error: Any = None
    # Responses and Messages; `message` and `detail` also hold the words of an error.
    delta: Any = None
    response: Any = None
    message: Any = None
    detail: Any = None
    item: Any = None
    content_block: Any = None


_decode = msgspec.json.Decoder(_Event).decode
_decode_any = msgspec.json.Decoder().decode

_RESPONSES_DELTAS = {
    "response.output_text.delta": TokenKind.TEXT,
    "response.reasoning_text.delta": TokenKind.REASONING,
    "response.reasoning_summary_text.delta": TokenKind.REASONING,
    "response.function_call_arguments.delta": TokenKind.TOOL_CALL,
    "response.custom_tool_call_input.delta": TokenKind.TOOL_CALL,
    "response.mcp_call_arguments.delta": TokenKind.TOOL_CALL,
    "response.refusal.delta": TokenKind.REFUSAL,
}
_RESPONSES_ENDS = {
    "response.completed": "stop",
    "response.incomplete": "incomplete",
    "response.failed": "failed",
    "response.cancelled": "cancelled",
}
# Field of a Messages delta -> kind.
_MESSAGES_DELTAS = {
    "text": TokenKind.TEXT,
    "thinking": TokenKind.REASONING,
    "partial_json": TokenKind.TOOL_CALL,
}
_LAST = StreamEvent(is_last=True)


def read_event(event: SseEvent) -> StreamEvent:
    """Return what *event* says.

    Raises:
        RequestInvalid: its data is no JSON that a server of these dialects sends; the message
            quotes it.
    """
    if event.data.startswith(DONE):
        return _LAST
    if event.kind == ERROR:
        return StreamEvent(error=words_of(event.data))
    if not event.data.strip():
        # A heartbeat: the specification dispatches no event without data.
        return StreamEvent()
    found = _read(event.data)
    if found.error:
        return StreamEvent(error=_words(found.error), counts=_counts(found.usage))
    if isinstance(found.type, str) and found.choices is msgspec.UNSET:
        return _typed(found, found.type)
    return _completion(found, streamed=True)


def read_whole_answer(body: bytes) -> StreamEvent:
    """Return what a *body* that is not a stream says: all of its tokens as one event.

    Raises:
        RequestInvalid: it is no JSON of these dialects; the message quotes it.
    """
    found = _read(body)
    if found.error:
        return StreamEvent(error=_words(found.error), counts=_counts(found.usage))
    if found.choices is msgspec.UNSET:
        return _whole_typed(body)
    return _completion(found, streamed=False)


def words_of(body: bytes) -> str:
    """Return what *body*, which says that something failed, says: its message, or all of it."""
    try:
        return _words(_decode_any(body)) or body.decode("utf-8", "replace")
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return body.decode("utf-8", "replace")


def _read(data: bytes) -> _Event:
    try:
        return _decode(data)
    except msgspec.ValidationError as error:
        raise RequestInvalid(f"not an answer of this API ({error}): {_quoted(data)}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestInvalid(f"not JSON: {_quoted(data)}") from error


def _quoted(data: bytes) -> str:
    return data[:400].decode("utf-8", "replace")


def _words(error: Any) -> str:
    """The message in an error, however deep it is wrapped."""
    if isinstance(error, str):
        return error
    if isinstance(error, dict):
        for name in ("message", "error", "detail", "msg", "error_msg", "type", "code"):
            if found := _words(error.get(name)):
                return found
    if isinstance(error, list) and error:
        return _words(error[0])
    if isinstance(error, int) and not isinstance(error, bool):
        return str(error)
    return msgspec.json.encode(error).decode() if error else ""


# Chat and text completions.


def _completion(found: _Event, *, streamed: bool) -> StreamEvent:
    choices = found.choices or ()
    tokens: list[EventTokens] = []
    finish = None
    for choice in choices if isinstance(choices, list) else ():
        tokens.extend(_choice_tokens(choice, streamed))
        finish = _finish(choice.finish_reason) or finish
    return StreamEvent(
        tokens=tuple(tokens),
        counts=_counts(found.usage),
        finish=finish,
        holds_back=not tokens and finish is None and _is_blank(choices),
        null_choices=found.choices is None,
    )


def _is_blank(choices: Any) -> bool:
    """Whether there is the place of a token and nothing in it; a role opens an answer."""
    if not isinstance(choices, list) or len(choices) != 1:
        return False
    (choice,) = choices
    if choice.delta is None:
        return bool(choice.text == "")
    return bool(choice.delta.content == "" and choice.delta.role is None)


def _choice_tokens(choice: _Choice, streamed: bool) -> list[EventTokens]:
    number = choice.index if isinstance(choice.index, int) else 0
    # A last event may repeat the whole answer as its `message`.
    delta = choice.delta if streamed else choice.delta or choice.message
    if delta is None:
        return _tokens(TokenKind.TEXT, choice.text, number)
    found: list[EventTokens] = []
    if delta.content:
        found += _content(delta.content, number)
    reasoning = delta.reasoning_content or delta.reasoning or delta.thinking
    if reasoning or delta.reasoning_details or delta.thinking_blocks:
        spoken = reasoning or delta.reasoning_details or delta.thinking_blocks
        found += _tokens(TokenKind.REASONING, spoken, number)
    if delta.tool_calls or delta.function_call:
        found += _tokens(TokenKind.TOOL_CALL, delta.tool_calls or delta.function_call, number)
    if delta.refusal:
        found += _tokens(TokenKind.REFUSAL, delta.refusal, number)
    return found


def _content(content: Any, choice: int) -> list[EventTokens]:
    """Text, or typed parts of which some are reasoning (Mistral's)."""
    if not isinstance(content, list):
        return _tokens(TokenKind.TEXT, content, choice)
    found: list[EventTokens] = []
    for part in content:
        is_reasoning = isinstance(part, dict) and "think" in str(part.get("type", ""))
        found += _tokens(TokenKind.REASONING if is_reasoning else TokenKind.TEXT, part, choice)
    return found


def _tokens(kind: TokenKind, spoken: Any, choice: int = 0) -> list[EventTokens]:
    if isinstance(spoken, str):
        is_text = kind is TokenKind.TEXT
        opens = is_text and spoken.lstrip().startswith("<think")
        text = spoken if is_text else ""
        return [EventTokens(kind, len(spoken), choice, opens, text)] if spoken else []
    chars = _chars(spoken)
    text = _text_of(spoken) if kind is TokenKind.TEXT else ""
    return [EventTokens(kind, chars, choice, text=text)] if chars else []


# Text that was generated, in the parts of a tool call, of content and of reasoning.
_GENERATED = {"name", "arguments", "input", "text", "thinking", "summary", "data"}


def _chars(spoken: Any) -> int:
    """Characters of the generated text in nested parts."""
    if isinstance(spoken, list):
        return sum(_chars(part) for part in spoken)
    if not isinstance(spoken, dict):
        return 0
    own = sum(len(v) for k, v in spoken.items() if k in _GENERATED and isinstance(v, str))
    return own + sum(_chars(value) for value in spoken.values())


def _text_of(parts: Any) -> str:
    """The text in nested parts of an answer."""
    if isinstance(parts, list):
        return "".join(_text_of(part) for part in parts)
    kind = str(parts.get("type", "")) if isinstance(parts, dict) else "none"
    if not isinstance(parts, dict) or "think" in kind or "reason" in kind:
        return ""
    text = parts.get("text")
    own = text if isinstance(text, str) else ""
    return own + _text_of(parts.get("content"))


def _finish(reason: Any) -> str | None:
    """SGLang's own API says why as an object, with a `type`."""
    if isinstance(reason, dict):
        reason = reason.get("type")
    return reason if isinstance(reason, str) and reason else None


# Responses and Messages: every event names its type.


def _typed(found: _Event, kind: str) -> StreamEvent:
    if kind in _RESPONSES_DELTAS:
        return StreamEvent(tuple(_tokens(_RESPONSES_DELTAS[kind], found.delta)))
    if kind in _RESPONSES_ENDS and isinstance(found.response, dict):
        return _ended(found.response, _RESPONSES_ENDS[kind])
    if kind == "error":
        return StreamEvent(error=_words(found.message) or "an event of type error")
    if kind == "content_block_delta" and isinstance(found.delta, dict):
        for field, of in _MESSAGES_DELTAS.items():
            if isinstance(found.delta.get(field), str):
                return StreamEvent(tuple(_tokens(of, found.delta[field])))
    if kind == "response.output_item.added":
        return _tool_name(found.item, "function_call")
    if kind == "content_block_start":
        return _tool_name(found.content_block, "tool_use")
    if kind == "message_start" and isinstance(found.message, dict):
        return StreamEvent(counts=_counts(found.message.get("usage")))
    if kind == "message_delta":
        stop = found.delta.get("stop_reason") if isinstance(found.delta, dict) else None
        return StreamEvent(counts=_counts(found.usage), finish=_finish(stop))
    return _LAST if kind == "message_stop" else StreamEvent()


def _tool_name(item: Any, kind: str) -> StreamEvent:
    """The name of a tool was generated too, before its arguments."""
    if not isinstance(item, dict) or item.get("type") != kind:
        return StreamEvent()
    return StreamEvent(tuple(_tokens(TokenKind.TOOL_CALL, item.get("name"))))


def _ended(response: dict[str, Any], finish: str) -> StreamEvent:
    """The last event of a Responses stream; it repeats the answer, which was counted before."""
    details = response.get("incomplete_details")
    if finish == "incomplete" and isinstance(details, dict):
        finish = _finish(details.get("reason")) or finish
    return StreamEvent(
        counts=_counts(response.get("usage")),
        finish=finish,
        error=(_words(response.get("error")) or "failed") if finish == "failed" else None,
        is_last=True,
    )


def _whole_typed(body: bytes) -> StreamEvent:
    answer = _decode_any(body)
    if vectors := _vectors(answer.get("data")):
        return StreamEvent(counts=_counts(answer.get("usage")), finish="stop", embeddings=vectors)
    parts = answer.get("output") or answer.get("content") or []
    tokens = tuple(_tokens(TokenKind.TEXT, parts))
    if answer.get("status") == "failed" or (not tokens and answer.get("detail")):
        return StreamEvent(error=_words(answer))
    finish = _finish(answer.get("stop_reason")) or "stop" if tokens else None
    return StreamEvent(tokens, _counts(answer.get("usage")), finish)


def _vectors(data: Any) -> int:
    """How many embeddings are in the *data* of an answer."""
    rows = data if isinstance(data, list) else []
    return sum(isinstance(row, dict) and bool(row.get("embedding")) for row in rows)


def _counts(said: Any) -> TokenCounts | None:
    """Return the counts in a `usage`; None where it is none that can be read."""
    if said is None:
        return None
    try:
        usage = msgspec.convert(said, _Usage)
    except msgspec.ValidationError:
        return None
    cached = (usage.cache_read_input_tokens or 0) + (usage.cache_creation_input_tokens or 0)
    prompt = usage.prompt_tokens
    if prompt is None and usage.input_tokens is not None:
        # Messages count what a prompt cache held apart from the rest; Responses do not.
        prompt = usage.input_tokens + cached
    completion = usage.output_tokens if usage.completion_tokens is None else usage.completion_tokens
    details = usage.completion_tokens_details or usage.output_tokens_details
    reasoning = details.get("reasoning_tokens") if isinstance(details, dict) else None
    return TokenCounts(
        None if prompt is None else round(prompt),
        None if completion is None else round(completion),
        reasoning if isinstance(reasoning, int) else None,
    )
