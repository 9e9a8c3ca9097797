"""One request on its way to the engine, as the front keeps account of it."""

from typing import Protocol

from servekit.errors.tree import EngineError
from servekit.relay.client_connection import Handler, Responder
from servekit.relay.exchange import PassThrough
from servekit.relay.framing import ChunkedFraming, Framing
from servekit.relay.heads import HttpRequestHead, HttpResponseHead
from servekit.relay.responses import last_chunk, refuse
from servekit.relay.upstream_pool import UpstreamPool
from servekit.wire.dialects import Dialect, error_event
from servekit.wire.routes import RouteTable

_ROUTES = RouteTable()


class ExchangeBook(Protocol):
    """Who is told what becomes of an exchange."""

    def began(self, exchange: "EngineExchange") -> None:
        """It is on its way."""

    def heard(self) -> None:
        """The engine's core has computed something."""

    def ended(self, exchange: "EngineExchange", *, abandoned: bool) -> None:
        """It is over; *abandoned* if its client left before anything was computed for it."""


class EngineExchange(PassThrough):
    """Passes everything on, and can be interrupted in words that the client understands."""

    __slots__ = ("_book", "_computed", "_framing", "_heard", "_is_stream", "_is_work")

    def __init__(
        self,
        handler: Handler,
        upstream: UpstreamPool,
        client: Responder,
        head: HttpRequestHead,
        body: bytes,
        *,
        book: ExchangeBook,
        is_work: bool,
    ) -> None:
        """*is_work* if only the engine's core can answer it."""
        super().__init__(handler, upstream, client, head, body)
        self._book = book
        self._is_work = is_work
        self._is_stream = False
        self._computed = False
        self._heard = False
        self._framing: Framing | None = None

    @property
    def is_work(self) -> bool:
        return self._is_work

    def start(self) -> None:
        self._book.began(self)
        super().start()

    def started(self, head: HttpResponseHead, piece: bytes, framing: Framing) -> None:
        self._framing = framing
        self._is_stream = head.is_event_stream and isinstance(framing, ChunkedFraming)
        super().started(head, piece, framing)
        # An error is the API server's own, and so is the head of a stream.
        self._computed = head.status < 300
        if piece:
            self._note()

    def more(self, piece: bytes, framing: Framing) -> None:
        self._framing = framing
        super().more(piece, framing)
        self._note()

    def _note(self) -> None:
        if self._is_work and self._computed:
            self._heard = True
            self._book.heard()

    def ended(self) -> None:
        self._book.ended(self, abandoned=False)
        super().ended()

    def abandon(self) -> None:
        self._book.ended(self, abandoned=self._is_work and not self._heard)
        super().abandon()

    def interrupt(self, message: str) -> None:
        """Tell the client *message*: by a last event of its stream, or as the whole answer."""
        self._book.ended(self, abandoned=False)
        self._let_go()
        route = _ROUTES.find(self._head.target)
        dialect = Dialect.UNKNOWN if route is None else route.dialect
        event = error_event(dialect, 502, message) if self._can_take_an_event else None
        if not self._out:
            self._client.answer(refuse(503, message).in_dialect(dialect))
        elif event is not None:
            self._client.cut(last_chunk(event), framed=True)
        else:
            self._client.cut()

    @property
    def _can_take_an_event(self) -> bool:
        # Within a chunk anything of ours would be taken for the engine's.
        framing = self._framing
        return (
            self._is_stream
            and self._decoder is None
            and isinstance(framing, ChunkedFraming)
            and not framing.unfinished
        )

    def _fail(self, error: EngineError) -> None:
        self._book.ended(self, abandoned=False)
        super()._fail(error)
