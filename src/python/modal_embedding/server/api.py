"""The public face of an embedding engine: /v1/embeddings with a key, and nothing of the engine's.

The engine listens on loopback with its development routes open (sleep, weights, RPC); what is not
a route here does not exist.
"""

from collections.abc import Awaitable, Callable, Sequence

import aiohttp
import msgspec
import numpy as np
import structlog
from aiohttp import web

from modal_embedding.client.backends import Busy, HttpService
from modal_embedding.client.embedding_client import all_or_none
from modal_embedding.engine.embedder import phrasing_of
from modal_embedding.engine.instructions import phrased
from modal_embedding.engine.settings import EmbeddingSettings
from modal_embedding.messages.coldstart import ColdStart
from modal_embedding.messages.protocol import (
    QUERY_TYPES,
    Embedded,
    EmbeddingsRequest,
    EmbedOptions,
    TextTooLong,
    TokenIds,
    answer_body,
    inputs_of,
    read_request,
    too_long_body,
)
from modal_embedding.messages.vectors import check_dimensions, normalised, shortened
from servekit.errors.tree import (
    EngineError,
    EngineNotReady,
    EngineRefused,
    EngineTimeout,
    ModelUnknown,
    PromptTooLong,
    RequestError,
    RequestInvalid,
    RequestTooLarge,
    ServeError,
)
from servekit.launch.engine_work import EngineWork
from servekit.secrets.secret import Secret
from servekit.timing.clock import Clock
from servekit.wire.openai import error_envelope

# 2048 texts of 8192 tokens would be about 64 MB.
MAX_BODY_BYTES = 64 * 1024 * 1024

# An engine that is being restarted needs tens of seconds; whoever asks sooner is told again.
RETRY_AFTER_S = 5

# Batches of one request that are in the engine at a time, so that a large request leaves room.
BATCHES_AT_A_TIME = 4

# LangChain's client of OpenAI sends tiktoken's ids unless check_embedding_ctx_length is False.
_WHOSE_TOKENS = "token ids are those of the model's own tokenizer; send texts if they are another's"

NO_KEY = Secret()

log = structlog.get_logger()

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class EmbeddingApi:
    """The routes.

    Attributes:
        engine: None while there is no engine to ask; every request is answered 503 then.
        work: what the engine owes.
        api_key: what callers must present; empty lets everybody in.
        own_dimensions: of the model's vectors; None until there was one.
        max_model_len: longest text in tokens; 0 until the engine said it.
    """

    def __init__(self, settings: EmbeddingSettings, clock: Clock, api_key: Secret = NO_KEY) -> None:
        self.engine: HttpService | None = None
        self.work = EngineWork()
        self.api_key = api_key
        self.own_dimensions: int | None = None
        self.max_model_len = settings.max_model_len
        self._settings = settings
        self._clock = clock
        self._cold_start = ColdStart((), ())

    def started(self, cold_start: ColdStart) -> None:
        """Keep how the start went, for /coldstart."""
        self._cold_start = cold_start

    def application(self) -> web.Application:
        app = web.Application(
            client_max_size=MAX_BODY_BYTES, middlewares=[_errors, self._authorised]
        )
        app.router.add_post("/v1/embeddings", self._embeddings)
        app.router.add_get("/v1/models", self._models)
        # A model's name may hold slashes, encoded or not.
        app.router.add_get("/v1/models/{name:.+}", self._model)
        app.router.add_get("/coldstart", self._report)
        app.router.add_get("/metrics", self._metrics)
        app.router.add_get("/health", self._health)
        return app

    @web.middleware
    async def _authorised(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        # A platform's probe has no key, and /health tells nothing else.
        if request.path == "/health" or not self.api_key:
            return await handler(request)
        scheme, _, given = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not self.api_key.matches(given.strip()):
            return _error(401, "the key is missing or wrong; send Authorization: Bearer KEY")
        return await handler(request)

    async def _health(self, _: web.Request) -> web.Response:
        return web.Response(status=200 if self.engine is not None else 503)

    async def _models(self, _: web.Request) -> web.Response:
        return _json(msgspec.json.encode({"object": "list", "data": [self._card()]}))

    async def _model(self, request: web.Request) -> web.Response:
        self._check_model(request.match_info["name"])
        return _json(msgspec.json.encode(self._card()))

    def _card(self) -> dict[str, object]:
        return {
            "id": self._settings.public_model_name,
            "object": "model",
            "owned_by": "vllm",
            "max_model_len": self.max_model_len or None,
        }

    async def _report(self, _: web.Request) -> web.Response:
        return _json(msgspec.json.encode(self._cold_start))

    async def _metrics(self, _: web.Request) -> web.Response:
        content = await self._ready_engine().get("/metrics")
        return web.Response(body=content, headers={"Content-Type": "text/plain; version=0.0.4"})

    async def _embeddings(self, request: web.Request) -> web.Response:
        asked = read_request(await request.read())
        self._check_model(asked.model)
        inputs = inputs_of(asked)
        self._check_size(len(inputs))
        check_dimensions(
            asked.dimensions, self._settings.matryoshka_dimensions, self.own_dimensions
        )
        start_s = self._clock.now()
        options = EmbedOptions(truncate_prompt_tokens=asked.truncate_prompt_tokens)
        embedded = await self._embed(self._prompts(inputs, asked), options)
        self._note_first(self._clock.now() - start_s)
        vectors = shortened(embedded.vectors, asked.dimensions)
        answer = Embedded(vectors, embedded.tokens)
        name = self._settings.public_model_name
        return _json(answer_body(answer, name, asked.encoding_format))

    def _check_model(self, name: str) -> None:
        ours = self._settings.public_model_name
        if name not in ("", ours):
            raise ModelUnknown(f"the model {name!r} is not served here; this is {ours!r}")

    def _check_size(self, count: int) -> None:
        limit = self._settings.max_inputs
        if count > limit:
            raise RequestTooLarge(f"the request has {count} texts; send at most {limit} at a time")

    def _prompts(
        self, inputs: list[str] | list[TokenIds], asked: EmbeddingsRequest
    ) -> list[str] | list[TokenIds]:
        query = asked.input_type in QUERY_TYPES
        texts = [item for item in inputs if isinstance(item, str)]
        if len(texts) == len(inputs):
            phrasing = phrasing_of(self._settings)
            return phrased(texts, phrasing, instruction=asked.instruction, query=query)
        if query or asked.instruction is not None:
            raise RequestInvalid("tokens take no instruction; send texts, or leave it out")
        return inputs

    def _note_first(self, seconds: float) -> None:
        if self._cold_start.first_embedding_s is None:
            self._cold_start = msgspec.structs.replace(self._cold_start, first_embedding_s=seconds)

    async def _embed(self, prompts: list[str] | list[TokenIds], options: EmbedOptions) -> Embedded:
        """Return the model's own vectors, in order, batch by batch."""
        engine = self._ready_engine()
        size = self._settings.engine_batch_size
        batches = [(at, prompts[at : at + size]) for at in range(0, len(prompts), size)]
        parts: list[Embedded] = []
        for start in range(0, len(batches), BATCHES_AT_A_TIME):
            some = batches[start : start + BATCHES_AT_A_TIME]
            parts += await all_or_none(
                self._batch(engine, batch, at, options) for at, batch in some
            )
        vectors = normalised(np.concatenate([part.vectors for part in parts]))
        return Embedded(vectors, sum(part.tokens for part in parts))

    def _ready_engine(self) -> HttpService:
        if self.engine is None:
            raise EngineNotReady("the engine is not ready; try again in a few seconds")
        return self.engine

    async def _batch(
        self,
        engine: HttpService,
        batch: Sequence[str] | Sequence[TokenIds],
        start: int,
        options: EmbedOptions,
    ) -> Embedded:
        try:
            return await self._embed_batch(engine, batch, options)
        except RequestInvalid as error:
            await self._look_for_the_too_long(engine, batch, start)
            if isinstance(batch[0], str):
                raise
            raise RequestInvalid(f"{error}; {_WHOSE_TOKENS}") from error

    async def _embed_batch(
        self,
        engine: HttpService,
        batch: Sequence[str] | Sequence[TokenIds],
        options: EmbedOptions,
    ) -> Embedded:
        self.work.begin(self._clock.now())
        is_abandoned = True
        try:
            embedded = await engine.embed(batch, options)
            self.work.hear(self._clock.now())
            is_abandoned = False
            return embedded
        except ServeError:
            # The engine refused it, or has ended: nobody gave up.
            is_abandoned = False
            raise
        finally:
            self.work.end(abandoned=is_abandoned)

    async def _look_for_the_too_long(
        self, engine: HttpService, batch: Sequence[str] | Sequence[TokenIds], start: int
    ) -> None:
        """Raise TextTooLong if one is: the engine's own complaint does not say which."""
        limit = self.max_model_len or await engine.max_model_len() or 0
        for index, item in enumerate(batch, start):
            tokens = await engine.count_tokens(item) if isinstance(item, str) else len(item)
            if tokens > limit:
                raise TextTooLong(index, tokens, limit)


# Each error by the status it becomes; the first that fits, so that the special come first.
_STATUS: tuple[tuple[type[ServeError], int], ...] = (
    (ModelUnknown, 404),
    (RequestTooLarge, 413),
    (PromptTooLong, 400),
    (RequestError, 400),
    (EngineTimeout, 504),
    (Busy, 503),
    (EngineRefused, 502),
    # A connection that breaks is an engine that has ended: it is being started again.
    (EngineError, 503),
)


def status_of(error: ServeError) -> int:
    """Return the HTTP status of *error*."""
    return next((status for kind, status in _STATUS if isinstance(error, kind)), 500)


@web.middleware
async def _errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Every error in the envelope that OpenAI's clients read."""
    try:
        return await handler(request)
    except TextTooLong as error:
        return web.Response(status=400, body=too_long_body(error), content_type="application/json")
    except ServeError as error:
        status = status_of(error)
        if status >= 500:
            log.warning("embedding failed", status=status, error=str(error))
        return _error(status, str(error), "model" if isinstance(error, ModelUnknown) else None)
    except web.HTTPRequestEntityTooLarge:
        return _error(413, f"the body is larger than {MAX_BODY_BYTES} bytes; send fewer texts")
    except web.HTTPException as error:
        return _error(error.status, f"{request.method} {request.path}: {error.reason}")


def _error(status: int, message: str, param: str | None = None) -> web.Response:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    return web.Response(
        status=status,
        body=error_envelope(status, message, param=param),
        content_type="application/json",
        headers=headers,
    )


def _json(body: bytes) -> web.Response:
    return web.Response(body=body, content_type="application/json")


def engine_session() -> aiohttp.ClientSession:
    """Return a session to an engine on loopback, which asks for no credentials."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0), timeout=aiohttp.ClientTimeout(total=None)
    )
