"""A stand-in for vLLM in pooling mode: real HTTP on loopback, in this process or as a child.

A text's vector follows from the text alone, one token stands for each word, and what the engine
would say to a request that it cannot serve is worded as vLLM 0.32 words it.

    python -m tests.support.modal_engine serve MODEL --served-model-name M --port P ...
"""

import argparse
import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from aiohttp import web

from modal_embedding.messages.vectors import Vector, normalised, to_base64
from tests.support.web_server import web_server

SIZE = 16


def vector_of(text: str) -> Vector:
    """The vector of a text, at length 1; the same in every process."""
    seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little")
    row = np.random.default_rng(seed).normal(size=(1, SIZE)).astype(np.float32)
    vector: Vector = normalised(row)[0]
    return vector


@dataclass(slots=True)
class StandInEngine:
    """One engine.

    Attributes:
        refusals: statuses for the coming requests, in order.
        requests: the bodies that came to /v1/embeddings.
        calls: path and query of everything else that came.
        busiest: the most requests that were under way at a time.
    """

    url: str = ""
    model: str = "tiny"
    max_model_len: int = 100
    delay_s: float = 0.0
    refusals: list[int] = field(default_factory=list)
    requests: list[dict[str, Any]] = field(default_factory=list)
    calls: list[str] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    under_way: int = 0
    busiest: int = 0

    def application(self) -> web.Application:
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_post("/tokenize", self._tokenize)
        app.router.add_get("/v1/models", self._models)
        app.router.add_get("/health", self._note)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_post("/sleep", self._note)
        app.router.add_post("/wake_up", self._note)
        app.router.add_post("/die", self._die)
        return app

    async def _embeddings(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.requests.append(body)
        self.authorizations.append(request.headers.get("Authorization", ""))
        self.under_way += 1
        self.busiest = max(self.busiest, self.under_way)
        try:
            await asyncio.sleep(self.delay_s if "hang" not in body["input"] else 3600.0)
            return self._answer(body)
        finally:
            self.under_way -= 1

    def _answer(self, body: dict[str, Any]) -> web.Response:
        if self.refusals:
            return _error(self.refusals.pop(0), "asked to refuse")
        if body["model"] != self.model:
            return _error(404, f"The model `{body['model']}` does not exist.")
        longest = max(map(_tokens, body["input"]))
        if body.get("truncate_prompt_tokens") is not None:
            longest = 0
        if longest > self.max_model_len:
            return _error(
                400,
                f"This model's maximum context length is {self.max_model_len} tokens. However, "
                f"your prompt contains at least {self.max_model_len + 1} input tokens",
            )
        rows = [
            {"index": at, "object": "embedding", "embedding": to_base64(vector_of(str(text)))}
            for at, text in enumerate(body["input"])
        ]
        tokens = sum(map(_tokens, body["input"]))
        usage = {"prompt_tokens": tokens, "total_tokens": tokens, "completion_tokens": 0}
        # Backwards, because nothing promises the order of the entries.
        return web.json_response({"object": "list", "data": rows[::-1], "usage": usage})

    async def _models(self, _: web.Request) -> web.Response:
        card = {"id": self.model, "object": "model", "max_model_len": self.max_model_len}
        return web.json_response({"object": "list", "data": [card]})

    async def _tokenize(self, request: web.Request) -> web.Response:
        return web.json_response({"count": _tokens((await request.json())["prompt"])})

    async def _metrics(self, _: web.Request) -> web.Response:
        return web.Response(text='vllm:num_requests_running{engine="0",model_name="tiny"} 0.0\n')

    async def _note(self, request: web.Request) -> web.Response:
        self.calls.append(request.path_qs)
        return web.Response()

    async def _die(self, _: web.Request) -> web.Response:
        os._exit(9)


def _tokens(text: str | Sequence[int]) -> int:
    return len(text.split()) if isinstance(text, str) else len(text)


def _error(status: int, message: str) -> web.Response:
    error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
    headers = {"Retry-After": "3"} if status == 503 else {}
    return web.json_response({"error": error}, status=status, headers=headers)


@asynccontextmanager
async def stand_in_engine(port: int = 0, **options: Any) -> AsyncIterator[StandInEngine]:
    """Run an engine on a free port."""
    engine = StandInEngine(**options)
    async with web_server(engine.application(), port) as engine.url:
        yield engine


async def _serve(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("serve")
    parser.add_argument("model")
    parser.add_argument("--served-model-name")
    parser.add_argument("--port", type=int)
    parser.add_argument("--max-model-len", type=lambda text: 100 if text == "auto" else int(text))
    parser.add_argument("--fail", action="store_true")
    parser.add_argument("--core", action="store_true", help="have a process that computes")
    known, _ = parser.parse_known_args(arguments)
    if known.fail:
        raise SystemExit("ValueError: No available memory for the cache blocks")
    if known.core:
        await asyncio.create_subprocess_exec("sleep", "3600")
    options = {"model": known.served_model_name, "max_model_len": known.max_model_len}
    async with stand_in_engine(known.port, **options):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_serve())
