"""A server of four OpenAI APIs that keeps every request, and counts tokens as it is told.

Shapes: https://platform.openai.com/docs/api-reference (chat, completions, embeddings, responses).
"""

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web


@dataclass
class Scribe:
    """What it was asked; *count* gives the tokens of a prompt's text.

    Attributes:
        max_model_len: what /v1/models says; None for a server that does not.
        requests: path and query, headers with names in lower case, body.
        refuses: requests with this text in their prompt are answered with 500.
    """

    count: Callable[[str], int] = lambda text: len(text.split())
    template_tokens: int = 0
    max_model_len: int | None = 8_192
    refuses: str = ""
    url: str = ""
    requests: list[tuple[str, dict[str, str], dict[str, Any]]] = field(default_factory=list)

    @property
    def bodies(self) -> list[dict[str, Any]]:
        return [body for _, _, body in self.requests]

    async def models(self, _: web.Request) -> web.Response:
        card: dict[str, Any] = {"id": "m", "object": "model"}
        if self.max_model_len is not None:
            card["max_model_len"] = self.max_model_len
        return web.json_response({"object": "list", "data": [card]})

    async def answer(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        headers = {name.lower(): value for name, value in request.headers.items()}
        self.requests.append((request.path_qs, headers, body))
        prompt = body.get("messages") or body.get("prompt") or body.get("input")
        if self.refuses and self.refuses in json.dumps(prompt):
            return web.json_response({"error": {"message": "refused"}}, status=500)
        tokens = self.template_tokens + sum(map(self.count, _texts(prompt)))
        n = len(self.bodies)
        if request.path.endswith("/embeddings"):
            data = [{"object": "embedding", "index": 0, "embedding": [0.1, 0.2]}]
            usage = {"prompt_tokens": tokens, "total_tokens": tokens}
            return web.json_response({"object": "list", "data": data, "usage": usage})
        kind = _kind(request.path)
        if not body.get("stream"):
            return web.json_response(_whole(kind, f"answer {n}", tokens))
        return await _stream(request, _EVENTS[kind](f"answer {n}", tokens))


def _texts(prompt: Any) -> list[str]:
    if isinstance(prompt, str):
        return [prompt]
    if isinstance(prompt, dict):
        return _texts(prompt.get("content"))
    if isinstance(prompt, list) and prompt and isinstance(prompt[0], int):
        return ["id " * len(prompt)]
    return [text for one in prompt or () for text in _texts(one)]


def _kind(path: str) -> str:
    if path.endswith("/responses"):
        return "responses"
    return "chat" if "chat" in path else "completions"


def _usage(prompt: int) -> dict[str, int]:
    return {"prompt_tokens": prompt, "completion_tokens": 2, "total_tokens": prompt + 2}


def _responses_usage(prompt: int) -> dict[str, int]:
    return {"input_tokens": prompt, "output_tokens": 2, "total_tokens": prompt + 2}


def _whole(kind: str, text: str, prompt: int) -> dict[str, Any]:
    if kind == "responses":
        part = {"type": "output_text", "text": text}
        output = [{"type": "message", "role": "assistant", "content": [part]}]
        return {"status": "completed", "output": output, "usage": _responses_usage(prompt)}
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length", "text": text}
    if kind == "chat":
        choice["message"] = {"role": "assistant", "content": text}
    return {"choices": [choice], "usage": _usage(prompt)}


def _completion_events(text: str, prompt: int) -> list[dict[str, Any]]:
    pieces = [{"choices": [{"index": 0, "text": piece}]} for piece in _pieces(text)]
    end = {"choices": [{"index": 0, "text": "", "finish_reason": "length"}]}
    return [*pieces, end, {"choices": [], "usage": _usage(prompt)}]


def _chat_events(text: str, prompt: int) -> list[dict[str, Any]]:
    pieces = [{"choices": [{"index": 0, "delta": {"content": one}}]} for one in _pieces(text)]
    end = {"choices": [{"index": 0, "delta": {}, "finish_reason": "length"}]}
    return [*pieces, end, {"choices": [], "usage": _usage(prompt)}]


def _responses_events(text: str, prompt: int) -> list[dict[str, Any]]:
    said = {"status": "completed", "usage": _responses_usage(prompt)}
    pieces = [{"type": "response.output_text.delta", "delta": one} for one in _pieces(text)]
    return [*pieces, {"type": "response.completed", "response": said}]


_EVENTS = {
    "completions": _completion_events,
    "chat": _chat_events,
    "responses": _responses_events,
}


def _pieces(text: str) -> list[str]:
    first, _, second = text.partition(" ")
    return [first, f" {second}"]


async def _stream(request: web.Request, events: list[dict[str, Any]]) -> web.StreamResponse:
    answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await answer.prepare(request)
    for event in events:
        await answer.write(f"data: {json.dumps(event)}\n\n".encode())
    if "type" not in events[0]:
        await answer.write(b"data: [DONE]\n\n")
    await answer.write_eof()
    return answer


@asynccontextmanager
async def scribe(**options: Any) -> AsyncIterator[Scribe]:
    """Serve on loopback while the block lasts."""
    served = Scribe(**options)
    app = web.Application(client_max_size=2**26)
    app.router.add_get("/v1/models", served.models)
    app.router.add_post("/{path:.*}", served.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    served.url = f"http://{host}:{port}"
    try:
        yield served
    finally:
        await runner.cleanup()
