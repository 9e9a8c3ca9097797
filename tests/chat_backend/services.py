"""A backend on a real port, before a simulated engine on another."""

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn

from chat_backend.api import ChatApi
from chat_backend.chat_settings import ChatSettings
from servekit.fleet.fleet import load_fleet
from simulator.servers import ReplicaServer, SimulationSettings, replica_servers

MODEL = "meta-llama/Llama-3.1-8B-Instruct"


@asynccontextmanager
async def simulated_engine(**options: Any) -> AsyncIterator[ReplicaServer]:
    """One engine of the fleet h100, a hundred times as fast."""
    defaults: dict[str, Any] = {"speed": 100.0, "max_in_flight": None}
    engine = replica_servers(
        load_fleet("h100"),
        host="127.0.0.1",
        fixed_ports=False,
        only=MODEL,
        settings=SimulationSettings(**(defaults | options)),
    )[0]
    await engine.start()
    try:
        yield engine
    finally:
        await engine.stop()


@asynccontextmanager
async def backend(engine_url: str, **settings: Any) -> AsyncIterator[str]:
    """Serve the chat before *engine_url*; give its address."""
    chosen = ChatSettings(engine_url=engine_url, model_name=MODEL, **settings)
    api = ChatApi(chosen, now=time.monotonic)
    listening = socket.create_server(("127.0.0.1", 0))
    config = uvicorn.Config(
        api.application(),
        log_config=None,
        proxy_headers=False,
        ws_max_size=chosen.max_body_bytes,
    )
    server = uvicorn.Server(config)
    # Signals are pytest's.
    serving = asyncio.create_task(server._serve([listening]))
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        await serving
