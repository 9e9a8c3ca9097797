"""The bytes that a simulated engine answers with, in vLLM's words.  Pure.

Shapes follow the streams captured from vLLM 0.32 in tests/golden/vllm; only the text differs.
Everything that does not change from token to token is encoded once per answer.
"""

import json
from dataclasses import dataclass

# One token each.  Lengths differ, so that a client that counts bytes instead of tokens is noticed.
WORDS = (" the", " quick", " brown", " fox", " jumps", " over", " a", " lazy", " dog", ".")

FINGERPRINT = "vllm-simulated"
DONE = b"data: [DONE]\n\n"


@dataclass(frozen=True, slots=True)
class AnswerKind:
    """Which endpoint, for which answer.

    Attributes:
        chat: chat completion rather than completion.
        created: seconds since the epoch.
    """

    chat: bool
    id: str
    model: str
    created: int


def word(position: int) -> str:
    """Return the text of the token at *position* of an answer."""
    return WORDS[position % len(WORDS)]


def role_event(kind: AnswerKind, index: int) -> bytes:
    """Return the first event of a chat stream, which carries the role and no text."""
    choice = {
        "index": index,
        "delta": {"role": "assistant", "content": ""},
        "logprobs": None,
        "finish_reason": None,
    }
    return _event(kind, [choice], prompt_token_ids=None, prompt_text=None)


def token_events(kind: AnswerKind, index: int) -> tuple[bytes, ...]:
    """Return the event of each word of `WORDS`, for a token that is not the last."""
    return tuple(_token_event(kind, index, text, None) for text in WORDS)


def last_token_event(kind: AnswerKind, index: int, position: int, reason: str) -> bytes:
    """Return the event of an answer's last token."""
    return _token_event(kind, index, word(position), reason)


def usage_event(kind: AnswerKind, prompt_tokens: int, completion_tokens: int) -> bytes:
    """Return the event that `stream_options.include_usage` asks for."""
    usage = _usage(prompt_tokens, completion_tokens)
    return _event(kind, [], usage=usage, system_fingerprint=FINGERPRINT)


def whole_answer(kind: AnswerKind, answers: list[tuple[int, str]], prompt_tokens: int) -> bytes:
    """Return an answer that was not streamed; *answers* has each choice's tokens and reason."""
    usage = _usage(prompt_tokens, sum(tokens for tokens, _ in answers))
    body: dict[str, object] = {
        "id": kind.id,
        "object": "chat.completion" if kind.chat else "text_completion",
        "created": kind.created,
        "model": kind.model,
        "choices": [
            _choice(kind, index, tokens, reason) for index, (tokens, reason) in enumerate(answers)
        ],
        "service_tier": None,
        "system_fingerprint": FINGERPRINT,
        "usage": usage | {"prompt_tokens_details": None, "completion_tokens_details": None},
    }
    if kind.chat:
        body |= dict.fromkeys(("prompt_logprobs", "prompt_token_ids", "prompt_text"))
    return _json(body | dict.fromkeys(("kv_transfer_params", "ec_transfer_params", "metrics")))


def chunked(data: bytes) -> bytes:
    """Return *data* as one chunk of HTTP/1.1's chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


def _choice(kind: AnswerKind, index: int, tokens: int, reason: str) -> dict[str, object]:
    text = "".join(word(position) for position in range(tokens))
    ending = {"logprobs": None, "finish_reason": reason, "stop_reason": None, "token_ids": None}
    if not kind.chat:
        own = dict.fromkeys(("prompt_logprobs", "prompt_token_ids", "routed_experts"))
        return {"index": index, "text": text} | ending | own
    message: dict[str, object] = {"role": "assistant", "content": text}
    message |= dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
    return {"index": index, "message": message} | ending | {"routed_experts": None}


def _token_event(kind: AnswerKind, index: int, text: str, reason: str | None) -> bytes:
    choice: dict[str, object] = {"index": index}
    if kind.chat:
        choice |= {"delta": {"content": text}, "logprobs": None, "finish_reason": reason}
        # vLLM leaves stop_reason out of a chat chunk that is not the last.
        choice |= {"stop_reason": None} if reason else {}
    else:
        choice |= {"text": text, "logprobs": None, "finish_reason": reason, "stop_reason": None}
        choice |= {"prompt_token_ids": None}
    choice["token_ids"] = None
    return _event(kind, [choice])


def _event(kind: AnswerKind, choices: list[dict[str, object]], **more: object) -> bytes:
    body = {
        "id": kind.id,
        "object": "chat.completion.chunk" if kind.chat else "text_completion",
        "created": kind.created,
        "model": kind.model,
        "choices": choices,
    }
    return b"data: " + _json(body | more) + b"\n\n"


def _usage(prompt_tokens: int, completion_tokens: int) -> dict[str, object]:
    return {
        "prompt_tokens": prompt_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "completion_tokens": completion_tokens,
    }


def _json(body: object) -> bytes:
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode()
