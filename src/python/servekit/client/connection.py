"""One HTTP/1.1 connection that stamps every piece of a body as the kernel hands it over.

It sits directly on the event loop, not on a client library: between the socket and the stamp
there is nothing to wait for, which is what the accuracy of a benchmark hangs on (docs/adr/0030).
"""

import asyncio
from collections.abc import Callable
from typing import cast

import httptools

from servekit.client.outcome import Fault

# A server that sent [DONE] closes the body at once; one that has not after this long never does,
# or holds its clients back.
LINGER_LIMIT_S = 5.0


class Exchange:
    """One request's answer, filled as it arrives.

    *on_piece* is given each piece of the body with its time, and says whether it was the last.

    Attributes:
        status: the HTTP status; 0 until it is known.
        fault: what broke the exchange itself, with `detail`; None while it is whole.
        end_s: when the last byte arrived, or the exchange broke.
    """

    def __init__(self, on_piece: Callable[[bytes, float], bool]) -> None:
        self.on_piece = on_piece
        self.lingering: asyncio.TimerHandle | None = None
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.fault: Fault | None = None
        self.detail = ""
        self.end_s = 0.0
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()


class Connection(asyncio.Protocol):
    """A connection that carries one exchange at a time.

    Attributes:
        idle_since_s: when the last exchange ended.
        reusable: whether another exchange may follow.
    """

    def __init__(self, now: Callable[[], float]) -> None:
        self._now = now
        self._transport: asyncio.Transport | None = None
        self._parser: httptools.HttpResponseParser | None = None
        self._exchange: Exchange | None = None
        self._read_at_s = 0.0
        self.idle_since_s = 0.0
        self.reusable = True

    def send(self, request: bytes, exchange: Exchange) -> float:
        """Write *request*; its answer goes to *exchange*.  Return when it was written."""
        assert self._transport is not None
        assert self._exchange is None
        self._exchange = exchange
        self._parser = httptools.HttpResponseParser(self)
        self._transport.write(request)
        return self._now()

    def abandon(self, fault: Fault, detail: str) -> None:
        """Close at once; an exchange that is under way ends with *fault*."""
        self.reusable = False
        self._end(fault, detail)
        if self._transport is not None:
            self._transport.abort()

    # What the event loop calls.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self._read_at_s = self._now()
        if self._parser is None:
            # Bytes that nobody asked for: whatever follows cannot be trusted.
            self.abandon(Fault.MALFORMED, "")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self.abandon(Fault.MALFORMED, f"not HTTP: {error}")

    def connection_lost(self, error: Exception | None) -> None:
        self.reusable = False
        exchange = self._exchange
        if exchange is None:
            return
        self._read_at_s = self._now()
        if error is None and exchange.status and _ends_with_connection(exchange.headers):
            self._end(None, "")
        else:
            fault = Fault.CUT if exchange.status else Fault.RESET
            self._end(fault, str(error) if error else "the connection was closed")

    # What the parser calls.

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._exchange is not None:
            self._exchange.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        if self._exchange is not None and self._parser is not None:
            self._exchange.status = self._parser.get_status_code()

    def on_body(self, body: bytes) -> None:
        exchange = self._exchange
        if exchange is None or not exchange.on_piece(body, self._read_at_s):
            return
        if exchange.lingering is None:
            exchange.lingering = asyncio.get_running_loop().call_later(
                LINGER_LIMIT_S,
                self.abandon,
                Fault.TIMEOUT,
                f"the body was not closed within {LINGER_LIMIT_S:g} s of [DONE]",
            )

    def on_message_complete(self) -> None:
        if self._parser is not None and self._exchange is not None:
            if 100 <= self._exchange.status < 200:
                return
            self.reusable = self.reusable and self._parser.should_keep_alive()
            self._end(None, "")

    def _end(self, fault: Fault | None, detail: str) -> None:
        exchange, self._exchange, self._parser = self._exchange, None, None
        self.idle_since_s = self._now()
        if exchange is None or exchange.finished.done():
            return
        if exchange.lingering is not None:
            exchange.lingering.cancel()
        exchange.fault = fault
        exchange.detail = detail
        exchange.end_s = self._read_at_s if fault is None else self.idle_since_s
        exchange.finished.set_result(None)


def _ends_with_connection(headers: dict[bytes, bytes]) -> bool:
    return b"content-length" not in headers and b"transfer-encoding" not in headers
