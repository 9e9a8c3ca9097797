"""A client of HTTP/2 made of the library h2, that can also misbehave."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from h2 import events
from h2.config import H2Configuration
from h2.connection import ConnectionState, H2Connection

BODY = b'{"model":"m","prompt":"x"}'


@dataclass
class Answered:
    """What came back on one stream.

    Attributes:
        ended: whether the answer is whole.
        reset: the error code with which the server reset the stream, if it did.
    """

    status: int = 0
    fields: dict[bytes, bytes] = field(default_factory=dict)
    body: bytes = b""
    ended: bool = False
    reset: int | None = None

    @property
    def over(self) -> bool:
        return self.ended or self.reset is not None


class Http2Client:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self.writer = reader, writer
        self.h2 = H2Connection(
            H2Configuration(
                client_side=True,
                header_encoding=None,
                validate_outbound_headers=False,
                normalize_outbound_headers=False,
            )
        )
        self.answers: dict[int, Answered] = {}
        self.goaway: int | None = None
        self.closed = False
        # Whether the server may send on when something was read.
        self.opens_window = True
        self.h2.initiate_connection()
        self.flush()

    def flush(self) -> None:
        self.writer.write(self.h2.data_to_send())

    def ask(
        self,
        body: bytes = BODY,
        *,
        path: bytes = b"/v1/completions",
        method: bytes = b"POST",
        more: tuple[tuple[bytes, bytes], ...] = (),
        end: bool = True,
    ) -> int:
        """Send a request; return its stream.  What a window does not take is left out."""
        stream = self.h2.get_next_available_stream_id()
        fields = [(b":method", method), (b":scheme", b"http"), (b":authority", b"x")]
        self.send_head(stream, [*fields, (b":path", path), *more], end=end and not body)
        if body:
            self.send(stream, body, end=end)
        self.flush()
        return stream

    def send_head(
        self, stream: int, fields: list[tuple[bytes, bytes]], *, end: bool = True
    ) -> None:
        self.answers[stream] = Answered()
        self.h2.send_headers(stream, fields, end_stream=end)

    def send(self, stream: int, body: bytes, *, end: bool) -> None:
        while body:
            piece, body = body[:16_000], body[16_000:]
            self.h2.send_data(stream, piece, end_stream=end and not body)
        self.flush()

    async def read(self) -> None:
        """Take what comes next."""
        data = await self._reader.read(1 << 16)
        if not data:
            self.closed = True
            return
        for event in self.h2.receive_data(data):
            self._take(event)
        if not self.closed:
            self.flush()

    def _take(self, event: events.Event) -> None:
        if isinstance(event, events.ConnectionTerminated):
            self.goaway = int(event.error_code or 0)
            # Answers to what was asked before still come.
            self.h2.state_machine.state = ConnectionState.CLIENT_OPEN
            return
        answer = self.answers.get(getattr(event, "stream_id", None) or 0)
        if answer is None:
            return
        if isinstance(event, events.ResponseReceived):
            answer.fields = {bytes(k): bytes(v) for k, v in event.headers}
            answer.status = int(answer.fields[b":status"])
        elif isinstance(event, events.DataReceived):
            answer.body += event.data
            if self.opens_window and event.flow_controlled_length:
                self.h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
        elif isinstance(event, events.StreamEnded):
            answer.ended = True
        elif isinstance(event, events.StreamReset):
            answer.reset = int(event.error_code)

    async def answered(self, *streams: int, wait_s: float = 20.0) -> list[Answered]:
        """Return what came back on *streams*, once they are over or the connection is."""
        async with asyncio.timeout(wait_s):
            while not self.closed and not all(self.answers[s].over for s in streams):
                await self.read()
        return [self.answers[s] for s in streams]

    async def read_until_closed(self, wait_s: float = 20.0) -> None:
        async with asyncio.timeout(wait_s):
            while not self.closed:
                await self.read()


@asynccontextmanager
async def http2_client(port: int) -> AsyncIterator[Http2Client]:
    """Give a client of the server on *port*, by prior knowledge."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        client = Http2Client(reader, writer)
        # The server's windows are known from here on.
        await client.read()
        yield client
    finally:
        writer.close()
