"""Listen; check the deadlines of every client connection; drain."""

import asyncio
import socket
from collections.abc import Callable

from servekit.errors.tree import SettingInvalid
from servekit.relay.client_connection import (
    IN_TRANSIT_S,
    ClientConnection,
    ClientSet,
    Handler,
    reset,
)
from servekit.relay.keepalive import enable_keepalive
from servekit.timing.clock import Clock

# How often deadlines are looked at: they are seconds and minutes long.
SWEEP_S = 0.25
# A burst of clients as large as a fleet's batch must fit while one turn of the loop runs.
BACKLOG = 4096

_DRAIN_LOOK_S = 0.05

# A client may stop reading for a while, but an engine should not work for one that is gone.
UNREAD_S = 120.0


class Listener:
    """A listening socket, and the connections of those who came."""

    def __init__(
        self, handler: Handler, clock: Clock, also: Callable[[], None] = lambda: None
    ) -> None:
        """*also* is called whenever deadlines are looked at."""
        self._handler = handler
        self._clock = clock
        self._also = also
        self.clients = ClientSet()
        self._server: asyncio.Server | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """Requests under way (count)."""
        return sum(client.busy for client in self.clients)

    async def start(self, listening: socket.socket) -> None:
        """Serve the clients of *listening*."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(
            lambda: ClientConnection(self._handler, self.clients), sock=listening, backlog=BACKLOG
        )
        self._sweeper = loop.create_task(self._sweep())

    async def drain(self, timeout_s: float, *, linger_s: float = IN_TRANSIT_S) -> int:
        """Wait for what is under way; return how many requests did not end in *timeout_s*.

        The handler says already that it is draining.  New connections are taken for
        *linger_s* more:
        a client that has connected but was not accepted yet would be reset.
        """
        deadline_s = self._clock.now() + timeout_s
        await self._clock.sleep(min(linger_s, timeout_s))
        if self._server is not None:
            self._server.close()
        while self.clients and self._clock.now() < deadline_s:
            for client in list(self.clients):
                client.close_if_idle(self._clock.now())
            await self._clock.sleep(_DRAIN_LOOK_S)
        return self.in_flight

    def close(self) -> None:
        """Cut what is left."""
        if self._server is not None:
            self._server.close()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for client in list(self.clients):
            reset(client.transport)

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP_S)
            now_s = self._handler.now()
            for client in list(self.clients):
                client.check(now_s)
            self._also()


def listen(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Return a socket that is bound to *host*:*port*; port 0 is a free one.

    A *shared* port can be listened on by several processes; the kernel deals out connections.

    Raises:
        SettingInvalid: it cannot be listened on.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listening.bind((host, port))
        enable_keepalive(listening, UNREAD_S)
    except (OSError, OverflowError) as error:
        listening.close()
        why = getattr(error, "strerror", None) or error
        raise SettingInvalid(
            f"cannot listen on {host}:{port}: {why}; free the port or use another"
        ) from error
    listening.setblocking(False)
    return listening
