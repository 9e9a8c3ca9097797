"""The interface of a simulated engine, against what a real one was heard to say."""

import asyncio
import json
from importlib import resources
from typing import Any

import aiohttp
import pytest

from servekit.errors.tree import SettingInvalid
from servekit.wire.openai import read_answer
from servekit.wire.sse import DONE, SseDecoder
from simulator.servers import ReplicaServer
from tests.simulator.serving import MODEL, Client, serving
from tests.support.waiting import until


def _golden_events(name: str) -> list[Any]:
    """Return the events of a captured stream, without the HTTP head."""
    text = (resources.files("tests.golden") / "vllm" / name).read_text()
    decoder = SseDecoder()
    events = decoder.feed(text.split("\n\n", 1)[1].encode())
    return [event.data.decode() for event in events]


def _shape(event: str) -> Any:
    """Return an event with every value that may differ made equal."""
    if event == DONE.decode():
        return event
    return _shaped(json.loads(event))


def _shaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _shaped(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_shaped(item) for item in value]
    return value if value is None or value in ("length", "assistant") else type(value).__name__


async def _events(client: Client, path: str, **fields: object) -> list[str]:
    _, text = await client.post(path, {"model": MODEL, "stream": True, **fields})
    return [event.data.decode() for event in SseDecoder().feed(text.encode())]


@pytest.mark.parametrize(
    ("golden", "path", "ask"),
    [
        ("stream_completions_v0.32.0.txt", "/v1/completions", {"prompt": "a b", "max_tokens": 8}),
        (
            "stream_chat_v0.32.0.txt",
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "hi"}], "max_tokens": 4},
        ),
    ],
)
def test_stream_has_the_shape_of_vllm(golden: str, path: str, ask: dict[str, object]) -> None:
    """Event for event, key for key in order, a stream is vLLM's but for the text."""

    async def stream() -> list[str]:
        async with serving() as client:
            usage = {"include_usage": True}
            return await _events(client, path, **ask, stream_options=usage, ignore_eos=True)

    ours = [_shape(event) for event in asyncio.run(stream())]
    real = [_shape(event) for event in _golden_events(golden)]

    assert json.dumps(ours) == json.dumps(real)


@pytest.mark.parametrize(
    ("golden", "path", "ask"),
    [
        ("answer_completions_v0.32.0.json", "/v1/completions", {"prompt": "a b"}),
        (
            "answer_chat_v0.32.0.json",
            "/v1/chat/completions",
            {"messages": [{"role": "user", "content": "hi"}]},
        ),
    ],
)
def test_whole_answer_has_the_shape_of_vllm(golden: str, path: str, ask: dict[str, object]) -> None:
    """Key for key in order, an answer that is not streamed is vLLM's but for the text."""

    async def answer() -> Any:
        async with serving() as client:
            return await client.ask(path, **ask, max_tokens=3, ignore_eos=True)

    real = json.loads((resources.files("tests.golden") / "vllm" / golden).read_text())

    assert json.dumps(_shaped(asyncio.run(answer()))) == json.dumps(_shaped(real))


def test_usage_counts_token_ids_exactly() -> None:
    """A prompt of token ids has as many tokens as ids; an answer as many as asked for."""

    async def ask() -> Any:
        async with serving() as client:
            return await client.ask(
                "/v1/completions", prompt=list(range(77)), max_tokens=9, ignore_eos=True
            )

    answer = asyncio.run(ask())

    assert answer["usage"]["prompt_tokens"] == 77
    assert answer["usage"]["completion_tokens"] == 9
    assert answer["choices"][0]["finish_reason"] == "length"


def test_several_prompts_get_a_choice_each() -> None:
    """A list of prompts is one request to the client and several to the engine."""

    async def ask() -> Any:
        async with serving() as client:
            return await client.ask("/v1/completions", prompt=["a", "b", "c"], max_tokens=2)

    assert [choice["index"] for choice in asyncio.run(ask())["choices"]] == [0, 1, 2]


def test_without_ignore_eos_the_model_ends_by_itself() -> None:
    """Given room, an answer stops where the model would, and always at the same place."""

    async def ask() -> list[Any]:
        async with serving(speed=200.0) as client:
            return [
                await client.ask("/v1/completions", prompt="Tell me.", max_tokens=8000)
                for _ in range(2)
            ]

    one, two = asyncio.run(ask())

    assert one["choices"][0]["finish_reason"] == "stop"
    assert one["usage"] == two["usage"]


@pytest.mark.parametrize(
    ("path", "body", "status", "words"),
    [
        (
            "/v1/completions",
            {"model": "no", "prompt": "a"},
            404,
            "The model `no` does not exist. Valid aliases: meta",
        ),
        ("/v1/completions", b"{", 400, "not JSON"),
        (
            "/v1/completions",
            {"model": MODEL, "prompt": [1] * 9000},
            400,
            "which exceeds this limit even",
        ),
        (
            "/v1/completions",
            {"model": MODEL, "prompt": [1] * 8000, "max_tokens": 500},
            400,
            "total",
        ),
        (
            "/v1/completions",
            {"model": MODEL, "prompt": "a", "max_tokens": 0},
            400,
            "max_tokens must be at least 1, got 0. (parameter=max_tokens, value=0)",
        ),
        (
            "/v1/completions",
            {"model": MODEL, "prompt": "a", "max_tokens": 9000},
            400,
            "cannot be greater than max_model_len=8192",
        ),
        (
            "/v1/completions",
            {"model": MODEL, "prompt": []},
            400,
            "You must pass at least one prompt",
        ),
        ("/v1/completions", {"model": MODEL, "prompt": [-1]}, 400, "token id"),
        ("/v1/chat/completions", {"model": MODEL, "messages": []}, 400, "at least one"),
        ("/v1/nothing", {}, 404, "Not Found"),
        ("/simulator/fault", {"kind": "flood"}, 400, "invalid fault"),
        ("/simulator/fault", {"kind": "stall"}, 400, "needs seconds"),
    ],
)
def test_bad_requests_are_answered_as_vllm_does(
    path: str, body: object, status: int, words: str
) -> None:
    """The status and the words that clients of vLLM look for."""

    async def ask() -> tuple[int, str]:
        async with serving() as client:
            return await client.post(path, body)

    assert asyncio.run(ask())[0] == status
    assert words in asyncio.run(ask())[1]


def test_full_queue_answers_503() -> None:
    """Beyond --max-num-queued-reqs a request is turned away before any byte of a stream."""

    async def ask() -> list[int]:
        async with serving(max_in_flight=2, speed=1.0) as client:
            asks = [
                client.post(
                    "/v1/completions",
                    {"model": MODEL, "prompt": "a", "max_tokens": 20, "stream": True},
                )
                for _ in range(5)
            ]
            return sorted(status for status, _ in await asyncio.gather(*asks))

    assert asyncio.run(ask()) == [200, 200, 503, 503, 503]


def test_client_that_leaves_frees_the_engine() -> None:
    """A closed connection aborts the request, as in vLLM."""

    async def leave() -> int:
        async with serving(speed=1.0) as client:
            body = {"model": MODEL, "prompt": "a", "max_tokens": 8000, "ignore_eos": True}
            task = asyncio.create_task(client.post("/v1/completions", body))
            engine = client.server.replica.engine
            await until(lambda: engine.in_flight)
            task.cancel()
            await until(lambda: engine.idle)
            return engine.counters.aborted

    assert asyncio.run(leave()) == 1


def test_shared_prefix_hits_the_cache() -> None:
    """The second request of a prefix finds it, and /metrics says so."""

    async def ask() -> str:
        async with serving() as client:
            for tail in (1, 2):
                prompt = [*range(160), tail]
                await client.ask("/v1/completions", prompt=prompt, max_tokens=1)
            return (await client.get("/metrics"))[1]

    assert "vllm:prefix_cache_hits_total" in asyncio.run(ask())
    assert any(
        line.startswith("vllm:prefix_cache_hits_total") and line.endswith(" 160.0")
        for line in asyncio.run(ask()).split("\n")
    )


def test_sleeping_engine_serves_after_it_wakes() -> None:
    """Sleep drops the KV cache and stops serving; waking serves again."""

    async def nap() -> tuple[str, str, Any]:
        async with serving() as client:
            await client.post("/sleep?level=1", b"")
            asleep = (await client.get("/is_sleeping"))[1]
            metrics = (await client.get("/metrics"))[1]
            await client.post("/wake_up", b"")
            return asleep, metrics, await client.ask("/v1/completions", prompt="a", max_tokens=1)

    asleep, metrics, answer = asyncio.run(nap())

    assert json.loads(asleep) == {"is_sleeping": True}
    assert 'sleep_state="weights_offloaded"} 1.0' in metrics
    assert read_answer(json.dumps(answer).encode()).choices


def test_port_in_use_is_named() -> None:
    """One line that says which replica, which port and what to do."""

    async def twice() -> None:
        async with serving() as client:
            port = int(client.server.url.rsplit(":", 1)[1])
            await ReplicaServer(client.server.spec, "127.0.0.1", port).start()

    with pytest.raises(SettingInvalid, match="cannot listen on"):
        asyncio.run(twice())


def test_stream_breaks_where_it_was_told_to() -> None:
    """die-mid-stream cuts the connection after the given token, without an end."""

    async def ask() -> bytes:
        async with serving() as client, aiohttp.ClientSession() as session:
            await client.fault(kind="die-mid-stream", after_tokens=3)
            body = {"model": MODEL, "prompt": "a", "max_tokens": 50, "stream": True}
            heard = b""
            with pytest.raises(aiohttp.ClientError):
                async with session.post(
                    client.server.url + "/v1/completions", json=body | {"ignore_eos": True}
                ) as response:
                    async for piece in response.content.iter_any():
                        heard += piece
            return heard

    assert asyncio.run(ask()).count(b"data: ") == 3


def test_faults_end_by_themselves_or_when_told() -> None:
    """Errors are answered while the fault lasts, and tokens after it."""

    async def ask() -> list[int]:
        async with serving() as client:
            body = {"model": MODEL, "prompt": "a", "max_tokens": 1}
            statuses = []
            await client.fault(kind="errors", status=500)
            statuses.append((await client.post("/v1/completions", body))[0])
            await client.fault(kind="none")
            statuses.append((await client.post("/v1/completions", body))[0])
            await client.fault(kind="drain", seconds=0.05)
            statuses.append((await client.post("/v1/completions", body))[0])
            statuses.append((await client.get("/health"))[0])
            assert await _until(client, reachable=True)
            statuses.append((await client.post("/v1/completions", body))[0])
            return statuses

    assert asyncio.run(ask()) == [500, 200, 503, 503, 200]


def test_metrics_can_lie_and_go_missing() -> None:
    """A lie replaces the gauges it names; dropped metrics are an error, not zeros."""

    async def ask() -> tuple[str, int]:
        async with serving() as client:
            await client.fault(kind="lie-in-metrics", running=99, waiting=7)
            text = (await client.get("/metrics"))[1]
            await client.fault(kind="drop-metrics")
            return text, (await client.get("/metrics"))[0]

    text, status = asyncio.run(ask())

    assert f'num_requests_running{{engine="0",model_name="{MODEL}"}} 99.0' in text
    assert status == 500


async def _until(client: Client, *, reachable: bool) -> bool:
    """Whether the port is open, or refuses, within ten seconds."""
    for _ in range(2000):
        try:
            found = (await client.get("/health"))[0] == 200
        except aiohttp.ClientConnectionError:
            found = False
        if found == reachable:
            return True
        await asyncio.sleep(0.005)
    return False


def test_slow_start_refuses_connections_and_forgets_everything() -> None:
    """A restarted engine is not there for a while, and then it is new."""

    async def restart() -> int:
        async with serving() as client:
            await client.ask("/v1/completions", prompt="a", max_tokens=1)
            await client.fault(kind="slow-start", seconds=0.1)
            assert await _until(client, reachable=False)
            assert await _until(client, reachable=True)
            return client.server.replica.engine.counters.finished

    assert asyncio.run(restart()) == 0


def test_stall_delays_tokens_and_keeps_connections() -> None:
    """While it lasts nothing comes; afterwards the answer is whole."""

    async def ask() -> tuple[float, Any]:
        loop = asyncio.get_running_loop()
        async with serving() as client:
            await client.fault(kind="stall", seconds=0.15)
            start = loop.time()
            answer = await client.ask("/v1/completions", prompt="a", max_tokens=2)
            return loop.time() - start, answer

    seconds, answer = asyncio.run(ask())

    assert seconds >= 0.14
    assert answer["usage"]["completion_tokens"] == 2
