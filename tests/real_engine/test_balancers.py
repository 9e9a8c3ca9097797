"""Both load balancers, each in front of two real engines."""

import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from typing import Any

import openai
import pytest

from servekit.wire import routes
from tests.real_engine.engine import GENERATE, Engine
from tests.real_engine.engine_http import endless, get, load_of, open_stream, post, wait_for
from tests.support.programs import program

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]

BALANCERS = ("loadbalancer.baseline", "loadbalancer.managed")


@pytest.fixture(params=BALANCERS)
def balancer(
    request: pytest.FixtureRequest, engine: Engine, second_engine: Engine
) -> Iterator[str]:
    """The URL of a load balancer in front of both engines."""
    endpoints = f"{engine.url},{second_engine.url}"
    with program(request.param, "--endpoints", endpoints, "--port", "0") as announced:
        yield announced["url"]


@pytest.fixture
def client(balancer: str) -> Iterator[openai.OpenAI]:
    """A client that is not ours."""
    with openai.OpenAI(base_url=f"{balancer}/v1", api_key="none", max_retries=0) as client:
        yield client


def running(*engines: Engine) -> int:
    return sum(load_of(engine.url).running or 0 for engine in engines)


def prefilled(engine: Engine) -> int:
    return load_of(engine.url).prompt_tokens or 0


def test_both_engines_get_work(balancer: str, engine: Engine, second_engine: Engine) -> None:
    """Of a dozen requests at once, each engine gets some: its own counter says so."""
    engines = (engine, second_engine)
    before = [prefilled(each) for each in engines]
    body = endless(engine.model, max_tokens=32, stream=False)

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(lambda _: post(f"{balancer}{routes.COMPLETIONS}", body), range(12)))

    wait_for(lambda: all(prefilled(each) > n for each, n in zip(engines, before, strict=True)))


def test_a_stream_is_relayed_as_it_arrives(client: openai.OpenAI, engine: Engine) -> None:
    """An independent client reads text while the engine still generates."""
    with client.completions.create(
        model=engine.model,
        prompt="Requests come in",
        max_tokens=1500,
        stream=True,
        extra_body={"ignore_eos": True},
    ) as stream:
        first = next(iter(stream))

    assert first.model == engine.model
    assert first.choices[0].finish_reason is None


def test_a_client_that_leaves_stops_the_engine(
    balancer: str, engine: Engine, second_engine: Engine
) -> None:
    """Nobody computes tokens that nobody reads."""
    with open_stream(balancer, routes.COMPLETIONS, endless(engine.model)):
        wait_for(lambda: running(engine, second_engine) == 1)

    wait_for(lambda: running(engine, second_engine) == 0)


def test_an_unknown_model_is_an_openai_error(client: openai.OpenAI) -> None:
    """404 in the envelope that OpenAI's clients understand."""
    with pytest.raises(openai.NotFoundError) as refused:
        client.completions.create(model="absent", prompt="hello")

    assert "absent" in refused.value.message


def test_models_are_read_from_the_engines(client: openai.OpenAI, engine: Engine) -> None:
    """What --endpoints serve is what the load balancer lists."""
    assert [model.id for model in client.models.list()] == [engine.model]


def test_a_queue_is_seen(engine: Engine) -> None:
    """More requests than --max-num-seqs wait in the engine, and its metrics say how many."""
    with ExitStack() as streams:
        pool = streams.enter_context(ThreadPoolExecutor(48))
        body = endless(engine.model, max_tokens=400, stream=False)
        answers = [pool.submit(post, f"{engine.url}{routes.COMPLETIONS}", body) for _ in range(48)]
        wait_for(lambda: (load_of(engine.url).waiting or 0) > 0)

    assert all(answer.result()["usage"]["completion_tokens"] == 400 for answer in answers)
    assert load_of(engine.url).waiting == 0


def test_a_shared_prefix_is_found_again(engine: Engine) -> None:
    """A prefix longer than a block (128 tokens on the CPU) is computed once."""
    prefix = [100 + i % 200 for i in range(300)]
    before = load_of(engine.url).prefix_hits

    for tail in (7, 8):
        body: dict[str, Any] = {"model": engine.model, "prompt": [*prefix, tail], "max_tokens": 1}
        post(f"{engine.url}{routes.COMPLETIONS}", body)

    after = load_of(engine.url).prefix_hits
    assert before is not None
    assert after is not None
    assert after - before == 256


@pytest.mark.parametrize("module", BALANCERS)
def test_an_engine_that_is_killed_is_left_out(
    module: str, engine: Engine, start: "partial[Any]"
) -> None:
    """kill -9 of one engine: its stream ends, and every later request is served by the other."""
    with ExitStack() as stack:
        # It is meant to die: its log is no sign of a failure.
        victim: Engine = stack.enter_context(start(GENERATE))
        endpoints = f"{engine.url},{victim.url}"
        started = program(module, "--endpoints", endpoints, "--port", "0")
        url = stack.enter_context(started)["url"]
        body = {"model": engine.model, "prompt": "hello", "max_tokens": 4}
        for _ in range(4):
            post(f"{url}{routes.COMPLETIONS}", body)

        os.killpg(victim.process.pid, signal.SIGKILL)
        victim.process.wait()

        served = [post(f"{url}{routes.COMPLETIONS}", body) for _ in range(8)]
        assert all(answer["usage"]["completion_tokens"] > 0 for answer in served)
        assert get(f"{url}/health")
