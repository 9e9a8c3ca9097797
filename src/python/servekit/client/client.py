"""A streaming client of the OpenAI API that measures, and never raises for an upstream's fault.

client = Client("http://127.0.0.1:8080", SystemClock())
outcome = await client.send("/v1/completions", body)
ttft_s = outcome.first_content_s - outcome.sent_s
"""

import asyncio
import ssl
from collections.abc import Mapping
from types import MappingProxyType

import msgspec

from servekit.client.answer import AnswerReading
from servekit.client.connection import Connection, Exchange
from servekit.client.outcome import Fault, Outcome
from servekit.client.reading import shorten
from servekit.timing.clock import Clock
from servekit.wire.address import read_address
from servekit.wire.openai import ChatRequest, CompletionRequest

# uvicorn, under vLLM, closes a connection that was idle for 5 s; one that is reused at that very
# moment would be reset through no fault of the upstream's.
IDLE_LIMIT_S = 3.0

# The seeds' load balancers give a request 300 s.
TIMEOUT_S = 300.0

COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"

_encode = msgspec.json.Encoder().encode


def _head_lines(authority: str, api_key: str, headers: Mapping[str, str]) -> str:
    """Return the lines that every request has; those of *headers* take the place of ours."""
    # A compressor on the way would hold tokens back until it has enough to compress.
    own = {"Host": authority, "Accept": "*/*", "Accept-Encoding": "identity"}
    if api_key:
        own["Authorization"] = f"Bearer {api_key}"
    given = {name.lower() for name in headers}
    lines = {k: v for k, v in own.items() if k.lower() not in given} | dict(headers)
    return "".join(f"{name}: {value}\r\n" for name, value in lines.items())


class Client:
    """A pool of connections to one upstream.

    Connections are made as they are needed, without a limit: how many requests are under way is
    for the load to decide, not for the client.
    """

    def __init__(
        self,
        url: str,
        clock: Clock,
        *,
        timeout_s: float = TIMEOUT_S,
        api_key: str = "",
        headers: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._address = read_address(url)
        self._clock = clock
        self._timeout_s = timeout_s
        self._headers = _head_lines(self._address.authority, api_key, headers)
        self._tls = ssl.create_default_context() if self._address.secure else None
        self._idle: list[Connection] = []
        self._busy: set[Connection] = set()

    async def complete(self, request: CompletionRequest) -> Outcome:
        """Send *request* to /v1/completions."""
        return await self.send(COMPLETIONS, _encode(request), stream=request.stream)

    async def chat(self, request: ChatRequest) -> Outcome:
        """Send *request* to /v1/chat/completions."""
        return await self.send(CHAT, _encode(request), stream=request.stream)

    async def send(
        self, path: str, body: bytes, *, stream: bool = True, keep_text: bool = False
    ) -> Outcome:
        """POST *body*, a request that asks for a stream or does not, and time its answer.

        With *keep_text*, the outcome has what was answered.  A cancelled request closes its
        connection, so that the upstream stops working on it.
        """
        sent_s = self._clock.now()
        reading = AnswerReading(stream, keep_text=keep_text)
        request = self._head("POST", path, len(body)) + body
        wrote_s = await self._exchange(request, reading.exchange)
        return reading.outcome(sent_s, wrote_s)

    async def get(self, path: str) -> tuple[int, bytes]:
        """Return status and body of a GET; status 0, and what went wrong, without an answer."""
        return await self._fetch("GET", path)

    async def post(self, path: str) -> tuple[int, bytes]:
        """The same for a POST without a body."""
        return await self._fetch("POST", path)

    async def _fetch(self, method: str, path: str) -> tuple[int, bytes]:
        pieces: list[bytes] = []

        def take(piece: bytes, _: float) -> bool:
            pieces.append(piece)
            return False

        exchange = Exchange(take)
        await self._exchange(self._head(method, path, 0), exchange)
        if exchange.fault is not None:
            return 0, f"{exchange.fault}: {exchange.detail}".encode()
        return exchange.status, b"".join(pieces)

    async def aclose(self) -> None:
        """Close every connection; requests that are under way end as cut."""
        for connection in [*self._idle, *self._busy]:
            connection.abandon(Fault.CUT, "the client was closed")
        self._idle.clear()
        # Aborted transports report their end on the next turns of the loop.
        await asyncio.sleep(0)

    def _head(self, method: str, path: str, length: int) -> bytes:
        is_typed = "\r\ncontent-type:" in self._headers.lower()
        kind = "" if is_typed else "Content-Type: application/json\r\n"
        kind += f"Content-Length: {length}\r\n"
        return (
            f"{method} {self._address.path}{path} HTTP/1.1\r\n{self._headers}"
            f"{kind if method == 'POST' else ''}\r\n"
        ).encode()

    async def _exchange(self, request: bytes, exchange: Exchange) -> float | None:
        """Fill *exchange*; return when the request was written, None if it never was."""
        deadline_s = self._clock.now() + self._timeout_s
        connection = await self._connect(exchange)
        if connection is None:
            return None
        self._busy.add(connection)
        timer = asyncio.get_running_loop().call_later(
            max(0.0, deadline_s - self._clock.now()),
            connection.abandon,
            Fault.TIMEOUT,
            f"not answered within {self._timeout_s:g} s",
        )
        try:
            wrote_s = connection.send(request, exchange)
            await exchange.finished
        except asyncio.CancelledError:
            connection.abandon(Fault.CUT, "cancelled")
            raise
        finally:
            timer.cancel()
            self._busy.discard(connection)
            if connection.reusable:
                self._idle.append(connection)
        return wrote_s

    async def _connect(self, exchange: Exchange) -> Connection | None:
        while self._idle:
            connection = self._idle.pop()
            if not connection.reusable:
                continue
            if self._clock.now() - connection.idle_since_s < IDLE_LIMIT_S:
                return connection
            connection.abandon(Fault.CUT, "idle for too long")
        try:
            return await self._open()
        except ConnectionRefusedError:
            exchange.fault, exchange.detail = Fault.REFUSED, "nothing listens there"
        except TimeoutError:
            exchange.fault = Fault.TIMEOUT
            exchange.detail = f"not connected within {self._timeout_s:g} s"
        except (OSError, UnicodeError) as error:
            exchange.fault, exchange.detail = Fault.UNREACHABLE, shorten(str(error))
        exchange.end_s = self._clock.now()
        return None

    async def _open(self) -> Connection:
        loop = asyncio.get_running_loop()
        where = self._address
        async with asyncio.timeout(self._timeout_s):
            _, connection = await loop.create_connection(
                lambda: Connection(self._clock.now), where.host, where.port, ssl=self._tls
            )
        return connection
