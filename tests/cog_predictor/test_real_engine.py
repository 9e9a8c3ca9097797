"""The predictor with the real vLLM, on a CPU, behind Cog's own server."""

import asyncio
import os
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.cog_predictor.cog_server import CogServer
from tests.cog_predictor.fake_engine import known_args
from tests.cog_predictor.real_server import CONFIG, real_server
from tests.real_engine.engine import READY_TIMEOUT_S
from tests.real_engine.environment import EngineEnvironment, environment_or_skip

pytestmark = [
    pytest.mark.real_engine,
    pytest.mark.timeout(600),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest.fixture(name="vllm", scope="module")
def _vllm() -> EngineEnvironment:
    return environment_or_skip(os.environ)


@pytest_asyncio.fixture(name="server", scope="module", loop_scope="module")
async def _server(
    vllm: EngineEnvironment, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[CogServer]:
    async with real_server(tmp_path_factory.mktemp("cog") / "flat", vllm, CONFIG) as server:
        health = await server.settled(READY_TIMEOUT_S)
        assert health["status"] == "READY", health["setup"]["logs"]
        yield server


async def test_a_greedy_answer_is_the_same_twice(server: CogServer) -> None:
    """The real engine answers, counts and repeats itself."""
    inputs = {"prompt": "Requests come in", "max_tokens": 12, "min_tokens": 12, "temperature": 0}

    _, first = await server.predict(inputs)
    _, second = await server.predict(inputs)

    assert first["status"] == second["status"] == "succeeded"
    assert "".join(first["output"]) == "".join(second["output"]) != ""
    assert first["metrics"]["output_token_count"] == 12
    assert first["metrics"]["input_token_count"] > 3


async def test_a_seed_makes_an_answer_repeat(server: CogServer) -> None:
    """Sampling with one seed gives one answer; 0 is a seed."""
    inputs = {"prompt": "tokens go", "max_tokens": 24, "temperature": 1.5, "seed": 0}

    # How a text is cut into pieces is the engine's timing, not its sampling.
    first, again, other = [
        "".join((await server.predict({**inputs, "seed": seed}))[1]["output"]) for seed in (0, 0, 1)
    ]

    assert first == again
    assert other != first


async def test_templates_change_what_the_engine_reads(server: CogServer) -> None:
    """A named template, a format string and the tokenizer's own are three prompts."""
    counts = [
        (await server.predict({"prompt": "hi", "max_tokens": 1, "prompt_template": template}))[1][
            "metrics"
        ]["input_token_count"]
        for template in ("", "{prompt}", "LLAMA_3_INSTRUCT")
    ]

    assert len(set(counts)) == 3
    assert counts[1] == min(counts)


async def test_a_prompt_beyond_the_context_is_refused_with_both_counts(server: CogServer) -> None:
    """Counted with the model's own tokenizer."""
    _, body = await server.predict({"prompt": "zq " * 3000})

    assert "E1002 PromptTooLong: the prompt has " in body["error"]
    assert "the model takes 2048" in body["error"]


async def test_an_answer_ends_with_the_context(server: CogServer) -> None:
    """max_tokens beyond the room is cut, and is no error."""
    _, body = await server.predict({"prompt": "hi", "max_tokens": 100_000, "min_tokens": 500})

    metrics = body["metrics"]
    assert body["status"] == "succeeded"
    assert metrics["input_token_count"] + metrics["output_token_count"] <= 2048


async def test_thirty_two_run_together_and_one_more_is_refused(server: CogServer) -> None:
    """The batch is the engine's; the bound is Cog's."""
    inputs = {"prompt": "hello", "max_tokens": 600, "min_tokens": 600}
    answers = await asyncio.gather(*(server.predict(inputs) for _ in range(33)))

    statuses = [status for status, _ in answers]
    # A slot is free a moment after its last answer was sent, so that the bound is met from below.
    assert set(statuses) == {200, 409}
    assert 30 <= statuses.count(200) <= 32


async def test_a_cancelled_prediction_is_cancelled(server: CogServer) -> None:
    """And the server goes on."""
    body = {"id": "c1", "input": {"prompt": "hello", "max_tokens": 1900, "min_tokens": 1900}}
    headers = {"Prefer": "respond-async"}
    async with server.session.put(f"{server.url}/predictions/c1", json=body, headers=headers) as a:
        assert a.status == 202
    await asyncio.sleep(0.5)
    async with server.session.post(f"{server.url}/predictions/c1/cancel") as answer:
        assert answer.status == 200

    status, after = await server.predict({"prompt": "hello", "max_tokens": 2})

    assert (status, after["status"]) == (200, "succeeded")
    assert "Prediction cancelled" in (server.folder / "server.log").read_text()


async def test_the_names_of_its_arguments_are_those_that_we_check(vllm: EngineEnvironment) -> None:
    """The capture that the fast tests use is what this vLLM says."""
    script = (
        "import dataclasses as d; from vllm.engine.arg_utils import AsyncEngineArgs as A; "
        "print(*(f.name for f in d.fields(A)))"
    )
    process = await asyncio.create_subprocess_exec(
        str(vllm.python), "-c", script, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    names, _ = await process.communicate()

    assert set(names.decode().split()) == known_args()


async def test_a_value_that_vllm_refuses_is_told_in_the_health(
    vllm: EngineEnvironment, tmp_path: Path
) -> None:
    """The name is right and the value is not: E1200, with what vLLM says."""
    config = {"engine_args": {**CONFIG["engine_args"], "max_model_len": 10**9}}
    async with real_server(tmp_path / "cog", vllm, config) as server:
        health = await server.settled(READY_TIMEOUT_S)

    assert health["status"] == "SETUP_FAILED"
    assert "E1200 VLLMUnknownError: vLLM did not start" in health["setup"]["logs"]
