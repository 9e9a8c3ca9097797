"""What of vLLM's own routes may be asked on the second port, and with which key.  Pure ASGI.

vLLM asks for its key below /v1 and on a few other paths only, and has routes that end, pause or
rewrite an engine.
"""

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from servekit.secrets.secret import Secret
from servekit.wire import routes

# A response that vLLM has kept, by its id; a client may read it, or cancel it.
_RESPONSE = re.compile(r"/v1/responses/[\w-]+")
_CANCEL = re.compile(r"/v1/responses/[\w-]+/cancel")

Scope = MutableMapping[str, Any]
Asgi = Callable[[Scope, Callable[[], Awaitable[Any]], Callable[[Any], Awaitable[None]]], Any]

# Asked by platforms and scrapers, which have no key; they tell nothing of a request.
_OPEN = frozenset({routes.HEALTH, routes.PING, routes.METRICS, routes.VERSION})
_READ = frozenset({*_OPEN, routes.MODELS, routes.LOAD})
_POSTED = frozenset({*routes.API_ROUTES, *routes.MODEL_ROUTES, routes.INVOCATIONS})


def gated(app: Asgi, keys: tuple[Secret, ...]) -> Asgi:
    """Return *app* behind a list of routes, and behind *keys*, any of which opens."""

    async def gate(scope: Scope, receive: Any, send: Any) -> None:
        refused = None if scope["type"] == "lifespan" else _refusal(scope, keys)
        if refused is None:
            await app(scope, receive, send)
        else:
            await _answer(send, *refused)

    return gate


def _refusal(scope: Scope, keys: tuple[Secret, ...]) -> tuple[int, str] | None:
    path, method = str(scope["path"]), str(scope.get("method", ""))
    known = _is_read(path) if method in ("GET", "HEAD") else method == "POST" and _is_posted(path)
    if scope["type"] != "http" or not (known or method == "OPTIONS"):
        return 404, f"{method} {path} is not served"
    if path in _OPEN or method == "OPTIONS" or not keys or _opens(scope, keys):
        return None
    return 401, "no valid API key; send it as `Authorization: Bearer KEY`"


def _is_read(path: str) -> bool:
    return path in _READ or _RESPONSE.fullmatch(path) is not None


def _is_posted(path: str) -> bool:
    return path in _POSTED or _CANCEL.fullmatch(path) is not None


def _opens(scope: Scope, keys: tuple[Secret, ...]) -> bool:
    headers = dict(scope["headers"])
    scheme, _, bearer = headers.get(b"authorization", b"").partition(b" ")
    # Anthropic's clients send theirs without a scheme.
    offered = bearer.strip() if scheme.lower() == b"bearer" else headers.get(b"x-api-key", b"")
    text = offered.decode("utf-8", "surrogateescape")
    # Every key is compared: the time must not tell which one was close.
    return bool(text) and sum(key.matches(text) for key in keys) > 0


async def _answer(send: Any, status: int, message: str) -> None:
    error = {"message": message, "type": "invalid_request_error", "param": None, "code": status}
    body = json.dumps({"error": error}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
