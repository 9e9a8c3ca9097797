"""OpenAPI's promises, kept by the running backend: schemathesis sends what the document allows,
and what it does not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
import schemathesis
from hypothesis import assume, given, settings

from simulator.servers import ReplicaServer
from tests.chat_backend.services import backend

# Hundreds of requests, each with its schema: 5 s, and ten times that on a busy machine.
pytestmark = pytest.mark.timeout(300)

OPERATIONS = [("POST", "/chat"), ("GET", "/health"), ("GET", "/ready"), ("GET", "/v1/models")]

# All of them are sent, and answered by the simulated engine.
EXAMPLES = 40


@pytest.fixture
async def unlimited(engine: ReplicaServer) -> AsyncIterator[str]:
    async with backend(engine.url, rate_limit_per_minute=0) as url:
        yield url


# Too long is 413 and not 422, which schemathesis does not expect by itself.
REFUSALS = {"expected-statuses": ["400", "413", "422"]}
CONFIG = schemathesis.Config.from_dict({"checks": {"negative_data_rejection": REFUSALS}})


def documented(url: str) -> schemathesis.BaseSchema:
    return schemathesis.openapi.from_url(f"{url}/openapi.json", config=CONFIG)


def send_examples(url: str, method: str, path: str, mode: schemathesis.GenerationMode) -> None:
    operation = documented(url)[path][method]

    @given(case=operation.as_strategy(generation_mode=mode))
    @settings(max_examples=EXAMPLES)
    def answers_as_documented(case: schemathesis.Case[Any]) -> None:
        # JSON Schema takes 5.0 for an integer; we do not, and nobody sends it.
        sent = case.body if isinstance(case.body, dict) else {}
        assume(not isinstance(sent.get("max_tokens"), float))
        case.call_and_validate(base_url=url)

    answers_as_documented()


async def test_every_operation_is_tried(unlimited: str) -> None:
    """A new one must not go untested."""
    schema = await asyncio.to_thread(documented, unlimited)

    found = {(method.upper(), path) for path in schema for method in schema[path]}
    assert found == set(OPERATIONS)


@pytest.mark.parametrize(("method", "path"), OPERATIONS)
async def test_what_is_allowed_is_answered_as_documented(
    unlimited: str, method: str, path: str
) -> None:
    """Status, content type and body are those of the document; no 5xx."""
    mode = schemathesis.GenerationMode.POSITIVE
    await asyncio.to_thread(send_examples, unlimited, method, path, mode)


async def test_what_is_not_allowed_is_refused_as_documented(unlimited: str) -> None:
    """With a 4xx of the document, never taken and never a 500."""
    mode = schemathesis.GenerationMode.NEGATIVE
    await asyncio.to_thread(send_examples, unlimited, "POST", "/chat", mode)
