"""The connections to one engine: a pool of those that are idle, and requests of our own."""

import asyncio
import errno
import os
from collections import deque
from collections.abc import Callable

from servekit.errors.tree import (
    EngineError,
    EngineTimeout,
    EngineUnreachable,
    ShortOfResources,
)
from servekit.relay.engine_connection import EngineConnection
from servekit.relay.framing import ChunkedBody, Framing
from servekit.relay.heads import HttpResponseHead, bearer
from servekit.relay.keepalive import enable_keepalive
from servekit.relay.tls import UpstreamTls
from servekit.wire.address import Address

# uvicorn, under vLLM, closes a connection that was idle for 5 s; one that is reused at that very
# moment would be reset through no fault of the request's.
IDLE_LIMIT_S = 4.0

# A request that the engine's machine has not taken by then counts as lost.
UNREAD_S = 25.0

# What a connection fails of through no fault of the engine.
_OWN_SHORTAGE = frozenset(
    [errno.EMFILE, errno.ENFILE, errno.EADDRNOTAVAIL, errno.ENOBUFS, errno.ENOMEM]
)


class UpstreamPool:
    """The connections to one engine."""

    def __init__(
        self,
        address: Address,
        connect_timeout_s: float,
        *,
        idle_limit_s: float = IDLE_LIMIT_S,
        key: str = "",
        make_room: Callable[[], int] = lambda: 0,
        tls: UpstreamTls | None = None,
    ) -> None:
        """*idle_limit_s*: for how long an idle connection may be reused; *key*: the engine's API
        key, if any; *make_room*: closes what it can where descriptors have run out, and says how
        much that was; *tls*: whom to trust where the engine speaks TLS."""
        self._make_room = make_room
        self.address = address
        # As each request's head has them.
        self.path, self.authority = address.path.encode(), address.authority.encode()
        self._authorization = bearer(key).decode("latin-1") if key else ""
        self._idle_limit_s = idle_limit_s
        self._connect_timeout_s = connect_timeout_s
        # The one used last is used first, so that those at the front have been idle longest.
        self._idle: deque[EngineConnection] = deque()
        self._tls = (tls or UpstreamTls()) if address.secure else None
        self._loop = asyncio.get_running_loop()
        self._closed = False

    def idle(self) -> EngineConnection | None:
        """Return a connection that can be used at once; None where there is none."""
        while self._idle:
            connection = self._idle.pop()
            idle_s = self._loop.time() - connection.idle_since_s
            if connection.open and idle_s < self._idle_limit_s:
                return connection
            connection.abandon()
        return None

    async def connect(self) -> EngineConnection:
        """Return a new connection.

        Raises:
            EngineUnreachable: the connection was refused or cannot be made.
            EngineTimeout: it was not connected in time.
            ShortOfResources: this process cannot open another connection.
        """
        try:
            return await self._connect()
        except ShortOfResources:
            if not self._make_room():
                raise
        # What was closed is gone after a turn of the loop.
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return await self._connect()

    async def _connect(self) -> EngineConnection:
        where = self.address
        tls = None if self._tls is None else self._tls.context(where.authority)
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                _, connection = await self._loop.create_connection(
                    lambda: EngineConnection(self._rest), where.host, where.port, ssl=tls
                )
            enable_keepalive(connection.transport.get_extra_info("socket"), UNREAD_S)
        except TimeoutError as error:
            raise EngineTimeout(
                f"{where.url} was not connected within {self._connect_timeout_s:g} s"
            ) from error
        except (OSError, UnicodeError) as error:
            if _is_own_shortage(error):
                raise ShortOfResources(
                    f"no connection to {where.url}: {error}; raise the limit of open files"
                ) from error
            raise EngineUnreachable(f"{where.url} cannot be connected: {error}") from error
        return connection

    async def fetch(self, path: str, timeout_s: float) -> tuple[int, bytes]:
        """Return status and body of a GET.

        Raises:
            EngineUnreachable, EngineTimeout, StreamCut: there was no whole answer.
        """
        return await self._ask_anywhere("GET", path, "", b"", timeout_s)

    async def post(self, path: str, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """Return status and body of the answer to JSON, which must do no harm if it comes twice.

        Raises:
            EngineUnreachable, EngineTimeout, StreamCut: there was no whole answer.
        """
        lines = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        return await self._ask_anywhere("POST", path, lines, body, timeout_s)

    async def _ask_anywhere(
        self, method: str, path: str, lines: str, body: bytes, timeout_s: float
    ) -> tuple[int, bytes]:
        """Ask on an idle connection where there is one."""
        connection = self.idle() or await self.connect()
        head = (
            f"{method} {self.address.path}{path} HTTP/1.1\r\nHost: {self.address.authority}\r\n"
            f"{lines}{self._authorization}\r\n"
        )
        return await self._ask_on(connection, head.encode("latin-1"), body, timeout_s)

    async def ask(self, head: bytes, body: bytes, timeout_s: float) -> tuple[int, bytes]:
        """Return status and body of the answer to a whole request.

        It is sent on a new connection: one that was idle too long would leave open whether the
        request has arrived.

        Raises:
            EngineUnreachable, EngineTimeout, StreamCut: there was no whole answer.
        """
        return await self._ask_on(await self.connect(), head, body, timeout_s)

    async def _ask_on(
        self, connection: EngineConnection, head: bytes, body: bytes, timeout_s: float
    ) -> tuple[int, bytes]:
        collected = _Collected(self._loop)
        try:
            async with asyncio.timeout(timeout_s):
                connection.send(head, body, collected)
                return await collected.answer
        except TimeoutError as error:
            raise EngineTimeout(
                f"{self.address.url} did not answer within {timeout_s:g} s"
            ) from error
        finally:
            if not collected.answer.done() or collected.answer.cancelled():
                connection.abandon()

    def close(self) -> None:
        """Close what is idle; exchanges that are under way end by themselves."""
        self._closed = True
        for connection in self._idle:
            connection.abandon()
        self._idle.clear()

    def _rest(self, connection: EngineConnection) -> None:
        if self._closed:
            connection.abandon()
            return
        idle = self._idle
        now_s = connection.idle_since_s = self._loop.time()
        idle.append(connection)
        # What a burst has left behind would otherwise be kept for the next one.
        while idle and now_s - idle[0].idle_since_s >= self._idle_limit_s:
            idle.popleft().abandon()


def _is_own_shortage(error: OSError | UnicodeError) -> bool:
    # Where a name has several addresses, the numbers of their errors are lost.
    return getattr(error, "errno", None) in _OWN_SHORTAGE or any(
        os.strerror(number) in str(error) for number in _OWN_SHORTAGE
    )


class _Collected:
    """A whole answer, for requests of our own."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.answer: asyncio.Future[tuple[int, bytes]] = loop.create_future()
        self._status = 0
        self._pieces: list[bytes] = []
        self._chunked = False

    def started(self, head: HttpResponseHead, piece: bytes, framing: Framing) -> None:
        del framing
        self._status = head.status
        self._chunked = head.chunked
        self._pieces.append(piece)

    def more(self, piece: bytes, framing: Framing) -> None:
        del framing
        self._pieces.append(piece)

    def ended(self) -> None:
        if self.answer.done():
            return
        body = b"".join(self._pieces)
        self.answer.set_result((self._status, _unchunked(body) if self._chunked else body))

    def broke(self, error: EngineError) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


def _unchunked(body: bytes) -> bytes:
    whole = ChunkedBody(limit=len(body))
    whole.feed(body)
    return whole.take()
