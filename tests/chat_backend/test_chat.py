"""Chat over HTTP, before a simulated engine: whole, streamed, passed through."""

import asyncio
import io
import json

import aiohttp
import pytest

from servekit.wire.sse import SseDecoder, SseEvent
from simulator.servers import ReplicaServer
from tests.chat_backend.services import MODEL, backend
from tests.support.waiting import until


async def events_of(response: aiohttp.ClientResponse) -> list[SseEvent]:
    decoder = SseDecoder()
    return decoder.feed(await response.read())


async def metric(http: aiohttp.ClientSession, url: str, line: str) -> float:
    """Return the value of the sample *line*, or 0."""
    async with http.get(url + "/metrics") as response:
        text = await response.text()
    values = [row.rpartition(" ")[2] for row in text.splitlines() if row.startswith(line + " ")]
    return float(values[0]) if values else 0.0


async def test_a_message_is_answered(http: aiohttp.ClientSession, url: str) -> None:
    """As it always was: `message` in, `response` out; 100 tokens unless told otherwise."""
    async with http.post(url + "/chat", json={"message": "Hello"}) as response:
        reply = await response.json()

    assert response.status == 200
    assert reply["response"]
    assert 0 < reply["usage"]["completion_tokens"] <= 100
    assert reply["request_id"] == response.headers["X-Request-Id"]


async def test_a_streamed_answer_is_the_whole_answer(http: aiohttp.ClientSession, url: str) -> None:
    """The pieces together are what the same message gets in one."""
    asked = {"message": "Hello", "max_tokens": 20}
    async with http.post(url + "/chat", json=asked) as response:
        whole = await response.json()

    async with http.post(url + "/chat", json={**asked, "stream": True}) as response:
        *pieces, done = await events_of(response)

    assert response.content_type == "text/event-stream"
    assert len(pieces) > 1
    assert "".join(json.loads(piece.data)["delta"] for piece in pieces) == whole["response"]
    assert done.kind == "done"
    assert json.loads(done.data)["usage"] == whole["usage"]


async def test_earlier_turns_reach_the_engine(http: aiohttp.ClientSession, url: str) -> None:
    """A conversation costs the engine more prompt tokens than its last message."""
    turns = [
        {"role": "user", "content": "Who was Ada?"},
        {"role": "assistant", "content": "A poet's daughter."},
    ]
    prompt_tokens = []
    for history in ([], turns):
        async with http.post(url + "/chat", json={"message": "And?", "history": history}) as answer:
            prompt_tokens.append((await answer.json())["usage"]["prompt_tokens"])

    assert prompt_tokens[1] > prompt_tokens[0] + 5


async def test_tokens_are_counted_as_the_engine_counts_them(
    http: aiohttp.ClientSession, url: str
) -> None:
    """Whole and streamed alike, from usage; not from the words of the text."""
    written = 0
    for stream in (False, True):
        asked = {"message": "Count", "max_tokens": 17, "stream": stream}
        async with http.post(url + "/chat", json=asked) as response:
            raw = await response.read()
        last = raw if not stream else SseDecoder().feed(raw)[-1].data
        written += json.loads(last)["usage"]["completion_tokens"]

    assert await metric(http, url, "llama_tokens_generated_total") == written
    assert await metric(http, url, 'llama_chat_requests_total{status="success"}') == 2
    answered = 'http_requests_total{endpoint="/chat",method="POST",status="200"}'
    assert await metric(http, url, answered) == 2


async def test_a_caller_who_leaves_frees_the_engine(
    http: aiohttp.ClientSession, url: str, engine: ReplicaServer
) -> None:
    """Nobody pays for tokens that nobody reads."""
    await http.post(engine.url + "/simulator/fault", json={"kind": "slow", "factor": 2000})
    asked = {"message": "Tell me all", "max_tokens": 2000, "stream": True}
    response = await http.post(url + "/chat", json=asked)
    assert engine.replica.engine.in_flight == 1

    response.close()

    await until(lambda: engine.replica.engine.in_flight == 0)
    assert await metric(http, url, "llama_chat_streams") == 0


LEAVING = {
    "whole": ("/chat", {"message": "Tell me all", "max_tokens": 2000}),
    "streamed": ("/chat", {"message": "Tell me all", "max_tokens": 2000, "stream": True}),
    "passed through": (
        "/v1/chat/completions",
        {"model": MODEL, "messages": [{"role": "user", "content": "a"}], "max_tokens": 2000},
    ),
}


@pytest.mark.parametrize("way", LEAVING)
async def test_a_caller_who_leaves_before_the_first_token_frees_the_engine(
    http: aiohttp.ClientSession, url: str, engine: ReplicaServer, way: str
) -> None:
    """Within a second, however the answer was to come; and it counts as 499."""
    await http.post(engine.url + "/simulator/fault", json={"kind": "slow", "factor": 100_000})
    path, asked = LEAVING[way]
    waiting = [asyncio.create_task(http.post(url + path, json=asked)) for _ in range(6)]
    await until(lambda: engine.replica.engine.in_flight == 6)

    for task in waiting:
        task.cancel()

    await until(lambda: engine.replica.engine.in_flight == 0, timeout_s=1.0)
    left = f'http_requests_total{{endpoint="{path}",method="POST",status="499"}}'
    assert await metric(http, url, left) == 6


def long_talk(turns: int, length: int) -> list[dict[str, str]]:
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": f"{n} " + "a" * length} for n in range(turns)]


@pytest.mark.parametrize("stream", [False, True])
async def test_a_long_conversation_goes_on_without_its_oldest_turns(
    http: aiohttp.ClientSession, url: str, stream: bool
) -> None:
    """And says how many the model was not given."""
    asked = {"message": "And?", "history": long_talk(40, 1000), "stream": stream, "max_tokens": 5}

    async with http.post(url + "/chat", json=asked) as response:
        raw = await response.read()

    assert response.status == 200
    end = json.loads(SseDecoder().feed(raw)[-1].data if stream else raw)
    # 11 of 1003 characters fit in 12,000; the first must be the user's.
    assert end["dropped_turns"] == 30


@pytest.mark.parametrize("stream", [False, True])
async def test_turns_that_the_model_cannot_hold_are_dropped_too(
    http: aiohttp.ClientSession, engine: ReplicaServer, stream: bool
) -> None:
    """Characters are not tokens: the engine counts, and is asked again with half the history."""
    async with backend(engine.url, max_message_chars=10_000_000, max_body_bytes=5_000_000) as url:
        history = long_talk(16, 10_000)
        asked = {"message": "And?", "history": history, "stream": stream, "max_tokens": 5}
        body = io.BytesIO(json.dumps(asked).encode())
        async with http.post(url + "/chat", data=body) as response:
            raw = await response.read()

    assert response.status == 200, raw
    end = json.loads(SseDecoder().feed(raw)[-1].data if stream else raw)
    assert 0 < end["dropped_turns"] < 16


async def test_openai_clients_are_passed_through(
    http: aiohttp.ClientSession, url: str, engine: ReplicaServer
) -> None:
    """Status, type and bytes are the engine's own, refusals too."""
    async with http.get(url + "/v1/models") as ours, http.get(engine.url + "/v1/models") as theirs:
        assert await ours.read() == await theirs.read()
    asked = {"model": MODEL, "messages": [{"role": "user", "content": "Hi"}], "stream": True}

    async with http.post(url + "/v1/chat/completions", json=asked) as response:
        events = await events_of(response)
    async with http.post(url + "/v1/completions", json={**asked, "model": "other"}) as refused:
        refusal = await refused.json()

    assert events[-1].data == b"[DONE]"
    assert refused.status == 404
    assert "other" in refusal["error"]["message"]


async def test_a_callers_request_id_is_kept(http: aiohttp.ClientSession, url: str) -> None:
    """One that could forge a log line is replaced."""
    async with http.get(url + "/health", headers={"X-Request-Id": "mine-1"}) as kept:
        assert kept.headers["X-Request-Id"] == "mine-1"
    async with http.get(url + "/health", headers={"X-Request-Id": 'a" b'}) as replaced:
        assert replaced.headers["X-Request-Id"] != 'a" b'


async def test_ready_means_that_the_model_is_listed(
    http: aiohttp.ClientSession, engine: ReplicaServer
) -> None:
    """Healthy says only that this process serves."""
    async with backend(engine.url) as url, http.get(url + "/ready") as ready:
        assert ready.status == 200
    async with (
        backend("http://127.0.0.1:9") as url,
        http.get(url + "/ready") as waiting,
        http.get(url + "/health") as healthy,
    ):
        assert (waiting.status, waiting.headers["Retry-After"]) == (503, "5")
        assert healthy.status == 200


@pytest.mark.parametrize(
    ("origin", "allowed"), [("https://chat.example", True), ("https://evil.example", False)]
)
async def test_browsers_of_other_origins_need_leave(
    http: aiohttp.ClientSession, engine: ReplicaServer, origin: str, allowed: bool
) -> None:
    """By CORS_ORIGINS."""
    asking = {"Origin": origin, "Access-Control-Request-Method": "POST"}
    async with (
        backend(engine.url, cors_origins=("https://chat.example",)) as url,
        http.options(url + "/chat", headers=asking) as response,
    ):
        answered = response.headers.get("Access-Control-Allow-Origin")

    assert answered == (origin if allowed else None)
