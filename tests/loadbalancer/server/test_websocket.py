"""WebSockets, between the clients and servers of a library that is not ours."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import Server, ServerConnection, serve
from websockets.exceptions import ConnectionClosedError, ConnectionClosedOK, InvalidStatus
from websockets.http11 import Request, Response

from loadbalancer.balancing.balancer import Balancer
from loadbalancer.server.keys import KeyRing
from servekit.routing.load_tracker import ReplicaLoad
from tests.loadbalancer.engine import running
from tests.support.waiting import until

MIB = 1 << 20


class RealtimeEngine:
    """Says back what it hears, in upper case; `die` breaks off, `bye` ends in order."""

    def __init__(self, refuses: int = 0) -> None:
        self.refuses = refuses
        self.requests: list[Request] = []
        self.heard = 0
        self.closed = 0

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        path = request.path.partition("?")[0]
        if path == "/v1/realtime":
            self.requests.append(request)
            return connection.respond(self.refuses, "no\n") if self.refuses else None
        models = json.dumps({"data": [{"id": "m"}]})
        return connection.respond(200, models if path == "/v1/models" else "")

    async def talk(self, connection: ServerConnection) -> None:
        try:
            async for message in connection:
                self.heard += len(message)
                if message == "die":
                    connection.transport.abort()
                    return
                if message == "bye":
                    return
                await connection.send(message.upper())
        finally:
            self.closed += 1


@asynccontextmanager
async def realtime(
    *engines: RealtimeEngine, **rules: Any
) -> AsyncIterator[tuple[Balancer, str, list[Server]]]:
    """Give a balancer over *engines*, the URL of its WebSocket, and the engines' servers."""
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                serve(engine.talk, "127.0.0.1", 0, process_request=engine.answer, max_size=None)
            )
            for engine in engines
        ]
        balancer, port = await stack.enter_async_context(running(**rules))
        for number, server in enumerate(servers):
            at = next(iter(server.sockets)).getsockname()[1]
            balancer.add(f"r{number}", f"http://127.0.0.1:{at}", ("m",))
        yield balancer, f"ws://127.0.0.1:{port}/v1/realtime?model=m", servers


def dial(url: str, **more: Any) -> connect:
    return connect(url, proxy=None, max_size=None, **more)


def in_flight(balancer: Balancer) -> list[int]:
    loads: list[ReplicaLoad] = [replica.load for replica in balancer.replicas.values()]
    return [load.in_flight for load in loads]


async def test_messages_of_every_size_go_both_ways() -> None:
    """And the replica counts as busy for as long."""
    engine = RealtimeEngine()
    async with realtime(engine) as (balancer, url, _):
        async with dial(url) as client:
            for size in (1, 33, 500, 70_000, MIB):
                await client.send("a" * size)
                assert await client.recv() == "A" * size
            assert in_flight(balancer) == [1]
            assert client.response is not None
            assert client.response.headers["x-servekit-replica"] == "r0"
            assert client.response.headers["x-request-id"]
        await until(lambda: in_flight(balancer) == [0])
    assert engine.requests[0].headers["x-forwarded-for"] == "127.0.0.1"
    assert engine.closed == 1


async def test_engine_that_dies_is_no_orderly_end() -> None:
    """The client's loop over messages raises; after an orderly close it just ends."""
    async with realtime(RealtimeEngine()) as (_, url, _servers):
        async with dial(url) as client:
            await client.send("die")
            with pytest.raises(ConnectionClosedError):
                await client.recv()
        async with dial(url) as client:
            await client.send("bye")
            with pytest.raises(ConnectionClosedOK):
                await client.recv()


async def test_engine_that_is_gone_is_not_the_one_that_is_asked() -> None:
    """Before anything is agreed another replica can be."""
    async with realtime(RealtimeEngine()) as (balancer, url, _):
        balancer.add("gone", "http://127.0.0.1:9", ("m",))
        for _ in range(2):
            async with dial(url) as client:
                await client.send("a")
                assert await client.recv() == "A"


async def test_refusal_of_the_engine_is_passed_on() -> None:
    """As the answer that it is."""
    async with realtime(RealtimeEngine(refuses=404)) as (balancer, url, _):
        with pytest.raises(InvalidStatus) as refused:
            async with dial(url):
                pass
        await until(lambda: in_flight(balancer) == [0])

    assert refused.value.response.status_code == 404
    assert refused.value.response.body == b"no\n"


async def test_client_that_leaves_frees_the_engine() -> None:
    """However it leaves."""
    engine = RealtimeEngine()
    async with realtime(engine) as (balancer, url, _):
        client: ClientConnection = await dial(url)
        await client.send("a")
        await client.recv()
        client.transport.abort()
        await until(lambda: engine.closed == 1)
        await until(lambda: in_flight(balancer) == [0])


async def test_engine_that_does_not_read_holds_the_client_back() -> None:
    """What is on its way is bounded, and comes once it does."""
    go = asyncio.Event()
    engine = RealtimeEngine()

    async def slowly(connection: ServerConnection) -> None:
        await go.wait()
        async for message in connection:
            engine.heard += len(message)

    engine.talk = slowly  # type: ignore[method-assign]
    # Compressed, a message of one letter would be none.
    async with realtime(engine) as (_, url, _servers), dial(url, compression=None) as client:
        sent = 0

        async def send() -> None:
            nonlocal sent
            for _ in range(64):
                await client.send(b"x" * MIB)
                sent += 1

        sending = asyncio.create_task(send())
        seen = -1
        while seen != sent:
            seen = sent
            await asyncio.sleep(0.3)
        held_back = sent
        go.set()
        await sending
        await until(lambda: engine.heard == 64 * MIB)
    assert held_back < 50


async def test_stop_waits_for_websockets_and_then_resets_them() -> None:
    """For as long as for any request."""
    async with AsyncExitStack() as stack:
        _, url, _ = await stack.enter_async_context(realtime(RealtimeEngine(), drain_s=0.5))
        client = await dial(url)
        await client.send("a")
        assert await client.recv() == "A"
        closing = asyncio.create_task(stack.aclose())
        await asyncio.sleep(0.1)
        await client.send("b")
        assert await client.recv() == "B"
        with pytest.raises(ConnectionClosedError):
            await client.recv()
        await closing


@pytest.mark.parametrize(
    ("url", "more", "expected"),
    [
        ("", {}, 401),
        ("", {"additional_headers": {"authorization": "Bearer k"}}, 101),
        ("", {"subprotocols": ["realtime", "openai-insecure-api-key.k"]}, 101),
        ("", {"subprotocols": ["realtime", "openai-insecure-api-key.no"]}, 401),
        ("&model=", {"additional_headers": {"authorization": "Bearer k"}}, 101),
        ("x", {"additional_headers": {"authorization": "Bearer k"}}, 404),
        ("", {"additional_headers": {"authorization": "Bearer k"}, "origin": "https://page"}, 403),
    ],
)
async def test_websocket_is_for_clients_with_a_key(
    url: str, more: dict[str, Any], expected: int
) -> None:
    """The engine does not get it; pages of other sites may not connect."""
    engine = RealtimeEngine()
    keys = KeyRing([hashlib.sha256(b"k").hexdigest()])
    async with realtime(engine, keys=keys) as (_, base, _servers):
        try:
            async with dial(base + url, **more):
                status = 101
        except InvalidStatus as refused:
            status = refused.response.status_code

    assert status == expected
    sent = str([list(request.headers.raw_items()) for request in engine.requests]).lower()
    assert "bearer" not in sent
    assert "api-key" not in sent


async def test_path_of_a_websocket_says_what_it_is() -> None:
    """To whom asks without an upgrade."""
    async with realtime(RealtimeEngine()) as (_, url, _servers):
        port = int(url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /v1/realtime HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 426 ")
