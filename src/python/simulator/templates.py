"""The bytes that a simulated engine answers with, in vLLM's words.  Pure.

Shapes follow the streams captured from vLLM 0.32 in tests/golden/vllm; only the text differs.
Everything that does not change from token to token is encoded once per answer.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass

from simulator.answer_plan import WORDS, AnswerPlan

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
    return tuple(token_event(kind, index, text) for text in WORDS)


def token_event(
    kind: AnswerKind, index: int, text: str, reason: str | None = None, stop: str | None = None
) -> bytes:
    """Return the event of one token; *reason* and *stop* say why it is the last."""
    choice: dict[str, object] = {"index": index}
    if kind.chat:
        choice |= {"delta": {"content": text}, "logprobs": None, "finish_reason": reason}
        # vLLM leaves stop_reason out of a chat chunk that is not the last.
        choice |= {"stop_reason": stop} if reason else {}
    else:
        choice |= {"text": text, "logprobs": None, "finish_reason": reason, "stop_reason": stop}
        choice |= {"prompt_token_ids": None}
    choice["token_ids"] = None
    return _event(kind, [choice])


def usage_event(kind: AnswerKind, prompt_tokens: int, completion_tokens: int) -> bytes:
    """Return the event that `stream_options.include_usage` asks for."""
    usage = _usage(prompt_tokens, completion_tokens)
    return _event(kind, [], usage=usage, system_fingerprint=FINGERPRINT)


def whole_answer(kind: AnswerKind, answers: Sequence[AnswerPlan], prompt_tokens: int) -> bytes:
    """Return an answer that was not streamed."""
    usage = _usage(prompt_tokens, sum(answer.tokens for answer in answers))
    body: dict[str, object] = {
        "id": kind.id,
        "object": "chat.completion" if kind.chat else "text_completion",
        "created": kind.created,
        "model": kind.model,
        "choices": [_choice(kind, index, answer) for index, answer in enumerate(answers)],
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


def _choice(kind: AnswerKind, index: int, answer: AnswerPlan) -> dict[str, object]:
    text = answer.text
    ending: dict[str, object] = {"logprobs": None, "finish_reason": answer.reason}
    ending |= {"stop_reason": answer.stop_reason, "token_ids": None}
    if not kind.chat:
        own = dict.fromkeys(("prompt_logprobs", "prompt_token_ids", "routed_experts"))
        return {"index": index, "text": text} | ending | own
    message: dict[str, object] = {"role": "assistant", "content": text}
    message |= dict.fromkeys(("refusal", "annotations", "audio", "function_call", "reasoning"))
    return {"index": index, "message": message} | ending | {"routed_experts": None}


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
