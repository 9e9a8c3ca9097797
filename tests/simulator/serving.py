"""A simulated replica on a free port, and the bytes it answers with."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp

from servekit.enginesim.calibration import calibration_for
from simulator.replica import ReplicaSpec
from simulator.servers import ReplicaServer

MODEL = "meta-llama/Llama-3.1-8B-Instruct"


class Client:
    """A client of one replica."""

    def __init__(self, session: aiohttp.ClientSession, server: ReplicaServer) -> None:
        self._session = session
        self.server = server

    async def get(self, path: str) -> tuple[int, str]:
        async with self._session.get(self.server.url + path) as response:
            return response.status, await response.text()

    async def post(self, path: str, body: object) -> tuple[int, str]:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        async with self._session.post(self.server.url + path, data=data) as response:
            return response.status, await response.text()

    async def ask(self, path: str, **fields: object) -> Any:
        """Post a request that is to succeed and return the answer's JSON."""
        status, text = await self.post(path, {"model": MODEL, **fields})
        assert status == 200, text
        return json.loads(text)

    async def fault(self, **fields: object) -> None:
        status, text = await self.post("/simulator/fault", fields)
        assert status == 200, text


@asynccontextmanager
async def serving(**changes: Any) -> AsyncIterator[Client]:
    """Serve one replica, 20 times as fast as an H100, for as long as the block runs."""
    settings: dict[str, Any] = {
        "name": "one",
        "model": MODEL,
        "max_model_len": 8192,
        "calibration": calibration_for(MODEL),
        "speed": 20.0,
    }
    server = ReplicaServer(ReplicaSpec(**(settings | changes)), "127.0.0.1", 0)
    await server.start()
    try:
        async with aiohttp.ClientSession() as session:
            yield Client(session, server)
    finally:
        await server.stop()
