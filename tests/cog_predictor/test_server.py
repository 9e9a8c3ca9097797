"""The predictor behind Cog's own server."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from tests.cog_predictor.cog_server import CogServer, cog_server, flat_folder
from tests.cog_predictor.fake_engine import SLOW_TOKEN_S
from tests.support.file_server import file_server
from tests.support.model_archive import model_files, tar, write_model
from tests.support.waiting import until
from tests.support.web_server import web_server

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(name="server", scope="module", loop_scope="module")
async def _server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[CogServer]:
    """One server for every test that leaves it as it was."""
    folder = flat_folder(tmp_path_factory.mktemp("cog"))
    model = write_model(folder / "model")
    async with cog_server(folder, weights=str(model)) as server:
        assert (await server.settled())["status"] == "READY"
        yield server


async def test_a_prediction_comes_with_its_metrics(server: CogServer) -> None:
    """Text in pieces, tokens counted on both sides, and times."""
    status, body = await server.predict({"prompt": "one two", "max_tokens": 3, "seed": 0})

    assert status == 200
    assert body["status"] == "succeeded"
    assert "".join(body["output"]) == "one two one "
    metrics = body["metrics"]
    assert metrics["input_token_count"] == 2
    assert metrics["output_token_count"] == 3
    assert 0 <= metrics["time_to_first_token"] <= metrics["predict_time"]
    assert metrics["tokens_per_second"] > 0


async def test_a_seed_of_zero_is_a_seed(server: CogServer) -> None:
    """0 is honoured; leaving the seed away draws one."""
    await server.predict({"prompt": "zero", "max_tokens": 1, "seed": 0})

    assert "start 1 0 zero" in server.engine_log()


@pytest.mark.parametrize(
    ("inputs", "says"),
    [
        ({"temperature": 9}, "maximum"),
        ({"temperature": -0.1}, "minimum"),
        ({"top_p": 0}, "minimum"),
        ({"top_p": 1.5}, "maximum"),
        ({"top_k": -2}, "minimum"),
        ({"max_tokens": 0}, "minimum"),
        ({"min_tokens": -1}, "minimum"),
        ({"presence_penalty": 3}, "maximum"),
        ({"frequency_penalty": -3}, "minimum"),
        ({"seed": -1}, "minimum"),
        ({"max_tokens": "many"}, "integer"),
        ({"prompt": 7}, "string"),
    ],
)
async def test_an_input_out_of_bounds_is_answered_422(
    server: CogServer, inputs: dict[str, object], says: str
) -> None:
    """The schema holds the bounds, and the answer names the input."""
    before = server.engine_log()

    status, body = await server.predict({"prompt": "hi", **inputs})

    assert status == 422
    (detail,) = body["detail"]
    assert detail["loc"] == ["body", "input", next(iter(inputs))]
    assert says in detail["msg"]
    assert server.engine_log() == before


@pytest.mark.parametrize(
    ("inputs", "error"),
    [
        ({}, "E1001 PromptRequired: the prompt is blank"),
        ({"prompt": " \n"}, "E1001 PromptRequired"),
        (
            {"prompt": "w " * 99},
            "E1002 PromptTooLong: the prompt has 99 tokens and the model takes 64",
        ),
        ({"prompt": "hi", "prompt_template": "no"}, "E1003 BadPromptTemplate"),
        ({"prompt": "hi", "prompt_template": "{prompt} {x}"}, "E1004 PromptTemplateError"),
        ({"prompt": "hi", "prompt_template": "{prompt} {"}, "E1004 PromptTemplateError"),
        ({"prompt": "hi", "min_tokens": 9, "max_tokens": 3}, "E1101 InvalidArgumentMinTokens"),
        ({"prompt": "hi", "seed": 2**63}, "seed is 9.22337e+18; it is between 0 and"),
        ({"prompt": "hi", "top_k": 2**31}, "E1000 GenericError: top_k is 2.14748e+09"),
        ({"prompt": "hi", "json_schema": "{"}, "json_schema is not JSON"),
        ({"prompt": "hi", "json_schema": "[]"}, "json_schema is []; it is a JSON object"),
    ],
)
async def test_a_bad_request_fails_with_its_code_before_the_engine_sees_it(
    server: CogServer, inputs: dict[str, object], error: str
) -> None:
    """What the caller must correct costs no step of the engine."""
    before = server.engine_log()

    status, body = await server.predict(inputs)

    assert (status, body["status"]) == (200, "failed")
    assert error in body["error"]
    assert server.engine_log() == before


async def test_an_integer_may_be_written_with_a_point(server: CogServer) -> None:
    """JSON has one kind of number: 3.0 is 3, and reaches the engine as that."""
    inputs = {"prompt": "point", "max_tokens": 3.0, "seed": 7.0, "top_k": 5.0, "min_tokens": 1.0}

    _, body = await server.predict(inputs)

    assert body["status"] == "succeeded", body["error"]
    assert "start 3 7 point" in server.engine_log()


async def test_a_mistake_inside_has_a_code_too(server: CogServer) -> None:
    """Nothing leaves without one."""
    _, body = await server.predict({"prompt": "stumble"})

    assert "E1000 GenericError: KeyError: 'stumbled'" in body["error"]


async def test_what_the_engine_refuses_is_told(server: CogServer) -> None:
    """The engine's own refusal is a failed prediction, and no end of the server."""
    _, body = await server.predict({"prompt": "refuse"})

    assert "E1000 GenericError: vLLM refuses the request: it was told to" in body["error"]


async def test_thirty_two_predictions_run_at_once_and_one_more_is_refused(
    server: CogServer,
) -> None:
    """The 33rd is told so at once, with 409; the others are not disturbed."""
    started = len(server.engine_log())
    slow = {"prompt": "slow", "max_tokens": 20}
    tasks = [asyncio.create_task(server.predict(slow)) for _ in range(32)]
    await until(lambda: len(server.engine_log()) == started + 32)

    status, body = await server.predict({"prompt": "hi"})
    answers = await asyncio.gather(*tasks)

    assert (status, body["status"]) == (409, "failed")
    assert {answer[0] for answer in answers} == {200}
    assert {len(answer[1]["output"]) for answer in answers} == {20}
    # One after the other they would take 32 s.
    assert max(answer[1]["metrics"]["predict_time"] for answer in answers) < 16.0


async def test_cancelling_a_prediction_aborts_it_in_the_engine(server: CogServer) -> None:
    """A prediction that nobody waits for takes no more of the engine."""
    aborts = server.engine_log().count("abort")
    inputs = {"prompt": "slow cancel-me", "max_tokens": 60}
    async with server.session.put(
        f"{server.url}/predictions/p1",
        json={"id": "p1", "input": inputs},
        headers={"Prefer": "respond-async"},
    ) as answer:
        assert answer.status == 202
    await until(lambda: any("cancel-me" in line for line in server.engine_log()))

    async with server.session.post(f"{server.url}/predictions/p1/cancel") as answer:
        assert answer.status == 200

    await until(lambda: server.engine_log().count("abort") == aborts + 1)
    status, body = await server.predict({"prompt": "after", "max_tokens": 1})
    assert (status, body["status"]) == (200, "succeeded")


async def test_an_asynchronous_prediction_reports_to_its_webhook(server: CogServer) -> None:
    """202 at once; the result comes by POST."""
    received: list[dict[str, Any]] = []

    async def hook(request: web.Request) -> web.Response:
        received.append(await request.json())
        return web.Response()

    app = web.Application()
    app.router.add_post("/hook", hook)
    body = {
        "input": {"prompt": "hi", "max_tokens": 2},
        "webhook_events_filter": ["completed"],
    }

    async with web_server(app) as hooked:
        async with server.session.post(
            f"{server.url}/predictions",
            json={**body, "webhook": f"{hooked}/hook"},
            headers={"Prefer": "respond-async"},
        ) as answer:
            assert answer.status == 202
        await until(lambda: any(item["status"] == "succeeded" for item in received))

    assert "".join(received[-1]["output"]) == "hi hi "
    assert received[-1]["metrics"]["output_token_count"] == 2


async def _events(
    server: CogServer, inputs: Mapping[str, object]
) -> list[tuple[float, str, dict[str, Any]]]:
    """Seconds, kind and data of every server-sent event of a prediction."""
    events = []
    start = time.monotonic()
    async with server.session.post(
        f"{server.url}/predictions",
        json={"input": inputs},
        headers={"Accept": "text/event-stream"},
    ) as answer:
        assert answer.status == 200
        kind = ""
        async for line in answer.content:
            field, _, value = line.decode().strip().partition(": ")
            if field == "event":
                kind = value
            elif field == "data":
                events.append((time.monotonic() - start, kind, json.loads(value)))
    return events


async def test_a_stream_of_events_tells_the_whole_story(server: CogServer) -> None:
    """start, then output piece by piece, then completed."""
    events = await _events(server, {"prompt": "a b c", "max_tokens": 3})

    kinds = [kind for _, kind, _ in events]
    assert kinds[0] == "start"
    assert kinds[-1] == "completed"
    assert kinds.count("output") == 3
    assert events[-1][2]["status"] == "succeeded"


async def test_outputs_of_an_async_runner_still_arrive_all_at_the_end(server: CogServer) -> None:
    """Cog 0.23 collects an async generator before it sends anything.

    The day this fails, Cog streams: rejoice, and change "Streaming" in the predictor's README.
    """
    events = await _events(server, {"prompt": "slow", "max_tokens": 20})

    times = [at for at, kind, _ in events if kind == "output"]
    assert times[-1] - times[0] < 20 * SLOW_TOKEN_S / 2


async def test_the_schema_is_served(server: CogServer) -> None:
    """Clients build their forms from it."""
    async with server.session.get(f"{server.url}/openapi.json") as answer:
        schema = await answer.json()

    properties = schema["components"]["schemas"]["Input"]["properties"]
    assert properties["max_tokens"]["default"] == 512


async def _setup(
    folder: Path, weights: str | None, config: Mapping[str, object] | None = None
) -> dict[str, Any]:
    async with cog_server(flat_folder(folder, config=config), weights=weights) as server:
        return await server.settled()


@pytest.mark.parametrize(
    ("weights", "config", "error"),
    [
        (None, None, "E1000 GenericError: no weights are given; set COG_WEIGHTS"),
        ("/no/such/folder", None, "E1000 GenericError: the weights folder '/no/such/folder'"),
        ("ftp://bucket/m.tar", None, "E1000 GenericError: weights 'ftp://bucket/m.tar'"),
        ("model", {"engine_args": {"quantization": "broken"}}, "E1200 VLLMUnknownError: vLLM did"),
        ("model", {"engine_args": {"max_model_length": 9}}, "did you mean 'max_model_len'?"),
        ("model", {"engine_args": {"max_model_length": 9}}, "E1201 UnexpectedEngineArg: engine"),
        ("model", {"engine_args": [1]}, "E1202 InvalidPredictorConfig: "),
        ("model", {"engine_arg": {}}, "E1202 InvalidPredictorConfig: "),
        ("model", {"prompt_template": "{% if %}"}, "E1202 InvalidPredictorConfig: prompt_template"),
    ],
)
async def test_a_setup_that_failed_is_shown_in_the_health(
    tmp_path: Path, weights: str | None, config: dict[str, object] | None, error: str
) -> None:
    """Whoever deployed it reads the code and the remedy without looking for a log."""
    write_model(tmp_path / "cog/model")

    health = await _setup(tmp_path / "cog", weights, config)

    assert health["status"] == "SETUP_FAILED"
    assert error in health["setup"]["logs"]


async def test_a_server_is_starting_until_the_engine_answered(tmp_path: Path) -> None:
    """Health is not ready before the first answer; a prediction is refused until then."""
    folder = flat_folder(tmp_path / "cog", config={"engine_args": {"shutdown_timeout": 1}})
    model = write_model(folder / "model")
    async with cog_server(folder, weights=str(model)) as server:
        starting = (await server.health())["status"]
        status, _ = await server.predict({"prompt": "hi"})
        ready = await server.settled()

    assert starting == "STARTING"
    assert status == 503
    assert ready["status"] == "READY"
    assert server.engine_log()[0].startswith("start 3 ")


async def test_a_dead_engine_ends_the_server(tmp_path: Path) -> None:
    """The caller is told, and then the process ends, so that the platform starts another."""
    folder = flat_folder(tmp_path / "cog")
    model = write_model(folder / "model")
    async with cog_server(folder, weights=str(model)) as server:
        await server.settled()
        _, body = await server.predict({"prompt": "die"})
        await asyncio.wait_for(server.process.wait(), 20.0)

    assert "E1200 VLLMUnknownError: the engine is gone" in body["error"]


async def test_weights_are_downloaded_once_for_all_starts(tmp_path: Path) -> None:
    """Two starts of the real server: the first downloads, the second makes no request."""
    folder = flat_folder(tmp_path / "cog")
    counts = []
    async with file_server({"/m/model.tar": tar(model_files())}) as files:
        for _ in range(2):
            async with cog_server(folder, weights=f"{files.url}/m/model.tar") as server:
                assert (await server.settled())["status"] == "READY"
            counts.append(len(files.requests))

    assert counts == [2, 2]


async def test_the_old_names_still_work(tmp_path: Path) -> None:
    """A cog.yaml that says `predict: "predict.py:Predictor"` gets the same model."""
    folder = flat_folder(tmp_path / "cog")
    (folder / "fake_predict.py").write_text(
        "from predict import Predictor as Shipped\n"
        "from tests.cog_predictor.fake_engine import import_fake\n"
        "class Predictor(Shipped):\n"
        "    import_engine = staticmethod(import_fake)\n"
    )
    model = write_model(folder / "model")
    async with cog_server(folder, weights=str(model), runner="fake_predict.py:Predictor") as server:
        await server.settled()
        status, body = await server.predict({"prompt": "hi", "max_tokens": 2})

    assert status == 200
    assert body["output"] == ["hi ", "hi "]


async def test_a_runner_takes_one_at_a_time_where_it_is_told_to(tmp_path: Path) -> None:
    """Concurrency is the server's to bound: it reads COG_MAX_CONCURRENCY."""
    folder = flat_folder(tmp_path / "cog")
    model = write_model(folder / "model")
    async with cog_server(folder, weights=str(model), concurrency=1) as server:
        await server.settled()
        started = len(server.engine_log())
        slow = asyncio.create_task(server.predict({"prompt": "slow", "max_tokens": 20}))
        await until(lambda: len(server.engine_log()) > started)
        status, _ = await server.predict({"prompt": "hi"})
        assert (await slow)[0] == 200

    assert status == 409


async def test_a_server_that_is_asked_to_end_ends(tmp_path: Path) -> None:
    """SIGTERM is answered with an end, and exit code 0."""
    folder = flat_folder(tmp_path / "cog")
    model = write_model(folder / "model")
    async with cog_server(folder, weights=str(model)) as server:
        await server.settled()
        server.process.terminate()

        assert await asyncio.wait_for(server.process.wait(), 20.0) == 0
        with pytest.raises(aiohttp.ClientError):
            await server.health()
