"""The HTTP interface: chat whole, streamed and over a WebSocket; OpenAI's passed through."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
import structlog
from fastapi import FastAPI, Request, Response, WebSocket
from fastapi.responses import StreamingResponse
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import HTTPConnection

from chat_backend.access import AccessMiddleware, check_key, read_body, request_id_of, unless_gone
from chat_backend.chat_settings import ChatSettings
from chat_backend.documentation import ERROR_DOCUMENTATION, chat_documentation
from chat_backend.engine import ChatEngine
from chat_backend.failures import RETRY_AFTER_S, HttpProblem, KeyMissing, failure_of
from chat_backend.limits import RateLimit, TrustedProxies
from chat_backend.messages import ChatQuestion, read_chat_request
from chat_backend.metrics import CONTENT_TYPE, ChatMetrics
from chat_backend.socket_chat import SocketChat
from chat_backend.turns import AnswerDelta, AnswerEnd, Turns
from servekit.errors.tree import ServeError
from servekit.wire.openai import error_envelope

log = structlog.get_logger()

ItemT = TypeVar("ItemT")

_EVENT_STREAM = "text/event-stream; charset=utf-8"
# nginx would hold back a stream until its buffer is full.
_STREAM_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}

# Policy violation: RFC 6455, section 7.4.1.
_WS_REFUSED = 1008


class ChatApi:
    """The routes, over one engine."""

    def __init__(
        self,
        settings: ChatSettings,
        *,
        now: Callable[[], float],
        on_ready: Callable[[], None] = lambda: None,
    ) -> None:
        self._settings = settings
        self._telemetry = ChatMetrics()
        self._limit = RateLimit(settings.rate_limit_per_minute)
        self._trusted = TrustedProxies(settings.trusted_proxies)
        self._now = now
        self._on_ready = on_ready
        self._engine = ChatEngine(settings)
        self._turns = Turns(self._engine, self._telemetry, settings, now)

    def application(self) -> FastAPI:
        app = FastAPI(title="servekit chat backend", version="1", lifespan=self._lifespan)
        add = app.add_api_route
        add("/chat", self._chat, methods=["POST"], **chat_documentation(self._settings))
        add("/health", self._health, methods=["GET"])
        add("/ready", self._ready, methods=["GET"], responses={503: {"description": "No model"}})
        add("/metrics", self._metrics, methods=["GET"], include_in_schema=False)
        for path in ("/v1/chat/completions", "/v1/completions"):
            add(path, self._relay, methods=["POST"], include_in_schema=False)
        add("/v1/models", self._relay, methods=["GET"], responses=ERROR_DOCUMENTATION)
        app.add_api_websocket_route("/chat/ws", self._converse)
        app.add_exception_handler(ServeError, self._told)
        app.add_exception_handler(HTTPException, self._told_by_starlette)
        app.add_exception_handler(Exception, self._told)
        app.add_middleware(
            CORSMiddleware,
            allow_origins=list(self._settings.cors_origins),
            allow_methods=["GET", "POST"],
            allow_headers=["Authorization", "Content-Type", "X-Request-Id"],
            expose_headers=["Retry-After", "X-Request-Id"],
        )
        app.add_middleware(AccessMiddleware, telemetry=self._telemetry, now=self._now)
        return app

    @asynccontextmanager
    async def _lifespan(self, _: FastAPI) -> AsyncIterator[None]:
        async with self._engine:
            self._on_ready()
            yield

    # Chat.

    async def _chat(self, request: Request) -> Response:
        """Answer one message: as JSON, or as server-sent events with `"stream": true`."""
        self._admit(request)
        body = await read_body(request, self._settings.max_body_bytes)
        asked = read_chat_request(body, self._settings)
        request_id = request_id_of(request)
        if not asked.stream:
            whole = self._turns.whole(asked, request_id)
            return _json(200, await unless_gone(request, whole))
        pieces = self._turns.pieces(asked, request_id)
        # What fails before the first piece can still be told by a status.
        first = await unless_gone(request, _first(pieces))
        return StreamingResponse(
            _events(first, pieces, request_id), media_type=_EVENT_STREAM, headers=_STREAM_HEADERS
        )

    async def _converse(self, websocket: WebSocket) -> None:
        try:
            self._check_origin(websocket)
            self._admit(websocket)
        except ServeError as error:
            await websocket.close(_WS_REFUSED, str(error))
            return
        await websocket.accept(subprotocol=_chosen_protocol(websocket))
        await SocketChat(
            websocket,
            self._turns,
            lambda text: self._read_limited(websocket, text),
            request_id_of(websocket),
        ).run()

    def _read_limited(self, websocket: WebSocket, text: str) -> ChatQuestion:
        self._take_from_limit(websocket)
        return read_chat_request(text, self._settings)

    def _admit(self, connection: HTTPConnection) -> None:
        check_key(connection, self._settings.api_keys)
        if connection.scope["type"] == "http":
            self._take_from_limit(connection)

    def _take_from_limit(self, connection: HTTPConnection) -> None:
        self._limit.take(self._person(connection), self._now())

    def _person(self, connection: HTTPConnection) -> str:
        """Whom a request is counted for: the login that a proxy vouches for, or the address."""
        peer = connection.client.host if connection.client else ""
        trusted = self._trusted
        login = connection.headers.get(self._settings.user_header) if peer in trusted else None
        return login or trusted.client_of(peer, connection.headers.getlist("x-forwarded-for"))

    def _check_origin(self, websocket: WebSocket) -> None:
        """A browser sends no preflight for a WebSocket, so any page could open one.

        Raises:
            KeyMissing: the page is neither ours nor in CORS_ORIGINS.
        """
        origin = websocket.headers.get("origin")
        if origin is None or "*" in self._settings.cors_origins:
            return
        ours = urlsplit(origin).netloc == websocket.headers.get("host")
        if not ours and origin not in self._settings.cors_origins:
            raise KeyMissing(f"{origin} may not connect; add it to CORS_ORIGINS")

    # OpenAI's interface.

    async def _relay(self, request: Request) -> Response:
        """Pass a request to the engine and its answer back, byte for byte."""
        self._admit(request)
        body = None
        if request.method == "POST":
            body = await read_body(request, self._settings.max_body_bytes)
        answer = self._relayed(request, body)
        status, kind = await unless_gone(request, _first(answer))
        return StreamingResponse(
            _pieces_of(answer), int(status), {**_STREAM_HEADERS, "Content-Type": kind.decode()}
        )

    async def _relayed(
        self, request: Request, body: bytes | None
    ) -> AsyncGenerator[tuple[bytes, bytes], None]:
        """Give status and content type, then the pieces of the body."""
        path = request.url.path
        async with self._engine.send(request.method, path, body, request_id_of(request)) as answer:
            kind = answer.headers.get("Content-Type", "application/json")
            yield str(answer.status).encode(), kind.encode()
            async for piece in answer.content.iter_any():
                yield b"", piece

    # About ourselves.

    async def _health(self) -> Response:
        """Whether this process serves; the engine may be down."""
        return _json(200, {"status": "healthy"})

    async def _ready(self) -> Response:
        """Whether a chat would be answered: the engine lists the model."""
        if await self._engine.serves():
            return _json(200, {"status": "ready"})
        return _json(503, {"status": "waiting for the model"}, {"Retry-After": str(RETRY_AFTER_S)})

    async def _metrics(self) -> Response:
        return Response(self._telemetry.exposition(), media_type=CONTENT_TYPE)

    async def _told(self, request: Request, error: Exception) -> Response:
        failure = failure_of(error)
        if failure.status >= 500:
            log.warning("failed", code=failure.code, request_id=request_id_of(request))
        return _failure(request, failure)

    async def _told_by_starlette(self, request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        code = {404: "not_found", 405: "method_not_allowed"}.get(status, "refused")
        answer = _failure(request, HttpProblem(status, code, getattr(error, "detail", str(error))))
        answer.headers.update(getattr(error, "headers", None) or {})
        return answer


def _failure(request: Request, failure: HttpProblem) -> Response:
    """Tell a failure in the words of the interface that was used."""
    if request.url.path.startswith("/v1/"):
        body = error_envelope(failure.status, failure.message)
        return Response(body, failure.status, failure.headers, "application/json")
    return _json(failure.status, failure.reply(request_id_of(request)), failure.headers)


async def _first(pieces: AsyncGenerator[ItemT, None]) -> ItemT:
    return await anext(pieces)


def _json(status: int, value: object, headers: dict[str, str] | None = None) -> Response:
    return Response(msgspec.json.encode(value), status, headers, "application/json")


async def _events(
    first: AnswerDelta | AnswerEnd,
    rest: AsyncGenerator[AnswerDelta | AnswerEnd, None],
    request_id: str,
) -> AsyncIterator[bytes]:
    async with aclosing(rest):
        try:
            yield _event(first)
            async for piece in rest:
                yield _event(piece)
        except ServeError as error:
            # The status has gone out; what is left is to say so in the stream.
            reply = failure_of(error).reply(request_id)
            yield b"event: error\ndata: " + msgspec.json.encode(reply) + b"\n\n"


def _event(piece: AnswerDelta | AnswerEnd) -> bytes:
    name = b"event: done\n" if isinstance(piece, AnswerEnd) else b""
    return name + b"data: " + msgspec.json.encode(piece) + b"\n\n"


async def _pieces_of(answer: AsyncGenerator[tuple[bytes, bytes], None]) -> AsyncIterator[bytes]:
    async with aclosing(answer):
        async for _, piece in answer:
            yield piece


def _chosen_protocol(websocket: WebSocket) -> str | None:
    """Choose what was offered besides the key: a browser gives up where nothing is chosen."""
    offered = websocket.headers.get("sec-websocket-protocol", "").split(",")
    return "chat" if "chat" in [name.strip() for name in offered] else None
