"""One request and its answer on the way: what every exchange does, and the plain one."""

import asyncio

from servekit.errors.tree import EngineError, EngineTimeout, RequestInvalid, StreamCut
from servekit.relay.client_connection import Handler, Responder
from servekit.relay.engine_connection import EngineConnection
from servekit.relay.framing import ChunkedBody, Framing
from servekit.relay.heads import HttpRequestHead, HttpResponseHead, answer_head, request_head
from servekit.relay.responses import refusal
from servekit.relay.upstream_pool import UpstreamPool

# A long answer to a large request keeps no more than this of it in memory.
LARGE_BODY_BYTES = 64 * 1024


class RelayExchange:
    """The client's side of an exchange, and its hold on a connection to an engine.

    Attributes:
        chunks_received: how often something came from the engine (count).
    """

    __slots__ = (
        "_body",
        "_client",
        "_connecting",
        "_connection",
        "_decoder",
        "_head",
        "_out",
        "_resent",
        "_stays_open",
        "_write",
        "chunks_received",
    )

    def __init__(self, client: Responder, head: HttpRequestHead, body: bytes) -> None:
        self._client = client
        self._write = client.transport.write
        self._head = head
        self._body = body
        self._connecting: asyncio.Task[None] | None = None
        self._connection: EngineConnection | None = None
        self._decoder: ChunkedBody | None = None
        # Whether anything has been sent to the client.
        self._out = False
        # Whether it was sent again because a connection had been idle too long.
        self._resent = False
        self._stays_open = head.keep_alive
        self.chunks_received = 0

    @property
    def keep_alive(self) -> bool:
        """Whether the client may send another request."""
        return self._head.keep_alive

    @property
    def bodiless(self) -> bool:
        """Whether the answer has a head only."""
        return self._head.method == "HEAD"

    def client_sent(self, data: bytes) -> bool:
        """The next request waits for the answer to this one."""
        del data
        return False

    def pause(self) -> None:
        """The client does not keep up."""
        if self._connection is not None:
            self._connection.pause()

    def resume(self) -> None:
        """It does again."""
        if self._connection is not None:
            self._connection.resume()

    def _idle(self, upstream: UpstreamPool) -> EngineConnection | None:
        """Return a connection to send on at once, if there is one."""
        # What was idle as long as the last connection has gone the same way.
        return None if self._resent else upstream.idle()

    def _was_idle_too_long(self) -> bool:
        """Whether what broke was an idle connection that the engine had just closed.

        Once: a request that the engine dies of would otherwise go down every idle connection.
        """
        reused = self._connection is not None and self._connection.used
        self._connection = None
        if not reused or self._out or self._resent:
            return False
        self._resent = True
        return True

    def _begin_answer(
        self, head: HttpResponseHead, piece: bytes, *, draining: bool, own: bytes = b""
    ) -> None:
        """Write *head*, with *own* lines, and the first *piece* of the body."""
        self._out = True
        # Nothing is sent again from here on.  A small body is not worth the trouble.
        if len(self._body) > LARGE_BODY_BYTES:
            self._drop_body()
        closing = draining or not self._stays_open
        whole, closing = answer_head(head, old=self._head.old, closing=closing, own=own)
        self._stays_open = not closing
        if head.chunked and self._head.old:
            self._decoder = ChunkedBody(limit=1 << 62)
            self._write(whole)
            self._write_decoded(piece)
        else:
            self._write(whole + piece)

    def _drop_body(self) -> None:
        self._body = b""
        self._client.release_body()

    def _write_decoded(self, piece: bytes) -> None:
        """Write what *piece* holds, without its chunks.

        Raises:
            StreamCut: they are malformed.
        """
        assert self._decoder is not None
        try:
            self._decoder.feed(piece)
        except RequestInvalid as error:
            raise StreamCut("the answer's chunks are malformed") from error
        self._write(self._decoder.take())

    def _let_go(self) -> None:
        """Give up the connection, or the wait for one; the engine stops working on it."""
        if self._connecting is not None:
            self._connecting.cancel()
            self._connecting = None
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abandon()


class PassThrough(RelayExchange):
    """An exchange with the one engine there is: whatever it says is passed on as it comes."""

    __slots__ = ("_handler", "_upstream")

    def __init__(
        self,
        handler: Handler,
        upstream: UpstreamPool,
        client: Responder,
        head: HttpRequestHead,
        body: bytes,
    ) -> None:
        super().__init__(client, head, body)
        self._handler = handler
        self._upstream = upstream

    def start(self) -> None:
        """Send the request."""
        connection = self._idle(self._upstream)
        if connection is None:
            self._connecting = asyncio.get_running_loop().create_task(self._connect())
        else:
            self._send(connection)

    def abandon(self) -> None:
        """The client is gone: the engine must not work on it any longer."""
        self._let_go()

    def time_out(self) -> None:
        """The engine has been silent for too long."""
        limit_s = self._handler.limits.answer_timeout_s
        self._let_go()
        self._fail(
            EngineTimeout(f"upstream timed out after {limit_s:g} s without data; retry later")
        )

    async def _connect(self) -> None:
        try:
            connection = await self._upstream.connect()
        except EngineError as error:
            self._connecting = None
            self._fail(error)
            return
        self._connecting = None
        self._send(connection)

    def _send(self, connection: EngineConnection) -> None:
        self._connection = connection
        upstream = self._upstream
        head = request_head(self._head, upstream.path, upstream.authority, len(self._body))
        connection.send(head, self._body, self, bodiless=self.bodiless)

    # The engine's answer.

    def started(self, head: HttpResponseHead, piece: bytes, framing: Framing) -> None:
        del framing
        self.chunks_received += 1
        self._begin_answer(head, piece, draining=self._handler.draining)

    def more(self, piece: bytes, framing: Framing) -> None:
        del framing
        self.chunks_received += 1
        if self._decoder is not None:
            self._write_decoded(piece)
        else:
            self._write(piece)

    def ended(self) -> None:
        self._connection = None
        self._client.relayed(keep_alive=self._stays_open)

    def broke(self, error: EngineError) -> None:
        """Send it again where the connection had merely been idle too long; else say what broke."""
        if self._was_idle_too_long():
            self.start()
        else:
            self._fail(error)

    def _fail(self, error: EngineError) -> None:
        if self._out:
            self._client.cut()
        else:
            self._client.answer(refusal(error))
