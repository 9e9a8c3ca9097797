"""Request id, API key, body limit, metrics and log line of an HTTP request.  I/O: ASGI."""

import asyncio
import re
import secrets
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import structlog
from starlette.requests import HTTPConnection, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from chat_backend.failures import ClientGone, KeyMissing
from chat_backend.metrics import ChatMetrics
from servekit.errors.tree import RequestTooLarge

log = structlog.get_logger()

ResultT = TypeVar("ResultT")

# What we take from a caller into our logs.
_USABLE_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")


def request_id_of(connection: HTTPConnection) -> str:
    """Return the id that this request has in logs, answers and at the engine."""
    state = connection.scope.setdefault("state", {})
    if "request_id" not in state:
        given = connection.headers.get("x-request-id", "")
        state["request_id"] = given if _USABLE_ID.fullmatch(given) else secrets.token_hex(8)
    found: str = state["request_id"]
    return found


def check_key(connection: HTTPConnection, keys: Sequence[str]) -> None:
    """Let a request pass that carries one of *keys*; with no keys, every request.

    A browser cannot set headers on a WebSocket; there the key may be a subprotocol: "bearer.KEY".

    Raises:
        KeyMissing: it does not.
    """
    if not keys:
        return
    scheme, _, given = connection.headers.get("authorization", "").partition(" ")
    offered = [given.strip()] if scheme.lower() == "bearer" else []
    protocols = connection.headers.get("sec-websocket-protocol", "").split(",")
    offered += [name.strip().removeprefix("bearer.") for name in protocols if "bearer." in name]
    for key in offered:
        if any(secrets.compare_digest(key.encode(), known.encode()) for known in keys):
            return
    raise KeyMissing("no valid key; send one as 'Authorization: Bearer KEY'")


async def read_body(request: Request, limit: int) -> bytes:
    """Return the body, reading no more than *limit* bytes.

    Raises:
        RequestTooLarge: it is longer.
    """
    body = bytearray()
    async for piece in request.stream():
        body += piece
        if len(body) > limit:
            raise RequestTooLarge(f"the body is larger than {limit} bytes; send less")
    return bytes(body)


async def unless_gone(request: Request, work: Coroutine[Any, Any, ResultT]) -> ResultT:
    """Return the result of *work*, and cancel it when the client closes the connection.

    The body must have been read.

    Raises:
        ClientGone: the client left first.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_left(request))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone("the client closed the connection")
    finally:
        leaving.cancel()
        working.cancel()
        # What the work holds, a connection to the engine, is let go of before we go on.
        await asyncio.gather(working, leaving, return_exceptions=True)


async def _left(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


class AccessMiddleware:
    """Counts and logs each request, and returns its id in a header.  Buffers nothing."""

    def __init__(self, app: ASGIApp, telemetry: ChatMetrics, now: Callable[[], float]) -> None:
        self._app = app
        self._telemetry = telemetry
        self._now = now

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = self._now()
        request_id = request_id_of(HTTPConnection(scope))
        # 499, as in nginx: the client closed the connection before the response.
        status = 499

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"].append((b"x-request-id", request_id.encode()))
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            self._count(scope, status, self._now() - began, request_id)

    def _count(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        # The pattern, not the path: a path is the caller's, and each would make a series.
        route = scope.get("route")
        endpoint = getattr(route, "path", None) or "unknown"
        self._telemetry.answered(scope["method"], endpoint, status, seconds)
        if endpoint not in ("/health", "/ready", "/metrics"):
            log.info(
                "answered",
                endpoint=endpoint,
                status=status,
                seconds=round(seconds, 4),
                request_id=request_id,
            )
