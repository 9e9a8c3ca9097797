"""What goes wrong, and how it is told: status, code, advice, and always a request id."""

import io
import json
from typing import Any

import aiohttp
import pytest

from chat_backend.failures import failure_of
from servekit.errors.tree import EngineRefused, EngineTimeout, ServeError, StreamCut
from servekit.launch.port import free_port
from servekit.wire.sse import SseDecoder
from simulator.servers import ReplicaServer
from tests.chat_backend.services import backend, simulated_engine


async def told(http: aiohttp.ClientSession, url: str, **request: Any) -> tuple[int, str, Any]:
    async with http.post(url + "/chat", **request) as response:
        error = (await response.json())["error"]
        assert error["request_id"] == response.headers["X-Request-Id"]
        return response.status, error["code"], response.headers


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        (b"{", 400, "not_json"),
        (b"\xff\xfe", 400, "not_json"),
        (b"[]", 422, "field_invalid"),
        (b"{}", 422, "field_invalid"),
        (b'{"message": ""}', 422, "field_invalid"),
        (b'{"message": 7}', 422, "field_invalid"),
        (b'{"message": "a", "max_tokens": 0}', 422, "field_invalid"),
        (b'{"message": "a", "max_tokens": 999999}', 422, "field_invalid"),
        (b'{"message": "a", "temperature": 9}', 422, "field_invalid"),
        (b'{"message": "a", "history": [{"role": "king", "content": ""}]}', 422, "field_invalid"),
        (b'{"message": "' + b"a" * 20_000 + b'"}', 413, "too_long"),
        (b'{"message": "' + b"a" * 2_000_000 + b'"}', 413, "too_long"),
    ],
)
async def test_a_request_that_is_none_is_refused(
    http: aiohttp.ClientSession, url: str, body: bytes, status: int, code: str
) -> None:
    """By what is wrong with it, and the engine never hears of it."""
    assert (await told(http, url, data=io.BytesIO(body)))[:2] == (status, code)


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_is_down_is_unavailable(
    http: aiohttp.ClientSession, stream: bool
) -> None:
    """503 with a time to come back, not 500: it loads, or is being replaced."""
    async with backend(f"http://127.0.0.1:{free_port()}") as url:
        status, code, headers = await told(http, url, json={"message": "a", "stream": stream})

    assert (status, code, headers["Retry-After"]) == (503, "engine_unavailable", "5")


async def test_an_engine_that_is_full_is_busy(http: aiohttp.ClientSession) -> None:
    """The engine's own 503 becomes ours."""
    async with simulated_engine() as engine, backend(engine.url) as url:
        fault = {"kind": "errors", "status": 503}
        await http.post(engine.url + "/simulator/fault", json=fault)

        status, code, headers = await told(http, url, json={"message": "a"})

    assert (status, code, headers["Retry-After"]) == (503, "engine_busy", "5")


@pytest.mark.parametrize("stream", [False, True])
async def test_an_engine_that_is_silent_times_out(
    http: aiohttp.ClientSession, engine: ReplicaServer, stream: bool
) -> None:
    """After REQUEST_TIMEOUT_S without a byte; also once headers have come."""
    await http.post(engine.url + "/simulator/fault", json={"kind": "stall", "seconds": 30})
    async with backend(engine.url, request_timeout_s=0.2) as url:
        status, code, _ = await told(http, url, json={"message": "a", "stream": stream})

    assert (status, code) == (504, "engine_timeout")


async def test_an_answer_that_breaks_off_says_so(
    http: aiohttp.ClientSession, url: str, engine: ReplicaServer
) -> None:
    """The status has gone out by then, so the stream ends with an error event."""
    fault = {"kind": "die-mid-stream", "after_tokens": 3}
    await http.post(engine.url + "/simulator/fault", json=fault)
    asked = {"message": "a", "max_tokens": 50, "stream": True}

    async with http.post(url + "/chat", json=asked) as response:
        events = SseDecoder().feed(await response.read())

    assert events[0].kind == "message"
    assert events[-1].kind == "error"
    assert json.loads(events[-1].data)["error"]["code"] == "answer_cut"


async def test_a_prompt_that_the_model_cannot_hold_is_too_long(
    http: aiohttp.ClientSession, engine: ReplicaServer
) -> None:
    """The engine counts tokens; its refusal is the caller's 413, in the engine's words."""
    async with backend(engine.url, max_message_chars=10_000_000, max_body_bytes=10_000_000) as url:
        status, code, _ = await told(http, url, json={"message": "a" * 800_000})

    assert (status, code) == (413, "too_long")


async def test_a_key_is_asked_for_where_there_are_keys(
    http: aiohttp.ClientSession, engine: ReplicaServer
) -> None:
    """None and a wrong one are refused alike; health stays open for probes."""
    async with backend(engine.url, api_keys=("right", "also")) as url:
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "Basic right"}):
            assert (await told(http, url, json={"message": "a"}, headers=headers))[0] == 401
        right = {"Authorization": "Bearer also"}
        async with http.post(url + "/chat", json={"message": "a"}, headers=right) as accepted:
            assert accepted.status == 200
        async with http.get(url + "/v1/models") as refused:
            assert refused.status == 401
        async with http.get(url + "/health") as open_to_all:
            assert open_to_all.status == 200


async def test_too_many_requests_are_told_when_to_come_back(
    http: aiohttp.ClientSession, engine: ReplicaServer
) -> None:
    """The third of two a minute waits half a minute."""
    async with backend(engine.url, rate_limit_per_minute=2) as url:
        for _ in range(2):
            async with http.post(url + "/chat", json={"message": "a"}) as accepted:
                assert accepted.status == 200

        status, code, headers = await told(http, url, json={"message": "a"})

    assert (status, code) == (429, "rate_exceeded")
    assert 25 <= int(headers["Retry-After"]) <= 31


async def test_openai_clients_read_errors_in_their_own_envelope(
    http: aiohttp.ClientSession,
) -> None:
    """What we refuse under /v1 looks as if the engine had."""
    async with (
        backend(f"http://127.0.0.1:{free_port()}") as url,
        http.post(url + "/v1/completions", data=b"{}") as response,
    ):
        error = (await response.json())["error"]

    assert (response.status, error["type"]) == (503, "ServiceUnavailableError")


async def test_an_unknown_path_is_told_in_the_same_shape(
    http: aiohttp.ClientSession, url: str
) -> None:
    """And makes no metric of its own."""
    async with http.get(url + "/wp-admin") as response:
        error = (await response.json())["error"]

    assert (response.status, error["code"]) == (404, "not_found")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (EngineRefused("bad key", status=401), 502),
        (EngineRefused("no such model", status=404), 502),
        (EngineRefused("boom", status=500), 502),
        (EngineRefused("stop must be a string", status=400), 422),
        (EngineTimeout("late"), 504),
        (StreamCut("cut"), 502),
        (ServeError("?"), 500),
        (ValueError("a bug"), 500),
    ],
)
def test_an_engines_refusal_is_blamed_on_who_can_mend_it(error: Exception, status: int) -> None:
    """Ours and the engine's are 5xx; only what the caller wrote is 4xx."""
    assert failure_of(error).status == status


def test_a_bug_says_nothing_of_itself() -> None:
    """Its text may hold a prompt or a path."""
    assert "secret" not in failure_of(ValueError("secret")).message
