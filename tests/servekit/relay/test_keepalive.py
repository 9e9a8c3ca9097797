"""Machines that are gone without a word."""

import asyncio
import socket

from servekit.relay import listening, upstream_pool
from servekit.relay.keepalive import BETWEEN_S, IDLE_S, TIMES
from servekit.wire.address import read_address


def watched(own: socket.socket) -> list[int]:
    """Return when the kernel asks after whoever is at the other end, and for how long it waits."""
    options = (
        socket.TCP_KEEPIDLE,
        socket.TCP_KEEPINTVL,
        socket.TCP_KEEPCNT,
        socket.TCP_USER_TIMEOUT,
    )
    alive = own.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
    return [alive, *(own.getsockopt(socket.IPPROTO_TCP, option) for option in options)]


async def test_the_kernel_asks_after_engines_and_clients() -> None:
    """Nobody else can: an engine that reads a long prompt says nothing either."""
    accepted: asyncio.Queue[list[int]] = asyncio.Queue()

    def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.put_nowait(watched(writer.get_extra_info("socket")))
        writer.close()

    own = listening.listen("127.0.0.1", 0)
    server = await asyncio.start_server(serve, sock=own)
    there = upstream_pool.UpstreamPool(
        read_address(f"http://127.0.0.1:{own.getsockname()[1]}"), 5.0
    )

    connection = await there.connect()
    engine = watched(connection.transport.get_extra_info("socket"))
    client = await accepted.get()
    connection.abandon()
    server.close()

    assert engine == [1, IDLE_S, BETWEEN_S, TIMES, 1000 * int(upstream_pool.UNREAD_S)]
    assert client == [1, IDLE_S, BETWEEN_S, TIMES, 1000 * int(listening.UNREAD_S)]
