"""The second port serves what is listed, to who has the key."""

from typing import Any

import pytest

from cog_predictor.engine.openai_gate import gated
from servekit.secrets.secret import Secret

KEYS = (Secret("one"), Secret("two"))


async def _ask(
    method: str, path: str, key: bytes = b"", keys: tuple[Secret, ...] = KEYS, kind: str = "http"
) -> int:
    """The status; 200 where the request reached the application."""
    statuses: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:  # noqa: ARG001
        await send({"type": "http.response.start", "status": 200})

    async def send(event: Any) -> None:
        if event["type"] == "http.response.start":
            statuses.append(event["status"])

    headers = [(b"authorization", key)] if key else []
    scope = {"type": kind, "method": method, "path": path, "headers": headers}
    await gated(app, keys)(scope, lambda: None, send)  # type: ignore[arg-type, return-value]
    return statuses[0]


@pytest.mark.parametrize(
    "path", ["/v1/chat/completions", "/v1/completions", "/invocations", "/tokenize", "/pooling"]
)
async def test_nothing_about_a_model_is_answered_without_the_key(path: str) -> None:
    """vLLM itself asks below /v1 only."""
    assert await _ask("POST", path) == 401
    assert await _ask("POST", path, b"Bearer wrong") == 401
    assert await _ask("POST", path, b"Bearer \xff") == 401
    assert await _ask("POST", path, b"Bearer one") == 200
    assert await _ask("POST", path, b"bearer two") == 200
    assert await _ask("POST", path, keys=()) == 200


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", "/sleep"), ("POST", "/collective_rpc"), ("POST", "/reset_prefix_cache")),
        *(("GET", "/docs"), ("GET", "/openapi.json"), ("DELETE", "/v1/models"), ("GET", "/server")),
        *(("POST", "/v1/chat/completions/"), ("POST", "//v1/completions"), ("GET", "/v1/../docs")),
    ],
)
async def test_what_is_not_listed_is_not_served(method: str, path: str) -> None:
    """With a key neither."""
    assert await _ask(method, path, b"Bearer one") == 404


async def test_a_kept_response_is_read_and_cancelled() -> None:
    """By its id, with the key."""
    assert await _ask("GET", "/v1/responses/resp_1-a", b"Bearer one") == 200
    assert await _ask("POST", "/v1/responses/resp_1-a/cancel", b"Bearer one") == 200
    assert await _ask("GET", "/v1/responses/resp_1-a") == 401


@pytest.mark.parametrize("path", ["/health", "/metrics", "/version"])
async def test_platforms_ask_without_a_key(path: str) -> None:
    """They have none."""
    assert await _ask("GET", path) == 200


async def test_a_websocket_is_refused() -> None:
    """A realtime session would be a door beside the list."""
    assert await _ask("GET", "/v1/realtime", b"Bearer one", kind="websocket") == 404
