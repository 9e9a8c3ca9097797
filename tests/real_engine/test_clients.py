"""Our client and an independent one, each against the engine itself."""

import asyncio

import openai
import pytest

from servekit.client.client import Client
from servekit.timing.clock import SystemClock
from servekit.wire.openai import ChatRequest, CompletionRequest, Message, StreamOptions
from tests.real_engine.engine import Engine
from tests.real_engine.engine_http import load_of, wait_for

pytestmark = [pytest.mark.real_engine, pytest.mark.timeout(600)]


async def test_our_client_counts_what_the_engine_counts(engine: Engine) -> None:
    """Token counts are the engine's own, and the first text comes before the last."""
    client = Client(engine.url, SystemClock())
    request = CompletionRequest(
        model=engine.model,
        prompt=[5, 6, 7, 8],
        max_tokens=24,
        ignore_eos=True,
        stream=True,
        stream_options=StreamOptions(include_usage=True),
    )

    outcome = await client.complete(request)
    await client.aclose()

    assert outcome.error is None
    assert (outcome.prompt_tokens, outcome.completion_tokens) == (4, 24)
    assert outcome.first_content_s is not None
    assert outcome.sent_s < outcome.first_content_s <= outcome.end_s


async def test_our_client_says_what_the_engine_refused(engine: Engine) -> None:
    """A model that is not served is an outcome, not an exception."""
    client = Client(engine.url, SystemClock())

    outcome = await client.chat(
        ChatRequest(model="absent", messages=[Message("user", "hello")], max_tokens=2)
    )
    await client.aclose()

    assert outcome.error == "http 404"
    assert "absent" in outcome.detail


async def test_a_request_that_our_client_cancels_ends_in_the_engine(engine: Engine) -> None:
    """Leaving closes the connection, and the engine stops working on it."""
    client = Client(engine.url, SystemClock())
    request = CompletionRequest(
        model=engine.model, prompt="on and on", max_tokens=1900, ignore_eos=True, stream=True
    )
    task = asyncio.create_task(client.complete(request))
    await asyncio.to_thread(wait_for, lambda: load_of(engine.url).running == 1)

    task.cancel()

    await asyncio.to_thread(wait_for, lambda: load_of(engine.url).running == 0)
    await client.aclose()


def test_openai_package_streams_a_chat(engine: Engine) -> None:
    """Chunks of one answer, and the usage in the end."""
    with openai.OpenAI(base_url=f"{engine.url}/v1", api_key="none") as client:
        chunks = list(
            client.chat.completions.create(
                model=engine.model,
                messages=[{"role": "user", "content": "hello"}],
                max_tokens=12,
                stream=True,
                stream_options={"include_usage": True},
                extra_body={"ignore_eos": True},
            )
        )

    assert len({chunk.id for chunk in chunks}) == 1
    assert chunks[-1].usage is not None
    assert chunks[-1].usage.completion_tokens == 12
