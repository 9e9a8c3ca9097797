"""An engine that speaks every API that vLLM has, and dies where it is told to."""

import asyncio
import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from tests.loadbalancer.engine import METRICS, Engine, chunk, whole

CREATED = 1_700_000_000
WORDS = ("one ", "two ", "three")
TEXT = "".join(WORDS)


def completion(**choice: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion" + (".chunk" if "delta" in choice else ""),
        "created": CREATED,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": None, **choice}],
    }


def usage(prompt: str, made: str) -> dict[str, Any]:
    return {prompt: 3, made: len(WORDS)}


def response(identity: str, status: str, text: str = "") -> dict[str, Any]:
    part = {"type": "output_text", "text": text, "annotations": []}
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "status": "completed",
        "content": [part],
    }
    counts = {**usage("input_tokens", "output_tokens"), "total_tokens": 6}
    details = {
        "input_tokens_details": {"cached_tokens": 0},
        "output_tokens_details": {"reasoning_tokens": 0},
    }
    return {
        "id": identity,
        "object": "response",
        "created_at": CREATED,
        "status": status,
        "model": "m",
        "output": [message] if text else [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "temperature": 1.0,
        "top_p": 1.0,
        "usage": {**counts, **details} if text else None,
    }


def completion_events() -> list[bytes]:
    texts = [completion(text=word) for word in WORDS]
    return [*(_data(event) for event in texts), _data(completion(text="", finish_reason="stop")),
            b"data: [DONE]\n\n"]  # fmt: skip


def chat_events() -> list[bytes]:
    deltas = [completion(delta={"role": "assistant", "content": word}) for word in WORDS]
    end = completion(delta={}, finish_reason="stop")
    return [*(_data(event) for event in (*deltas, end)), b"data: [DONE]\n\n"]


def message_events() -> list[bytes]:
    message: dict[str, Any] = {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 3, "output_tokens": 0},
    }
    block = {"type": "text", "text": ""}
    return [
        _typed(type="message_start", message=message),
        _typed(type="content_block_start", index=0, content_block=block),
        *(
            _typed(type="content_block_delta", index=0, delta={"type": "text_delta", "text": word})
            for word in WORDS
        ),
        _typed(type="content_block_stop", index=0),
        _typed(
            type="message_delta",
            delta={"stop_reason": "end_turn", "stop_sequence": None},
            usage={"output_tokens": 3},
        ),
        _typed(type="message_stop"),
    ]


def response_events(identity: str) -> list[bytes]:
    where = {"item_id": "msg_1", "output_index": 0, "content_index": 0}
    item = {"id": "msg_1", "type": "message", "role": "assistant", "content": []}
    part = {"type": "output_text", "text": "", "annotations": []}
    events: list[dict[str, Any]] = [
        {"type": "response.created", "response": response(identity, "in_progress")},
        {
            "type": "response.output_item.added",
            "output_index": 0,
            "item": {**item, "status": "in_progress"},
        },
        {"type": "response.content_part.added", **where, "part": part},
        *(
            {"type": "response.output_text.delta", **where, "delta": word, "logprobs": []}
            for word in WORDS
        ),
        {"type": "response.completed", "response": response(identity, "completed", TEXT)},
    ]
    return [_typed(**event, sequence_number=number) for number, event in enumerate(events)]


def _data(event: dict[str, Any]) -> bytes:
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def _typed(**event: Any) -> bytes:
    return f"event: {event['type']}\n".encode() + _data(event)


def answer_to(path: str, identity: str) -> dict[str, Any]:
    """Return the whole answer to a request for *path*."""
    if path == "/v1/messages":
        return {
            "id": "msg_1",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": TEXT}],
            "stop_reason": "end_turn",
            "stop_sequence": None,
            "usage": usage("input_tokens", "output_tokens"),
        }
    if path == "/v1/responses":
        return response(identity, "completed", TEXT)
    if path == "/v1/embeddings":
        row = {"object": "embedding", "index": 0, "embedding": [0.5, 0.25]}
        counts = {"prompt_tokens": 3, "total_tokens": 3}
        return {"object": "list", "model": "m", "data": [row], "usage": counts}
    counts = {**usage("prompt_tokens", "completion_tokens"), "total_tokens": 6}
    if path == "/v1/completions":
        made = completion(text=TEXT, finish_reason="stop")
        return {**made, "object": "text_completion", "usage": counts}
    message = {"role": "assistant", "content": TEXT}
    return {**completion(message=message, finish_reason="stop"), "usage": counts}


def events_of(path: str, identity: str) -> list[bytes]:
    if path == "/v1/messages":
        return message_events()
    if path == "/v1/completions":
        return completion_events()
    return response_events(identity) if path == "/v1/responses" else chat_events()


@dataclass
class DialectEngine(Engine):
    """Answers by path.

    Attributes:
        dies: `before` anything, or in the `middle` of an answer; empty: it does not.
        old: whether its streams end with the connection.
        number: what its responses are called by.
        models: what it lists; adapters can be loaded.
        made: ids of the responses that it keeps.
        asked: method and path of what came but polls.
    """

    dies: str = ""
    old: bool = False
    number: int = 0
    models: list[str] = field(default_factory=lambda: ["m"])
    made: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)

    async def _answer(
        self, head: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        method, target = head.decode("latin-1").split(" ")[:2]
        path = target.partition("?")[0]
        if path == "/metrics":
            writer.write(whole(METRICS))
        elif path == "/health":
            writer.write(whole(b""))
        elif path == "/v1/models":
            cards = [{"id": model} for model in self.models]
            writer.write(_json({"object": "list", "data": cards}))
        else:
            self.heads.append(head)
            self.asked.append(f"{method} {path}")
            body = b""
            if b"content-length: " in head.lower():
                size = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                body = await reader.readexactly(size)
            self.bodies.append(body)
            await self._serve(method, path, body, writer)
        await writer.drain()

    async def _serve(
        self, method: str, path: str, body: bytes, writer: asyncio.StreamWriter
    ) -> None:
        if path.startswith("/v1/responses/"):
            self._kept(method, path, writer)
        elif path.endswith("_lora_adapter"):
            self._adapter(path, json.loads(body)["lora_name"], writer)
        elif path in ("/sleep", "/is_sleeping"):
            writer.write(_json({"is_sleeping": True}))
        elif self.dies == "before":
            writer.transport.abort()
        else:
            identity = f"resp_{self.number}_{len(self.made)}"
            self.made.append(identity)
            streams = json.loads(body).get("stream") if body.startswith(b"{") else False
            if streams:
                await self._events(events_of(path, identity), writer)
            else:
                await self._whole(_json(answer_to(path, identity)), writer)

    async def _whole(self, answer: bytes, writer: asyncio.StreamWriter) -> None:
        if self.dies:
            writer.write(answer[:-20])
            await writer.drain()
            await asyncio.sleep(0.02)
            writer.transport.abort()
            return
        writer.write(answer)

    async def _events(self, events: Iterable[bytes], writer: asyncio.StreamWriter) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream; charset=utf-8\r\n"
        writer.write(head + (b"\r\n" if self.old else b"transfer-encoding: chunked\r\n\r\n"))
        for number, event in enumerate(events):
            if self.dies and number == 3:
                await writer.drain()
                await asyncio.sleep(0.02)
                writer.transport.abort()
                return
            writer.write(event if self.old else chunk(event))
            await writer.drain()
        if self.old:
            writer.close()
        else:
            writer.write(b"0\r\n\r\n")

    def _kept(self, method: str, path: str, writer: asyncio.StreamWriter) -> None:
        identity = path.split("/")[3]
        if identity not in self.made:
            said = {"error": {"message": f"Response with id '{identity}' not found.", "code": 404}}
            writer.write(_json(said, 404))
            return
        if method == "DELETE":
            self.made.remove(identity)
            writer.write(_json({"id": identity, "object": "response.deleted", "deleted": True}))
            return
        status = "cancelled" if path.endswith("/cancel") else "completed"
        writer.write(_json(response(identity, status, TEXT)))

    def _adapter(self, path: str, name: str, writer: asyncio.StreamWriter) -> None:
        if path.endswith("unload_lora_adapter"):
            self.models.remove(name)
        else:
            self.models.append(name)
        writer.write(whole(f"Success: LoRA adapter '{name}'.".encode()))


def _json(value: object, status: int = 200) -> bytes:
    return whole(json.dumps(value).encode(), status, b"content-type: application/json\r\n")
