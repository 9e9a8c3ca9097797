"""An engine, a backend before it, and a client."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from simulator.servers import ReplicaServer
from tests.chat_backend.services import backend, simulated_engine


@pytest.fixture
async def engine() -> AsyncIterator[ReplicaServer]:
    async with simulated_engine() as running:
        yield running


@pytest.fixture
async def url(engine: ReplicaServer) -> AsyncIterator[str]:
    async with backend(engine.url) as address:
        yield address


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as session:
        yield session
