"""Listen; check the deadlines of every client connection; drain."""

import asyncio
import socket
import ssl
from collections.abc import Callable

from servekit.errors.tree import SettingInvalid
from servekit.relay.client_connection import (
    IN_TRANSIT_S,
    ClientConnection,
    ClientSet,
    Handler,
    RelayedRequest,
)
from servekit.relay.http2 import make_connection
from servekit.relay.keepalive import enable_keepalive
from servekit.relay.tls import HTTP2, ServerTls
from servekit.timing.clock import Clock

# How often deadlines are looked at: they are seconds and minutes long.
SWEEP_S = 0.25
# A burst of clients as large as a fleet's batch must fit while one turn of the loop runs.
BACKLOG = 4096

_DRAIN_LOOK_S = 0.05

# A handshake is two round trips, and a moment of a busy client's time.
HANDSHAKE_S = 10.0

# Where accepting fails, something has to end first.
ACCEPT_AGAIN_S = 0.1

# A client may stop reading for a while, but an engine should not work for one that is gone.
UNREAD_S = 120.0


class Listener:
    """A listening socket, and the connections of those who came."""

    def __init__(
        self,
        handler: Handler,
        clock: Clock,
        also: Callable[[], None] = lambda: None,
        tls: ServerTls | None = None,
        *,
        http2: bool = False,
    ) -> None:
        """*also* is called whenever deadlines are looked at; *tls*: what clients have to speak;
        *http2*: whether they may speak that too."""
        self._handler = handler
        self._clock = clock
        self._also = also
        self._tls = tls
        self.clients = ClientSet()
        if http2:
            self.clients.make_http2 = make_connection
        self._server: asyncio.Server | None = None
        self._accepting: asyncio.Task[None] | None = None
        self._sweeper: asyncio.Task[None] | None = None

    @property
    def in_flight(self) -> int:
        """Requests under way (count)."""
        return sum(client.requests for client in self.clients)

    async def start(self, listening: socket.socket) -> None:
        """Serve the clients of *listening*."""
        loop = asyncio.get_running_loop()
        if self._tls is not None:
            listening.listen(BACKLOG)
            self._accepting = loop.create_task(self._accept(listening, self._tls))
        else:
            self._server = await loop.create_server(
                lambda: ClientConnection(self._handler, self.clients),
                sock=listening,
                backlog=BACKLOG,
            )
        self._sweeper = loop.create_task(self._sweep())

    async def _accept(self, listening: socket.socket, tls: ServerTls) -> None:
        """Take the clients of *listening*, each with the certificate that holds then."""
        loop = asyncio.get_running_loop()
        with listening:
            while True:
                try:
                    accepted, _ = await loop.sock_accept(listening)
                except OSError:
                    # Out of descriptors, or the client has left already.
                    if not self.clients.shed_idle():
                        await self._clock.sleep(ACCEPT_AGAIN_S)
                    continue
                TlsHandshake(self._handler, self.clients).begin(accepted, tls.context)

    async def drain(self, timeout_s: float, *, linger_s: float = IN_TRANSIT_S) -> int:
        """Wait for what is under way; return how many requests did not end in *timeout_s*.

        The handler says already that it is draining.  New connections are taken for
        *linger_s* more:
        a client that has connected but was not accepted yet would be reset.
        """
        deadline_s = self._clock.now() + timeout_s
        await self._clock.sleep(min(linger_s, timeout_s))
        self._close_port()
        while self.clients and self._clock.now() < deadline_s:
            for client in list(self.clients):
                client.close_if_idle(self._clock.now())
            await self._clock.sleep(_DRAIN_LOOK_S)
        return self.in_flight

    def close(self) -> None:
        """Cut what is left."""
        self._close_port()
        if self._sweeper is not None:
            self._sweeper.cancel()
        for client in list(self.clients):
            client.abort()

    def _close_port(self) -> None:
        if self._server is not None:
            self._server.close()
        if self._accepting is not None:
            self._accepting.cancel()

    async def _sweep(self) -> None:
        while True:
            await self._clock.sleep(SWEEP_S)
            now_s = self._handler.now()
            for client in list(self.clients):
                client.check(now_s)
            self._also()


class TlsHandshake(asyncio.Protocol):
    """A connection whose client has not shown yet that it speaks TLS.

    It is among the clients like any other, so that it can be shed, and is closed at the end.
    """

    exchange: RelayedRequest | None = None
    busy = False
    requests = 0

    def __init__(self, handler: Handler, clients: ClientSet) -> None:
        self._handler = handler
        self._clients = clients
        self._task: asyncio.Task[None] | None = None
        self.idle_since_s = handler.now()

    def begin(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        """Shake hands on *accepted*."""
        clients = self._clients
        clients.add(self)
        if len(clients) > clients.most and not clients.shed_idle():
            clients.discard(self)
            accepted.close()
            return
        self._task = asyncio.get_running_loop().create_task(self._shake_hands(accepted, context))

    async def _shake_hands(self, accepted: socket.socket, context: ssl.SSLContext) -> None:
        try:
            await asyncio.get_running_loop().connect_accepted_socket(
                lambda: self, accepted, ssl=context, ssl_handshake_timeout=HANDSHAKE_S
            )
        # Whatever the client did wrong, or that it left.
        except (OSError, EOFError):
            pass
        finally:
            self._clients.discard(self)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """They are shaken: from here on it is a connection like others."""
        self._clients.discard(self)
        spoken = transport.get_extra_info("ssl_object").selected_alpn_protocol()
        make = self._clients.make_http2 if spoken == HTTP2 else None
        connection = (make or ClientConnection)(self._handler, self._clients)
        transport.set_protocol(connection)
        connection.connection_made(transport)

    def check(self, now_s: float) -> None:
        """The handshake has a limit of its own."""

    def close_if_idle(self, now_s: float) -> None:
        """Close what has not even said what it wants."""
        if now_s - self.idle_since_s > IN_TRANSIT_S:
            self.close()

    def close(self) -> None:
        """Give up."""
        if self._task is not None:
            self._task.cancel()

    abort = close


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
