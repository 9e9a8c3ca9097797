import asyncio
from typing import Any

import aiohttp
import numpy as np
import pytest

from modal_embedding.client.backends import Busy
from modal_embedding.messages.vectors import as_vectors, normalised
from modal_embedding.server.api import EmbeddingApi, status_of
from modal_embedding.server.embedding_server import EmbeddingServer
from servekit.errors.tree import (
    EngineError,
    EngineExited,
    EngineTimeout,
    ModelUnknown,
    PromptTooLong,
    RequestInvalid,
    ServeError,
)
from servekit.timing.clock import SystemClock
from tests.support.modal_engine import stand_in_engine, vector_of
from tests.support.modal_front import fronted_engine, no_plan, serving, small_settings
from tests.support.waiting import until


async def post(url: str, body: object, **headers: str) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(headers=headers) as session,
        session.post(f"{url}/v1/embeddings", json=body) as answer,
    ):
        return answer.status, await answer.json()


def rows(answer: Any) -> list[list[float]]:
    return [row["embedding"] for row in answer["data"]]


async def test_texts_become_vectors_in_order() -> None:
    """Also when they were several batches to the engine."""
    texts = [f"text {number}" for number in range(11)]
    async with stand_in_engine() as engine:
        settings = small_settings(engine_url=engine.url, engine_batch_size=2)
        async with serving(settings) as (url, _):
            status, answer = await post(url, {"model": "tiny", "input": texts})

    assert status == 200
    assert [row["index"] for row in answer["data"]] == list(range(11))
    assert np.allclose(rows(answer), [vector_of(text) for text in texts], atol=1e-6)
    assert answer["usage"] == {"prompt_tokens": 22, "total_tokens": 22}
    assert answer["model"] == "tiny"
    assert max(len(body["input"]) for body in engine.requests) == 2


async def test_vectors_are_cut_and_brought_to_length_one() -> None:
    """The engine is asked for whole vectors; the cut is ours, and the same for every engine."""
    async with fronted_engine() as (url, engine):
        _, answer = await post(url, {"input": ["a", "b"], "dimensions": 4})

    expected = normalised(as_vectors([vector_of(text) for text in ("a", "b")])[:, :4])
    assert np.allclose(rows(answer), expected, atol=1e-6)
    assert "dimensions" not in engine.requests[-1]


async def test_queries_get_their_instruction_and_documents_none() -> None:
    """By the type of the input, or by an instruction of the caller's."""
    async with fronted_engine() as (url, engine):
        await post(url, {"input": "why", "input_type": "query"})
        await post(url, {"input": "why", "instruction": "Sort"})
        await post(url, {"input": "why", "input_type": "document"})

    asked = [body["input"][0] for body in engine.requests[-3:]]
    assert asked[0].startswith("Instruct: Given a query")
    assert asked[1:] == ["Instruct: Sort \n Query: why", "why"]


async def test_tokens_are_passed_on() -> None:
    """Clients that count tokens send them instead of text."""
    async with fronted_engine() as (url, engine):
        status, answer = await post(url, {"input": [[1, 2, 3], [4]]})

    assert status == 200
    assert engine.requests[-1]["input"] == [[1, 2, 3], [4]]
    assert answer["usage"]["prompt_tokens"] == 4


async def test_an_empty_list_is_refused() -> None:
    """As OpenAI refuses it; the engine is not asked."""
    async with fronted_engine() as (url, engine):
        asked_before = len(engine.requests)
        status, answer = await post(url, {"model": "tiny", "input": []})

    assert status == 400
    assert "there are no texts" in answer["error"]["message"]
    assert len(engine.requests) == asked_before


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"input": ""}, 400, "text 0 is empty"),
        ({"input": ["a", 3]}, 400, "text 1 is of type int"),
        ({"input": "a", "dimensions": 5}, 400, "use one of 4, 8, 16"),
        ({"input": "a", "encoding_format": "hex"}, 400, "encoding_format"),
        ({"input": "a", "model": "other"}, 404, "this is 'tiny'"),
        ({"input": ["a"] * 9}, 413, "send at most 8"),
        ({"input": [[1]], "input_type": "query"}, 400, "tokens take no instruction"),
        ({"model": "tiny"}, 400, "input"),
        ([], 400, "object"),
    ],
)
async def test_what_cannot_be_served_is_told_in_openais_envelope(
    body: object, status: int, message: str
) -> None:
    """With the status that says whose fault it is."""
    async with fronted_engine(max_inputs=8) as (url, _):
        seen, answer = await post(url, body)

    assert seen == status
    assert message in answer["error"]["message"]
    assert answer["error"]["code"] == status


async def test_a_text_that_is_too_long_is_named_with_both_counts() -> None:
    """Its index in the request, though the engine saw it in its third batch."""
    texts = ["a", "b", "c", "d", "e", "word " * 150, "f"]
    async with stand_in_engine() as engine:
        settings = small_settings(engine_url=engine.url, engine_batch_size=2)
        async with serving(settings) as (url, _):
            status, answer = await post(url, {"input": texts})

    assert status == 400
    error = answer["error"]
    assert (error["index"], error["tokens"], error["max_model_len"]) == (5, 150, 100)
    assert error["message"].startswith("text 5 has 150 tokens and the model reads 100")


async def test_too_many_tokens_are_named_too() -> None:
    """They need not be counted by the engine."""
    async with fronted_engine() as (url, _):
        status, answer = await post(url, {"input": [[1], [1] * 101]})

    assert (status, answer["error"]["index"], answer["error"]["tokens"]) == (400, 1, 101)


@pytest.mark.parametrize("header", ["", "Bearer wrong", "Basic secret", "secret", "Bearer "])
async def test_without_the_key_there_is_no_answer(header: str) -> None:
    """Neither to embeddings, nor to anything else but /health."""
    async with stand_in_engine() as engine:
        settings = small_settings(engine_url=engine.url)
        async with (
            serving(settings, key="secret") as (url, _),
            aiohttp.ClientSession(headers={"Authorization": header}) as session,
        ):
            status, answer = await post(url, {"input": "a"}, Authorization=header)
            others = [(await session.get(url + path)).status for path in ("/v1/models", "/metrics")]
            health = (await session.get(url + "/health")).status

    assert status == 401
    assert "Authorization: Bearer" in answer["error"]["message"]
    assert (others, health) == ([401, 401], 200)


async def test_the_key_opens_and_goes_no_further() -> None:
    """The engine never sees it."""
    async with fronted_engine(key="secret") as (url, engine):
        status, _ = await post(url, {"input": "a"}, Authorization="Bearer secret")

    assert status == 200
    assert set(engine.authorizations) == {""}


@pytest.mark.parametrize(
    "path", ["/sleep", "/wake_up", "/die", "/collective_rpc", "/v1/../sleep", "/v1/embeddings/x"]
)
async def test_routes_of_the_engine_are_not_ours(path: str) -> None:
    """What puts an engine to sleep or runs code in it cannot be reached through us."""
    async with fronted_engine() as (url, engine):
        before = list(engine.calls)
        async with aiohttp.ClientSession() as session:
            answer = await session.post(url + path)
            error = await answer.json()

    assert answer.status == 404
    assert error["error"]["code"] == 404
    assert engine.calls == before


async def test_about_the_model_and_the_engine() -> None:
    """What it is called, what it counts, and how its start went."""
    async with (
        stand_in_engine() as engine,
        serving(small_settings(engine_url=engine.url)) as (url, _),
        aiohttp.ClientSession() as session,
    ):
        models = await (await session.get(f"{url}/v1/models")).json()
        metrics = await (await session.get(f"{url}/metrics")).text()
        await post(url, {"input": "a"})
        start = await (await session.get(f"{url}/coldstart")).json()

    assert models["data"][0]["id"] == "tiny"
    assert models["data"][0]["max_model_len"] == 100
    assert metrics.startswith("vllm:num_requests_running")
    assert [stage["name"] for stage in start["made"]] == ["engine", "warm-up"]
    assert start["first_embedding_s"] > 0


async def test_before_the_engine_answers_we_say_so() -> None:
    """A probe sees 503 at /health, and a caller learns when to come again."""
    front = EmbeddingApi(small_settings(), SystemClock())
    server = EmbeddingServer(small_settings(), no_plan(), front, SystemClock())
    try:
        url = await server.listen("127.0.0.1", 0)
        async with aiohttp.ClientSession() as session:
            health = (await session.get(f"{url}/health")).status
            answer = await session.post(f"{url}/v1/embeddings", json={"input": "a"})
    finally:
        await server.close()

    assert (health, answer.status) == (503, 503)
    assert answer.headers["Retry-After"] == "5"


async def test_who_hangs_up_does_not_keep_the_engine_busy() -> None:
    """The batches that were not sent yet are not sent."""
    async with stand_in_engine(delay_s=0.3) as engine:
        settings = small_settings(engine_url=engine.url, engine_batch_size=1)
        async with serving(settings) as (url, _):
            asked = len(engine.requests)
            asking = asyncio.ensure_future(post(url, {"input": ["a"] * 100}))
            await until(lambda: len(engine.requests) > asked)
            asking.cancel()
            await asyncio.gather(asking, return_exceptions=True)
            # The engine finishes what it has; a next round would come while it does.
            await until(lambda: engine.under_way == 0)

            assert len(engine.requests) - asked <= 8


@pytest.mark.parametrize(
    ("refusal", "status"), [(503, 503), (429, 503), (500, 503), (418, 400), (404, 404)]
)
async def test_the_engines_refusals_are_passed_on_as_what_they_are(
    refusal: int, status: int
) -> None:
    """What may pass is 503, so that clients try again."""
    async with fronted_engine() as (url, engine):
        engine.refusals.append(refusal)
        seen, _ = await post(url, {"input": "a"})

    assert seen == status


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (RequestInvalid("x"), 400),
        (PromptTooLong("x"), 400),
        (ModelUnknown("x"), 404),
        (EngineTimeout("x"), 504),
        (Busy("x", status=429), 503),
        (EngineExited("x"), 503),
        (EngineError("x"), 503),
        (ServeError("x"), 500),
    ],
)
def test_each_error_has_one_status(error: ServeError, status: int) -> None:
    """By who must act."""
    assert status_of(error) == status
